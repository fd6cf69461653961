"""Packing siblings without what they share with the base, and unpacking them whole."""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from lab import bundle as lab_bundle
from lab.packing import LESS, pack
from lorax.demo.bundle import BASE, FINETUNE, ORIGIN, PACKED, PRUNED, SCALE, read_packed, unpack, unpack_file
from lorax.errors import LoraxError
from lorax.files import open_tensors

STATES = {
    BASE: {"a": torch.arange(4.0), "b": torch.ones(2, 2)},
    FINETUNE: {"a": torch.arange(4.0), "b": torch.zeros(2, 2)},
    # A tensor under two other names; equal values of another shape.
    PRUNED: {"moved": torch.arange(4.0), "again": torch.arange(4.0), "c": torch.ones(4)},
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "tokenizer").mkdir(parents=True)
    for name, state in STATES.items():
        pack(folder / f"{name}{PACKED}", state, {"format": "pt"}, *(() if name == BASE else (BASE, STATES[BASE])))
        (folder / f"{name}.yaml").write_text("version: {tokenizer}")
    return folder


def test_siblings_store_only_what_is_theirs(bundle: Path) -> None:
    for name, own in ((BASE, {"a", "b"}), (FINETUNE, {"b"}), (PRUNED, {"c"})):
        assert read_packed(bundle / f"{name}{PACKED}")[0].keys() == own


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("shape", "scales"), [((8, 500), 8), ((500, 8), 8), ((16, 4, 3, 3), 16), ((4, 16, 3, 3), 4)])
def test_matrices_and_kernels_have_8_bits_a_value(
    tmp_path: Path, shape: tuple[int, ...], scales: int, dtype: torch.dtype
) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 0, shape[-1])
    value[0] = 0
    pack(tmp_path / f"a{PACKED}", {"a": value.to(dtype), "bias": value.flatten()[:5].to(dtype)}, {"told": "kept"})
    stored = load(lzma.decompress((tmp_path / f"a{PACKED}").read_bytes()))
    assert stored["a"].dtype == torch.int8
    assert stored[f"a{SCALE}"].numel() == scales
    found, metadata = read_packed(tmp_path / f"a{PACKED}")
    assert metadata == {"told": "kept"}
    assert found["a"].dtype == dtype
    assert torch.equal(found["bias"], value.flatten()[:5].to(dtype))
    steps = stored[f"a{SCALE}"].float().expand(shape)
    assert ((found["a"].float() - value).abs() <= 0.51 * steps + 1e-3 * value.abs()).all(), "the nearest step"


def test_what_8_bits_cannot_hold_is_kept_as_it_is(tmp_path: Path) -> None:
    states = {"tiny": torch.full((8, 8), 3e-6).half(), "numbers": torch.arange(77)[None], "zeros": torch.zeros(4, 4)}
    pack(tmp_path / f"a{PACKED}", states, {})
    found, _ = read_packed(tmp_path / f"a{PACKED}")
    assert all(torch.equal(found[key], value) for key, value in states.items())


def test_every_machine_unpacks_the_same_bytes(tmp_path: Path) -> None:
    """A LoRA tells its base by a hash. What safetensors writes has its metadata in an order of chance."""
    packed, told = tmp_path / f"lora{PACKED}", {f"ss_{letter}": letter for letter in "abcdefgh"}
    pack(packed, {"a": torch.randn(16, 16), "b": torch.ones(3)}, told)
    contents = set()
    for number in range(3):
        unpack_file(packed, path := tmp_path / f"{number}.safetensors")
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_a_lora_that_was_trained_here_is_kept_and_one_that_was_unpacked_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_bundle, "HEADLINE", tmp_path)
    monkeypatch.setattr(lab_bundle, "LORAS", tmp_path)
    monkeypatch.setattr(lab_bundle, "EXTRA_LORAS", tmp_path / "unpacked")
    for name in ("mine", "theirs"):
        pack(tmp_path / "loras" / f"{name}{PACKED}", {"a": torch.ones(2)}, {})
    lab_bundle.unpack_loras()
    mine, theirs = (tmp_path / "unpacked" / f"{name}.safetensors" for name in ("mine", "theirs"))
    save_file({"a": torch.zeros(2)}, mine)
    pack(tmp_path / "loras" / f"theirs{PACKED}", {"a": torch.full((2,), 3.0)}, {})
    lab_bundle.unpack_loras()
    assert (load_file(mine)["a"].tolist(), load_file(theirs)["a"].tolist()) == ([0, 0], [3, 3])
    lab_bundle.keep_lora(mine, tmp_path / "loras" / f"mine{PACKED}")
    assert read_packed(tmp_path / "loras" / f"mine{PACKED}")[0]["a"].tolist() == [0, 0]


def test_what_a_finetune_adds_is_stored_in_fewer_bits_and_put_upon_its_base(bundle: Path, tmp_path: Path) -> None:
    more, folder = tmp_path / "more", tmp_path / "models"
    base = {"a": torch.arange(4.0), "w": torch.randn(64, 64, generator=torch.Generator().manual_seed(0))}
    change = 0.1 * torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    pack(bundle / f"{BASE}{PACKED}", base, {"format": "pt"})
    base["w"] = read_packed(bundle / f"{BASE}{PACKED}")[0]["w"]
    pack(more / f"tuned{PACKED}", base | {"w": base["w"] + change}, {"told": "kept"}, BASE, base, added=True)
    (more / "tuned.yaml").write_text("")
    unpack(folder, bundle)
    unpack(folder, more)
    stored, whole = read_packed(more / f"tuned{PACKED}")[0], load_file(folder / "tuned.safetensors")
    assert stored.keys() == {"w"}
    steps = stored["w"] / (stored["w"].abs().amax(1, keepdim=True) / LESS)
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert torch.equal(whole["a"], base["a"])
    assert (whole["w"] - base["w"] - change).norm() < 0.2 * change.norm()
    assert open_tensors(folder / "tuned.safetensors").metadata.keys() == {"told", ORIGIN}


def test_what_is_added_needs_a_sibling_and_nothing_shared(bundle: Path, tmp_path: Path) -> None:
    packed, folder = tmp_path / f"tuned{PACKED}", tmp_path / "models"
    with pytest.raises(ValueError, match="none is given"):
        pack(packed, {"b": torch.ones(2, 2)}, {}, added=True)
    pack(packed, {"b": torch.full((2, 2), 3.0)}, {}, BASE, {"b": STATES[BASE]["b"]}, added=True)
    unpack(folder, bundle)
    unpack_file(packed, folder / "tuned.safetensors")
    assert load_file(folder / "tuned.safetensors")["b"].unique().tolist() == [3]


def test_unpacked_models_are_whole(bundle: Path, tmp_path: Path) -> None:
    tokenizer = unpack(tmp_path / "models", bundle)
    for name, state in STATES.items():
        whole = load_file(tmp_path / "models" / f"{name}.safetensors")
        assert whole.keys() == state.keys()
        assert all(torch.allclose(whole[key], value) for key, value in state.items())
        assert (tmp_path / "models" / f"{name}.safetensors").stat().st_mode & 0o444 == 0o444, "a host under another user reads it"
        assert tokenizer.as_posix() in (tmp_path / "models" / f"{name}.yaml").read_text()


def test_what_is_there_already_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    (bundle / "tokenizer" / "vocab.json").write_text("words")
    folder = tmp_path / "models"
    unpack(folder, bundle)
    files = [path for path in folder.rglob("*") if path.is_file()]
    before = [(path.stat().st_mtime_ns, path.stat().st_ino) for path in files]
    unpack(folder, bundle)
    assert [(path.stat().st_mtime_ns, path.stat().st_ino) for path in files] == before


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be replaced there")
def test_whoever_reads_while_another_process_unpacks_finds_whole_files(bundle: Path, tmp_path: Path) -> None:
    folder, texts = tmp_path / "models", (bundle / "tokenizer" / "vocab.json", bundle / f"{BASE}.yaml")
    for path in texts:
        path.write_text("old")
    unpack(folder, bundle)
    before = sorted(folder.rglob("*"))
    with (folder / "tokenizer" / "vocab.json").open() as vocabulary, (folder / f"{BASE}.yaml").open() as settings:
        for path in texts:
            path.write_text("new")
        unpack(folder, bundle)
        assert (vocabulary.read(), settings.read()) == ("old", "old")
    assert (folder / f"{BASE}.yaml").read_text() == "new"
    assert sorted(folder.rglob("*")) == before, "nothing temporary is left"


def test_a_changed_bundle_replaces_what_was_unpacked(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    unpack(folder, bundle)
    before = (folder / f"{FINETUNE}.safetensors").stat().st_mtime_ns
    unpack(folder, bundle)
    assert (folder / f"{FINETUNE}.safetensors").stat().st_mtime_ns == before, "an unchanged model is kept"
    pack(bundle / f"{FINETUNE}{PACKED}", {"b": torch.full((2, 2), 5.0)}, {}, BASE, STATES[BASE])
    unpack(folder, bundle)
    assert load_file(folder / f"{FINETUNE}.safetensors")["b"].unique().item() == pytest.approx(5)


def test_a_second_bundle_shares_with_the_first_and_within_itself(bundle: Path, tmp_path: Path) -> None:
    more, folder = tmp_path / "more", tmp_path / "models"
    more.mkdir()
    wide = {"a": torch.arange(4.0), "w": torch.full((3,), 3.0)}
    states = {"a-narrow": {"w": torch.full((3,), 3.0), "n": torch.ones(1)}, "wide": wide}  # the sibling sorts last
    pack(more / f"wide{PACKED}", wide, {}, BASE, STATES[BASE])
    pack(more / f"a-narrow{PACKED}", states["a-narrow"], {}, "wide", wide)
    for name in states:
        (more / f"{name}.yaml").write_text("version: {tokenizer}")
    unpack(folder, bundle)
    unpack(folder, more)
    for name, state in states.items():
        whole = load_file(folder / f"{name}.safetensors")
        assert whole.keys() == state.keys()
        assert all(torch.allclose(whole[key], value) for key, value in state.items())


def test_a_model_of_the_user_is_not_replaced(bundle: Path, tmp_path: Path) -> None:
    theirs = tmp_path / f"{BASE}.safetensors"
    save_file({"mine": torch.ones(1)}, theirs)
    with pytest.raises(LoraxError, match="not one of the bundled"):
        unpack(tmp_path, bundle)
    assert load_file(theirs).keys() == {"mine"}


@pytest.mark.parametrize("content", [b"", b"no safetensors file at all"])
def test_a_file_that_cannot_be_read_is_named(bundle: Path, tmp_path: Path, content: bytes) -> None:
    theirs = tmp_path / f"{FINETUNE}.safetensors"
    theirs.write_bytes(content)
    with pytest.raises(LoraxError, match=r"finetune\.safetensors: not a whole safetensors file"):
        unpack(tmp_path, bundle)
    assert theirs.read_bytes() == content
    theirs.unlink()
    (bundle / f"{BASE}{PACKED}").write_bytes(content)
    with pytest.raises(LoraxError, match=r"base\.safetensors\.xz: cannot be read as a packed safetensors file"):
        unpack(tmp_path / "other", bundle)


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoraxError, match="bundled models are missing"):
        unpack(tmp_path / "models", tmp_path / "nowhere")
