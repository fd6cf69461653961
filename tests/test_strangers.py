"""Files that strangers may have made on purpose: a sentence that names the file, in bounded time and memory, for every one."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.checkpoint import config_of, open_checkpoint
from lorax.errors import LoraxError
from lorax.files import texts
from lorax.formats import open_adapter, sidecars, small
from lorax.inspection import inspect
from tests import builders
from tests.builders import UNET
from tests.samples import Files, raw, transfer, write

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
MIDDLE = "lora_unet_mid_block_attentions_0_proj_in"
DEEP = '{"a":' * 100_000
LORAX_HEADER = {
    "lorax_format": "1",
    "lorax_family": "sd1",
    "lorax_source_model": "b",
    "lorax_source_model_hash": "0",
    "lorax_source_fingerprint": "0",
    "lorax_method": "auto",
}
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def is_quick() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < 10


def peft(folder: Path, files: Files, config: str) -> Path:
    folder.mkdir()
    builders.save_lora(folder / "adapter_model.safetensors", builders.deltas(alpha=None), "peft")
    (folder / "adapter_config.json").write_text(config)
    return folder


def changed(files: Files, path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file(load_file(files.lora) | tensors, path, metadata)
    return path


# --- patterns ----------------------------------------------------------------------------------------------------------------


def test_a_pattern_that_never_ends_for_a_regex_engine(files: Files, tmp_path: Path) -> None:
    config = json.dumps({"lora_alpha": 4, "alpha_pattern": {"((.+)+)+!": 1, "(a|a)*b": 2, "(.*a)" * 20: 3}})
    adapter = open_adapter(peft(tmp_path / "peft", files, config))
    assert {adapter.delta(name).scale for name in adapter.layers} == {1.0}


@pytest.mark.parametrize(
    "pattern", ["a{99999999999}", "(?=a)", r"\bq", "(" * 100 + ")" * 100, "[a", "x" * 501 + "*", r"(a)\1", "a**", "*"]
)
def test_a_pattern_that_is_not_understood(files: Files, tmp_path: Path, refused: Refused, pattern: str) -> None:
    message = refused(peft(tmp_path / "peft", files, json.dumps({"lora_alpha": 4, "alpha_pattern": {pattern: 1}})))
    assert "adapter_model.safetensors: its configuration's alpha_pattern" in message
    assert "expected module names, ., " in message


def test_many_patterns(files: Files, tmp_path: Path, refused: Refused) -> None:
    """A table with a name for each of many layers is quick, and one without end is refused."""
    names = {f"^down_blocks.{number}.attentions.0.proj_in": 1 for number in range(19_000)}
    names |= {f"{path}$": 2 for path in builders.SOME}
    adapter = open_adapter(peft(tmp_path / "many", files, json.dumps({"lora_alpha": 4, "alpha_pattern": names})))
    scales = sorted(adapter.delta(name).scale for name in adapter.layers)
    assert scales == [0.25] + [0.5] * (len(builders.SOME) - 1) + [1.0] * len(builders.TEXT)
    more = {f"{number}.*": 1 for number in range(3000)}
    assert "or of more than 5000 together" in refused(
        peft(tmp_path / "more", files, json.dumps({"lora_alpha": 4, "alpha_pattern": more}))
    )


# --- side files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [DEEP, "[" * 100_000, "1" * 6000, '{"a": 1}' + " " * texts.MOST_JSON, "\ufffe"])
def test_json_that_is_deep_or_large(files: Files, tmp_path: Path, refused: Refused, content: str) -> None:
    assert "adapter_config.json: cannot be read as a PEFT configuration" in refused(peft(tmp_path / "peft", files, content))
    inside = changed(files, tmp_path / "inside.safetensors", {}, {"lora_adapter_metadata": content})
    assert "inside.safetensors: cannot be read as a PEFT configuration" in refused(inside)
    folder = builders.save_folder(files.base_state, tmp_path / "folder")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(content)
    assert f"{index}: cannot be read as an index of weight files" in refused(None, folder)


def test_deep_settings_of_a_lorax_file(files: Files, tmp_path: Path, refused: Refused) -> None:
    metadata = LORAX_HEADER | {"lorax_settings": DEEP}
    assert "deep.safetensors: cannot be read as lorax_settings" in refused(
        changed(files, tmp_path / "deep.safetensors", {}, metadata)
    )


def test_cards_that_are_deep_or_large_are_ignored(files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lora = changed(files, tmp_path / "style.safetensors", {})
    lora.with_suffix(".json").write_text(DEEP)
    lora.with_suffix(".civitai.info").write_text('{"baseModel": "SD 1.5"}' + " " * texts.MOST_JSON)
    assert sidecars.read(lora) == sidecars.Hints()
    assert "style.json: cannot be read as a card" in caplog.text
    assert "it is larger than" in caplog.text


@pytest.mark.parametrize("depth", [100, 700, 940])
def test_a_card_that_can_be_read_and_not_written_does_not_hold_up_a_move(
    files: Files, tmp_path: Path, out: Path, depth: int
) -> None:
    lora = changed(files, tmp_path / "style.safetensors", {})
    lora.with_suffix(".json").write_text(
        json.dumps({"activation text": "origami"})[:-1] + ', "description": ' + "[" * depth + "]" * depth + "}"
    )
    written = transfer(lora, files.base, files.target, out, "--method", "copy")
    assert "style, moved from base to target" in json.loads(written.with_suffix(".json").read_text())["description"]


YAML = "model: {{params: {{image_size: {}, unet_config: {{params: {{num_heads: 4}}}}}}}}\n"
BOMB = "a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(9))


@pytest.mark.parametrize(
    "content", [YAML.format(".inf"), YAML.format("9" * 400), YAML.format("-8"), "[" * 50_000, BOMB, "#" * 50_000_000, "a: *a"]
)
def test_yaml_that_is_odd(files: Files, tmp_path: Path, content: str) -> None:
    base = builders.save(files.base_state, tmp_path / "base.safetensors")
    base.with_suffix(".yaml").write_text(content)
    opened = open_checkpoint(base)
    assert opened.prediction is None
    assert inspect(base)["prediction"] == "not told by the file"
    with pytest.raises(LoraxError, match=r"base\.yaml: "):
        config_of(opened.unet_file, "sd1")


def test_a_scheduler_that_is_deep_tells_nothing(files: Files, tmp_path: Path) -> None:
    folder = builders.save_folder(files.base_state, tmp_path / "folder")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(DEEP)
    assert open_checkpoint(folder).prediction is None


@pytest.mark.parametrize("name", ["x" * 300 + ".safetensors", "a\0b", 7])
def test_an_index_that_names_what_no_file_is_called(files: Files, tmp_path: Path, refused: Refused, name: object) -> None:
    folder = builders.save_folder(files.base_state, tmp_path / "folder")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
    assert index.name in refused(None, folder)


# --- tensors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "tensor", "words"),
    [
        (f"{MIDDLE}.oft_blocks", torch.tensor(1.0), "the shapes disagree: oft_blocks ()"),
        (f"{NAME}.lora_mid.weight", torch.tensor(1.0), "the mid factor has shape (); expected 4 dimensions"),
        (f"{NAME}.dora_scale", torch.zeros(0), "dora_scale has the shape (0,) and no values"),
        (f"{NAME}.lora_mid.weight", torch.zeros(0, 4, 3, 3), "mid has the shape (0, 4, 3, 3) and no values"),
        (f"{MIDDLE}.ia3_l", torch.zeros(0, 1), "ia3_l has the shape (0, 1) and no values"),
        (f"{MIDDLE}.oft_blocks", torch.zeros(5, 12, 8, 8), "k a multiple of 2^(steps - 1)"),
        (f"{MIDDLE}.oft_blocks", torch.zeros(70, 12, 8, 8), "k a multiple of 2^(steps - 1)"),
        (f"{NAME}.lora_up.weight", torch.ones(32, 4, dtype=torch.complex64), f"{NAME}.lora_up.weight holds complex numbers"),
        (
            f"{MIDDLE}.diff",
            torch.ones(1 << 14, (1 << 12) + 1, dtype=torch.int8),
            "changes a weight of shape (16384, 4097), but no",
        ),
    ],
)
def test_tensors_of_odd_shapes(
    files: Files, tmp_path: Path, refused: Refused, key: str, tensor: torch.Tensor, words: str
) -> None:
    try:
        odd = changed(files, tmp_path / "odd.safetensors", {key: tensor})
    except KeyError:
        pytest.skip(f"this version of safetensors writes no {tensor.dtype}")
    message = refused(odd, None, None, "--method", "copy")
    assert f"odd.safetensors: {key.partition('.')[0]}" in message
    assert words in message


def test_a_few_kilobytes_of_lokr_that_ask_for_terabytes(files: Files, tmp_path: Path, refused: Refused) -> None:
    parts = {f"lora_unet_nowhere.lokr_w{number}": torch.ones(2000, 2000, dtype=torch.int8) for number in (1, 2)}
    assert "lora_unet_nowhere: changes a weight of shape (4000000, 4000000)" in refused(
        changed(files, tmp_path / "a.safetensors", parts)
    )


@pytest.mark.parametrize(("dtype", "size"), [("F4", 64), ("F6_E2M3", 96), ("NEW", 64)])
def test_types_that_are_not_known(files: Files, tmp_path: Path, refused: Refused, dtype: str, size: int) -> None:
    entries = {
        f"{MIDDLE}.lora_up.weight": {"dtype": dtype, "shape": [128, 1], "data_offsets": [0, size]},
        f"{MIDDLE}.lora_down.weight": {"dtype": "F32", "shape": [1, 96], "data_offsets": [size, size + 384]},
    }
    odd = write(tmp_path / "odd.safetensors", raw(entries, bytes(size + 384)))
    assert "odd.safetensors: " in refused(odd, None, None, "--method", "copy")


@pytest.mark.parametrize(("dtype", "bits"), [("F4", 4), ("F6_E2M3", 6)])
def test_a_base_of_types_that_are_not_known(files: Files, tmp_path: Path, refused: Refused, dtype: str, bits: int) -> None:
    key = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    content = files.base.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:start]), content[start:]
    begin, end = header[key]["data_offsets"]
    size = math.prod(header[key]["shape"]) * bits // 8
    for entry in header.values():
        entry["data_offsets"] = [at - (end - begin - size) if at >= end else at for at in entry["data_offsets"]]
    header[key] |= {"dtype": dtype, "data_offsets": [begin, begin + size]}
    odd = write(tmp_path / "odd.safetensors", raw(header, body[:begin] + bytes(size) + body[end:]))
    for method in ("copy", "auto"):
        assert f"odd.safetensors: {key}" in refused(None, odd, None, "--method", method)


def test_a_core_of_zeros_beside_probes_that_are_not(files: Files, tmp_path: Path) -> None:
    metadata = LORAX_HEADER | {"lorax_settings": "{}", "lorax_core": "diagonal"}
    parts = {f"{NAME}.lorax_core": torch.zeros(2), f"{NAME}.lorax_probe": torch.ones(small.PROBES)}
    save_file(parts, tmp_path / "a.safetensors", metadata)
    with pytest.raises(LoraxError, match=rf"a\.safetensors: {NAME}: the core is zero"):
        open_adapter(tmp_path / "a.safetensors").delta(NAME, open_checkpoint(files.base))


def test_bundled_embeddings_that_are_views(files: Files, tmp_path: Path, out: Path) -> None:
    whole = torch.randn(4, 64)
    views = {"bundle_emb.a.emb_params": whole[:2], "bundle_emb.b.emb_params": whole[1:], "bundle_emb.c.emb_params": whole.mT}
    torch.save(load_file(files.lora) | views, tmp_path / "style.pt")
    written = load_file(transfer(tmp_path / "style.pt", files.base, files.target, out, "--method", "copy"))
    assert all(torch.equal(written[key], view) for key, view in views.items())


def test_a_base_that_lacks_keys_does_not_strike_auto(files: Files, tmp_path: Path, out: Path, capsys: Any) -> None:
    """``auto`` declines strangers and estimates what others would take, for which it looks at every attention."""
    from lorax.cli import EXIT_DECLINED, main

    key = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight"
    state = {name: value for name, value in load_file(files.stranger).items() if name != key}
    lacking = builders.save(state, tmp_path / "lacking.safetensors")
    command = [
        "transfer",
        str(files.lora),
        "--source",
        str(files.base),
        "--target",
        str(lacking),
        "--output",
        str(out / "x.safetensors"),
    ]
    assert main(command) == EXIT_DECLINED
    assert "declined" in capsys.readouterr().err


def test_what_stands_for_infinite_values(files: Files, tmp_path: Path, refused: Refused) -> None:
    """Products of values that are not infinite themselves; a decomposition of such a matrix would fail with a traceback."""
    halves = {f"hada_w{half}_{side}": torch.full((96, 2) if side == "a" else (2, 96), 1e17) for half in (1, 2) for side in "ab"}
    odd = {f"{MIDDLE}.{part}": tensor for part, tensor in halves.items()}
    message = refused(changed(files, tmp_path / "odd.safetensors", odd), None, None, "--max-rank", "4")
    assert f"odd.safetensors: {MIDDLE}" in message


# --- names -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["k" * 100_000, "k " * 50_000, f"{'n' * 100_000}.lora_up.weight", "\x1b[2J\x1b]0;owned\x07"])
def test_long_and_odd_keys_are_not_repeated(files: Files, tmp_path: Path, refused: Refused, key: str) -> None:
    message = refused(changed(files, tmp_path / "odd.safetensors", {key: torch.ones(2, 2)}))
    assert "odd.safetensors" in message
    assert len(message) < 5000
    assert message.replace("\n", "").isprintable()


def test_numbers_of_blocks_with_many_digits(files: Files, tmp_path: Path, refused: Refused) -> None:
    state = {f"{UNET}input_blocks.{'9' * 6000}.0.in_layers.2.weight": torch.ones(2, 2, 3, 3)} | files.base_state
    save_file(state, tmp_path / "odd.safetensors")
    assert "odd.safetensors: cannot be read as a base checkpoint" in refused(None, tmp_path / "odd.safetensors")


def test_a_header_of_many_megabytes(tmp_path: Path, refused: Refused) -> None:
    large = write(tmp_path / "large.safetensors", raw(b"{" + b" " * (33 << 20) + b"}"))
    assert "large.safetensors: its header has 33 MB" in refused(large)


def test_lokr_of_rank_one_with_a_tucker_decomposition(tmp_path: Path) -> None:
    """Found by the campaign: the transposed view of a vector counts as contiguous, and ``torch.kron`` fails on it."""
    parts = {"lokr_w1": (2, 2), "lokr_t2": (1, 1, 3, 3), "lokr_w2_a": (1, 8), "lokr_w2_b": (1, 8)}
    tensors = {part: torch.randn(shape) for part, shape in parts.items()}
    save_file({f"{NAME}.{part}": tensor for part, tensor in tensors.items()}, tmp_path / "a.safetensors")
    delta = open_adapter(tmp_path / "a.safetensors").delta(NAME)
    second = torch.einsum("pqhw,po,qi->oihw", tensors["lokr_t2"], tensors["lokr_w2_a"], tensors["lokr_w2_b"]).flatten(1)
    assert torch.allclose(delta.scale * delta.up @ delta.down, torch.kron(tensors["lokr_w1"], second), atol=1e-5)
    assert math.isfinite(delta.norm())
