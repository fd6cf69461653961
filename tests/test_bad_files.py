"""Whatever is wrong with a file: one clear message, exit code 2, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lorax.checkpoint import open_checkpoint
from lorax.cli import main
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.inspection import inspect
from lorax.options import Options
from lorax.transfer import plan, run
from tests import builders
from tests.conftest import Files

State = builders.State


@pytest.fixture
def refused(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a transfer that must be refused; return what it says."""

    def transfer(lora: Path | None = None, source: Path | None = None, target: Path | None = None, *more: str) -> str:
        before = _listing(files.folder, out.parent)
        bases = ["--source", str(source or files.base), "--target", str(target or files.target)]
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            code = main(["transfer", str(lora or files.lora), *bases, "--output", str(out / "moved.safetensors"), *more])
        captured = capsys.readouterr()
        assert warned == []
        assert code == 2
        assert captured.out == ""
        assert captured.err.count("error: ") == 1
        assert captured.err.startswith("error: ")
        assert "Traceback" not in captured.err
        assert _listing(files.folder, out.parent) == before
        return captured.err

    return transfer


def _listing(*folders: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def raw(header: dict[str, Any] | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


# --- damaged containers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["lora", "source", "target"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated(files: Files, tmp_path: Path, refused: Callable[..., str], role: str, share: float) -> None:
    whole = (files.lora if role == "lora" else files.base).read_bytes()
    cut = write(tmp_path / "cut.safetensors", whole[: int(share * len(whole))])
    message = refused(**{role: cut})
    assert "cut.safetensors: not a whole safetensors file" in message
    assert "truncated" in message


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 1000) + b"{}",
        struct.pack("<Q", 1) + b"{}",
        raw(b"not json"),
        raw(b"\xff\xfe\x00"),
        raw(b"[]"),
        raw({"a.lora_up.weight": {"dtype": "F16", "shape": [10**9, 10**9], "data_offsets": [0, 2 * 10**18]}}),
        raw({"a.lora_up.weight": {"dtype": "F16", "shape": [2**63, 2**63], "data_offsets": [0, 8]}}, b"12345678"),
        raw({"a.lora_up.weight": {"dtype": "F16", "shape": [-4], "data_offsets": [0, 8]}}, b"12345678"),
        raw({"a.lora_up.weight": {"dtype": "F99", "shape": [4], "data_offsets": [0, 8]}}, b"12345678"),
        raw({"a.lora_up.weight": {"dtype": "F16", "shape": [4], "data_offsets": [8, 0]}}, b"12345678"),
        b"<!DOCTYPE html><html>Access denied: log in to download this model.</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2000000\n",
    ],
)
def test_wrong_headers(tmp_path: Path, refused: Callable[..., str], content: bytes) -> None:
    broken = write(tmp_path / "broken.safetensors", content)
    for role in ("lora", "source", "target"):
        assert "broken.safetensors: not a whole safetensors file" in refused(**{role: broken})


def test_empty_header(tmp_path: Path, refused: Callable[..., str]) -> None:
    empty = write(tmp_path / "empty.safetensors", raw({}))
    assert "holds no tensors" in refused(lora=empty)
    assert "not a Stable Diffusion checkpoint" in refused(source=empty)


# --- adapters whose content is wrong -----------------------------------------------------------------------------------------

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def without_up(state: State) -> None:
    del state[f"{NAME}.lora_up.weight"]


def without_down(state: State) -> None:
    del state[f"{NAME}.lora_down.weight"]


def ranks_disagree(state: State) -> None:
    state[f"{NAME}.lora_up.weight"] = torch.randn(32, 3)


def no_rank(state: State) -> None:
    state[f"{NAME}.lora_up.weight"], state[f"{NAME}.lora_down.weight"] = torch.randn(32, 0), torch.randn(0, 32)


def a_vector(state: State) -> None:
    state[f"{NAME}.lora_down.weight"] = torch.randn(4)


def up_with_a_kernel(state: State) -> None:
    state[f"{NAME}.lora_up.weight"] = torch.randn(32, 4, 3, 3)


def nan_in_up(state: State) -> None:
    state[f"{NAME}.lora_up.weight"][3, 1] = float("nan")


def infinite_down(state: State) -> None:
    state[f"{NAME}.lora_down.weight"][1, 2] = float("inf")


def nan_alpha(state: State) -> None:
    state[f"{NAME}.alpha"] = torch.tensor(float("nan"))


def two_alphas(state: State) -> None:
    state[f"{NAME}.alpha"] = torch.tensor([1.0, 2.0])


def flat_mid(state: State) -> None:
    state[f"{NAME}.lora_mid.weight"] = torch.randn(4, 4)


def mid_with_a_second_kernel(state: State) -> None:
    state[f"{NAME}.lora_mid.weight"] = torch.randn(4, 4, 3, 3)
    state[f"{NAME}.lora_down.weight"] = torch.randn(4, 32, 3, 3)


def mid_of_other_rank(state: State) -> None:
    state[f"{NAME}.lora_mid.weight"] = torch.randn(5, 4, 3, 3)


def only_alpha(state: State) -> None:
    state["lora_unet_mid_block_attentions_0_proj_in.alpha"] = torch.tensor(1.0)


def loha(state: State) -> None:
    state["lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"] = torch.randn(4, 4)


def dora(state: State) -> None:
    state[f"{NAME}.dora_scale"] = torch.randn(1, 32)


def glora(state: State) -> None:
    for part in ("a1", "a2", "b1", "b2"):
        state[f"lora_unet_mid_block_attentions_0_proj_in.{part}.weight"] = torch.randn(4, 4)


def norm(state: State) -> None:
    state["lora_unet_mid_block_resnets_0_norm1.w_norm"] = torch.randn(32)


def norm_bias(state: State) -> None:
    state["lora_unet_mid_block_resnets_0_norm1.b_norm"] = torch.randn(32)


def full(state: State) -> None:
    state["lora_unet_mid_block_attentions_0_proj_in.diff"] = torch.randn(4, 4)


def full_bias(state: State) -> None:
    state["lora_unet_mid_block_attentions_0_proj_in.diff_b"] = torch.randn(4)


def ia3(state: State) -> None:
    """Its first key, as the file has them sorted, does not tell what it is."""
    state["a.weight"], state["a_b.on_input"] = torch.randn(4), torch.tensor(1)


def something_else(state: State) -> None:
    state["emb_params"] = torch.randn(4, 64)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (without_up, "up factor is missing"),
        (without_down, "down factor is missing"),
        (ranks_disagree, "ranks disagree"),
        (no_rank, "rank"),
        (a_vector, "down factor has shape (4,)"),
        (up_with_a_kernel, "up"),
        (nan_in_up, "up part holds NaN"),
        (infinite_down, "down part holds NaN or infinite"),
        (nan_alpha, "alpha part holds NaN"),
        (two_alphas, "alpha"),
        (flat_mid, "mid"),
        (mid_with_a_second_kernel, "mid"),
        (mid_of_other_rank, "ranks disagree"),
        (only_alpha, "up factor is missing"),
        (loha, "LoHa"),
        (dora, "DoRA"),
        (glora, "belongs to a GLoRA adapter"),
        (norm, "belongs to a norm adapter"),
        (norm_bias, "belongs to a norm adapter"),
        (full, "belongs to a full adapter"),
        (full_bias, "belongs to a full adapter"),
        (ia3, "belongs to a (IA)^3 adapter"),
        (something_else, "unexpected key emb_params"),
    ],
)
def test_wrong_adapters(
    files: Files, tmp_path: Path, refused: Callable[..., str], damage: Callable[[State], None], expected: str
) -> None:
    state = load_file(files.lora)
    damage(state)
    save_file(state, tmp_path / "bad.safetensors")
    message = refused(lora=tmp_path / "bad.safetensors")
    assert "bad.safetensors" in message
    assert expected in message


def test_peft_configuration_that_is_no_json(files: Files, tmp_path: Path, refused: Callable[..., str]) -> None:
    folder = tmp_path / "peft"
    folder.mkdir()
    assert "no adapter in this folder" in refused(lora=folder)
    builders.save_lora(folder / "adapter_model.safetensors", files.deltas, "peft")
    for content in (b"{", b"[]", b"\xff\xfe\x00"):
        (folder / "adapter_config.json").write_bytes(content)
        assert "adapter_config.json" in refused(lora=folder)
    for alpha in (b'"many"', b"null"):
        (folder / "adapter_config.json").write_bytes(b'{"lora_alpha": ' + alpha + b"}")
        assert "expected a number" in refused(lora=folder)


# --- the wrong file in the wrong place ---------------------------------------------------------------------------------------


def test_checkpoint_as_lora(files: Files, refused: Callable[..., str]) -> None:
    assert "a base checkpoint, not a LoRA" in refused(lora=files.target)


def test_lora_as_base(files: Files, refused: Callable[..., str]) -> None:
    assert "an adapter; expected a base checkpoint" in refused(source=files.lora)
    assert "an adapter; expected a base checkpoint" in refused(target=files.lora)


def test_sdxl_lora_with_an_sd1_base(tmp_path: Path, refused: Callable[..., str]) -> None:
    state: State = {}
    for name in ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q", "lora_te2_text_model_encoder_layers_0_mlp_fc1"):
        state |= {f"{name}.lora_up.weight": torch.randn(64, 4), f"{name}.lora_down.weight": torch.randn(4, 64)}
    save_file(state, tmp_path / "xl.safetensors")
    message = refused(lora=tmp_path / "xl.safetensors")
    assert "made for Stable Diffusion XL" in message
    assert "is Stable Diffusion 1.x" in message


def test_sdxl_base(files: Files, tmp_path: Path, refused: Callable[..., str]) -> None:
    attention = f"{builders.UNET}input_blocks.4.1"
    keys = (f"{attention}.proj_in.weight", f"{attention}.transformer_blocks.1.attn1.to_q.weight")
    save_file({key: torch.randn(8, 8) for key in keys}, tmp_path / "xl.safetensors")
    assert "Stable Diffusion XL, which is not supported yet" in refused(target=tmp_path / "xl.safetensors")


def test_lora_of_another_width(tmp_path: Path, refused: Callable[..., str]) -> None:
    wide = builders.save_lora(tmp_path / "wide.safetensors", builders.deltas(size=builders.WIDER))
    message = refused(lora=wide)
    assert "changes a weight of shape" in message
    assert "Choose as source the base that the adapter was trained on" in message


def test_lora_of_which_no_layer_exists(tmp_path: Path, refused: Callable[..., str]) -> None:
    state = {"lora_unet_nowhere.lora_up.weight": torch.randn(4, 4), "lora_unet_nowhere.lora_down.weight": torch.randn(4, 4)}
    save_file(state, tmp_path / "odd.safetensors")
    assert "made for another kind of base" in refused(lora=tmp_path / "odd.safetensors")


def test_missing_files_and_folders(files: Files, tmp_path: Path, refused: Callable[..., str]) -> None:
    gone = tmp_path / "gone"
    for role in ("lora", "source", "target"):
        assert "gone: no such file" in refused(**{role: gone})
    assert "not a diffusers folder" in refused(target=files.folder)
    assert "expected a .safetensors" in refused(target=write(tmp_path / "notes.txt", b"hello"))
    assert "its folder does not exist" in refused(None, None, None, "--output", str(gone / "x.safetensors"))
    assert str(gone) in refused(None, None, None, "--report", str(gone / "report.json"))


def test_existing_output_is_kept(files: Files, out: Path, refused: Callable[..., str]) -> None:
    kept = write(out / "moved.safetensors", b"precious")
    assert "exists already" in refused()
    assert kept.read_bytes() == b"precious"


def test_wrong_settings(refused: Callable[..., str]) -> None:
    for setting in ("--rank many", "--threshold 2", "--threshold nan", "--max-rank 0", "--device tpu"):
        assert setting.split()[1] in refused(None, None, None, *setting.split())


# --- damaged bases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_base(files: Files, tmp_path: Path, refused: Callable[..., str], value: float) -> None:
    key = builders.UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    state = files.base_state | {key: files.base_state[key].clone()}
    state[key][2, 2] = value
    bad = builders.save(state, tmp_path / "bad.safetensors")
    for role in ("source", "target"):
        message = refused(**{role: bad})
        assert f"{key} holds NaN or infinite values" in message
    pairing = ("--pairing", "weights", "--method", "copy")
    assert f"{key} holds NaN or infinite values" in refused(None, bad, files.pruned, *pairing)
    assert f"{key} holds NaN or infinite values" in refused(None, files.base, bad, *pairing)


class Payload:
    """Pickled, it is a call to os.system, which unpickling without care would run."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("role", ["lora", "source", "target"])
@pytest.mark.parametrize("container", ["zip", "legacy", "plain pickle"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, refused: Callable[..., str], role: str, container: str) -> None:
    proof, bad = tmp_path / "it-ran", tmp_path / "bad.ckpt"
    content = {"state_dict": {f"{builders.UNET}out.2.weight": torch.ones(4)}, "payload": Payload(f"touch {proof}")}
    if container == "plain pickle":
        bad.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, bad, _use_new_zipfile_serialization=container == "zip")
    message = refused(**{role: bad})
    assert "bad.ckpt: refused" in message
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04 not a zip", b"hello", pickle.dumps({}), pickle.dumps([1])])
def test_pickles_of_nothing(tmp_path: Path, refused: Callable[..., str], content: bytes) -> None:
    bad = write(tmp_path / "bad.ckpt", content)
    for role in ("lora", "source"):
        assert "bad.ckpt: " in refused(**{role: bad})


def test_pickle_with_keys_that_are_no_names(tmp_path: Path, refused: Callable[..., str]) -> None:
    torch.save({0: torch.ones(2), 1: torch.ones(3)}, tmp_path / "bad.ckpt")
    assert "bad.ckpt: holds no tensors" in refused(lora=tmp_path / "bad.ckpt")


# --- anything else: random damage --------------------------------------------------------------------------------------------

fuzzing = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def survives(work: Callable[[], object]) -> None:
    """A LoraxError or success, never anything else."""
    with contextlib.suppress(LoraxError):
        work()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small LoRA with a linear layer, a convolution and a Tucker layer."""
    folder = tmp_path_factory.mktemp("small")
    layers = [
        *builders.deltas([builders.SOME[0], builders.CONVOLUTIONS[0]], rank=2),
        *builders.deltas([builders.CONVOLUTIONS[1]], rank=2, mid=True),
    ]
    return builders.save_lora(folder / "small.safetensors", layers, metadata={"ss_network_dim": "2"})


def move(files: Files, lora: Path, source: Path | None = None) -> None:
    base = open_checkpoint(source or files.base)
    run(plan(open_adapter(lora), base, open_checkpoint(files.target), Options(method="copy")))


@fuzzing
@given(
    flips=st.dictionaries(st.integers(0, 2000), st.integers(1, 255), min_size=1, max_size=4), keep=st.just(1.0) | st.floats(0, 1)
)
def test_flipped_bytes_in_a_lora(files: Files, small: Path, tmp_path: Path, flips: dict[int, int], keep: float) -> None:
    content = bytearray(small.read_bytes())
    for position, mask in flips.items():
        content[position % len(content)] ^= mask
    damaged = write(tmp_path / "damaged.safetensors", bytes(content[: int(keep * len(content))]))
    survives(lambda: move(files, damaged))
    survives(lambda: inspect(damaged))


def rewritten(path: Path, chance: random.Random) -> bytes:
    """The file with valid JSON in its header, of which some entries say something else."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    keys = [key for key in header if key != "__metadata__"]
    for _ in range(chance.randint(1, 3)):
        key = chance.choice([key for key in keys if key in header])
        entry = header[key]
        damage, shape = chance.randrange(6), entry["shape"]
        if damage == 0:
            entry["dtype"] = chance.choice(["F16", "F32", "BF16", "F64", "I8", "I32", "BOOL", "F8_E4M3", "U16", "C64", "F4"])
        elif damage == 1:
            chance.shuffle(shape)
        elif damage == 2:
            entry["shape"] = chance.choice([[1, *shape], [*shape, 1], shape[1:], [*shape, 1, 1]])
        elif damage == 3:
            other = chance.choice(
                ["", "x", ".weight", "lora_up.weight", ".alpha", key[:-7], f"{key}.weight", key.replace("0", "9")]
            )
            header[other] = header.pop(key)
        elif damage == 4:
            other = chance.choice([key for key in keys if key in header])
            header[key], header[other] = header[other], header[key]
        else:
            entry["data_offsets"] = [offset + chance.choice([-8, 0, 4]) for offset in entry["data_offsets"]]
    return raw(header, content[8 + length :])


@fuzzing
@given(seed=st.integers(0, 2**32))
def test_header_of_a_lora_that_says_something_else(files: Files, small: Path, tmp_path: Path, seed: int) -> None:
    damaged = write(tmp_path / "damaged.safetensors", rewritten(small, random.Random(seed)))
    survives(lambda: move(files, damaged))
    survives(lambda: inspect(damaged))


@settings(fuzzing, max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_header_of_a_base_that_says_something_else(files: Files, small: Path, tmp_path: Path, seed: int) -> None:
    damaged = write(tmp_path / "damaged.safetensors", rewritten(files.base, random.Random(seed)))
    survives(lambda: move(files, small, damaged))
    survives(lambda: inspect(damaged))


@settings(fuzzing, max_examples=40)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 3))
def test_flipped_bytes_in_the_header_of_a_base(files: Files, small: Path, tmp_path: Path, seed: int, flips: int) -> None:
    chance, content = random.Random(seed), bytearray(files.base.read_bytes())
    length = struct.unpack("<Q", content[:8])[0]
    for _ in range(flips):
        content[chance.randrange(8 + length)] ^= chance.randint(1, 255)
    damaged = write(tmp_path / "damaged.safetensors", bytes(content))
    survives(lambda: move(files, small, damaged))
    survives(lambda: inspect(damaged))


@pytest.mark.parametrize("path", ["x", "diffusion.x", "output_blocks.1", "control.0.0"])
def test_a_base_with_layers_that_no_unet_has(files: Files, tmp_path: Path, path: str) -> None:
    """Merges carry along what other tools have put in. It is no adapter's business, and no reason to fail."""
    state = files.base_state | {f"{builders.UNET}{path}.weight": torch.randn(4, 4)}
    more = builders.save(state, tmp_path / "more.safetensors")
    move(files, files.lora, more)
    assert inspect(more)["layers"]["unet"] == inspect(files.base)["layers"]["unet"]
