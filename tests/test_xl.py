"""SDXL from end to end: two text encoders, attention modules of many transformer blocks, pruned relatives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lab.writing import save_lorax
from lorax.checkpoint import Checkpoint, block_of, open_checkpoint
from lorax.cli import main
from lorax.errors import LoraxError
from lorax.files import Cache
from lorax.formats import Header, open_adapter
from lorax.options import Options
from lorax.pairing import pair
from lorax.transfer import plan
from lorax.workflow import Fitter
from tests import builders, xl
from tests.measures import assert_same
from tests.samples import Files

SOME = (
    "unet.input_blocks.4.1.proj_in",
    "unet.input_blocks.4.1.transformer_blocks.1.attn2.to_k",
    "unet.input_blocks.8.1.transformer_blocks.3.ff.net.0.proj",
    "unet.middle_block.1.transformer_blocks.2.attn1.to_out.0",
    "unet.output_blocks.2.1.transformer_blocks.3.attn1.to_q",
    "unet.output_blocks.2.2.conv",
    "unet.label_emb.0.2",
    "te1.text_model.encoder.layers.1.self_attn.k_proj",
    *(f"te2.text_model.encoder.layers.2.self_attn.{x}_proj" for x in ("q", "k", "v", "out")),
    "te2.text_model.encoder.layers.0.mlp.fc2",
    "te2.text_projection",
)


class Bases:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = xl.base()
        self.target_state = xl.relative(self.state)
        self.base = xl.save(self.state, folder / "base.safetensors")
        self.target = xl.save(self.target_state, folder / "target.safetensors")
        self.as_folder = xl.save_folder(self.target_state, folder / "diffusers")
        self.as_short_folder = xl.save_folder(self.target_state, folder / "diffusers5", text_prefix="")
        self.ckpt = xl.save(self.target_state, folder / "target.ckpt", torch.float16)
        self.ssd = xl.save(xl.pruned(self.target_state, xl.SSD), folder / "ssd.safetensors")
        self.lora = folder / "style.safetensors"
        self.dense = xl.save_lora(self.lora, SOME)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("xl"))


def transfer(lora: Path, source: Path, target: Path, out: Path, *more: str) -> Path:
    arguments = ["--source", str(source), "--target", str(target), "--output", str(out / "moved.safetensors")]
    assert main(["transfer", str(lora), *arguments, "--dtype", "fp32", "--overwrite", *more]) == 0
    return out / "moved.safetensors"


def named(dense: dict[str, np.ndarray], size: xl.Size = xl.XL) -> dict[str, np.ndarray]:
    return {xl.spelled(layer, size, "kohya"): value for layer, value in dense.items()}


@pytest.mark.parametrize("naming", xl.NAMINGS)
@pytest.mark.parametrize("target", ["base", "target", "as_folder", "as_short_folder", "ckpt"])
def test_a_copy_is_exact_whatever_the_naming_and_the_layout(bases: Bases, out: Path, target: str, naming: str) -> None:
    dense = xl.save_lora(out / "lora.safetensors", SOME, naming)
    moved = transfer(out / "lora.safetensors", bases.base, getattr(bases, target), out, "--method", "copy")
    assert_same(builders.dense(moved), named(dense))


def test_moving_to_the_same_base_is_exact_by_default(bases: Bases, out: Path) -> None:
    assert_same(builders.dense(transfer(bases.lora, bases.base, bases.base, out)), named(bases.dense))


def test_the_methods_run(bases: Bases, out: Path) -> None:
    for method in ("auto", "lorax", "prolora"):
        moved = transfer(bases.lora, bases.base, bases.as_folder, out, "--method", method, "--threshold", "0")
        assert builders.dense(moved).keys() == named(bases.dense).keys()


def test_layouts_hold_the_same(bases: Bases) -> None:
    """Slices of the fused weight are what a diffusers folder holds apart."""
    one, other = open_checkpoint(bases.target), open_checkpoint(bases.as_folder)
    assert one.layers == other.layers
    assert all(torch.equal(one.stored(layer), other.stored(layer)) for layer in one.layers)
    assert one.identity.fingerprint(one.layers) == other.identity.fingerprint(other.layers)


def test_inspect(bases: Bases, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for path in (bases.base, bases.as_folder, bases.ssd, bases.lora):
        assert main(["inspect", str(path), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    base, folder, ssd, lora = found
    assert (base["family"], base["blocks"]) == ("Stable Diffusion XL", "standard")
    assert base["layers"].keys() == {"unet", "te1", "te2"}
    assert (base["layers"]["te1"], base["layers"]["te2"]) == (12, 19)
    assert folder == base
    assert ssd["blocks"] == "pruned or otherwise changed"
    assert (lora["kind"], lora["family"], lora["layers"]) == ("LoRA", "Stable Diffusion XL", len(SOME))


def test_what_is_written_says_sdxl(bases: Bases, out: Path) -> None:
    lora = out / "style.safetensors"
    xl.save_lora(lora, SOME)
    lora.with_suffix(".json").write_text('{"sd version": "Unknown"}')
    moved = transfer(lora, bases.base, bases.target, out)
    header = builders.header(moved)
    assert (header["ss_base_model_version"], header["ss_v2"]) == ("sdxl_base_v1-0", "False")
    assert header["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert json.loads(moved.with_suffix(".json").read_text())["sd version"] == "xl"


def test_analyze_tells_of_every_layer(bases: Bases, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(bases.lora), "--source", str(bases.base), "--target", str(bases.ssd), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    ended = {record["source"]: record for record in report["layers"]}
    assert ended.keys() == set(SOME)
    for layer in SOME:
        gone = ("transformer_blocks.3" in layer and "input" in layer) or "middle_block.1" in layer
        assert ended[layer]["status"] == ("unmatched" if gone else "transferred"), ended[layer]
    middle = ended["unet.middle_block.1.transformer_blocks.2.attn1.to_out.0"]
    assert middle["reason"] == "no block of the target in this role has the same layers and shapes"


# --- pruned relatives --------------------------------------------------------------------------------------------------------


def kept_blocks(size: xl.Size) -> dict[str, int]:
    """Attention module -> how many transformer blocks it has."""
    depth: dict[str, int] = {}
    for layer in xl.layers(size):
        head, found, rest = layer.partition(".transformer_blocks.")
        if found:
            depth[head] = max(depth.get(head, 0), int(rest.partition(".")[0]) + 1)
    return depth


def assert_kept_blocks_find_their_origin(source: Checkpoint, target: Checkpoint, origin: dict[str, list[int]]) -> None:
    expected = {}
    for layer in target.layers:
        head, found, rest = layer.partition(".transformer_blocks.")
        number, dot, inside = rest.partition(".")
        expected[f"{head}{found}{origin[head][int(number)]}{dot}{inside}" if found else layer] = layer
    for layer, found in pair(source, target).items():
        assert found.target == expected.get(layer), found


@settings(max_examples=8, deadline=None)
@given(data=st.data(), size=st.sampled_from([xl.SSD, xl.VEGA]))
def test_every_kept_block_finds_its_own_source_block(
    bases: Bases, tmp_path_factory: Any, data: st.DataObject, size: xl.Size
) -> None:
    """Whichever blocks of a module were kept, in order, and with noise on what was kept."""
    depth = kept_blocks(xl.XL)
    origin = {
        module: sorted(data.draw(st.permutations(range(depth["unet." + module.removeprefix("unet.")])))[:count])
        for module, count in kept_blocks(size).items()
    }
    state = xl.pruned(bases.state, size, lambda module, number: origin[f"unet.{module}"][number])
    path = tmp_path_factory.getbasetemp() / "pruned.safetensors"
    pruned = xl.save(xl.relative(state, seed=2, noise=0.3), path)
    assert_kept_blocks_find_their_origin(open_checkpoint(bases.base), open_checkpoint(pruned), origin)


@pytest.mark.parametrize("size", [xl.SSD, xl.VEGA])
def test_back_from_a_pruned_relative(bases: Bases, out: Path, size: xl.Size) -> None:
    pruned = xl.save(xl.pruned(bases.state, size), out / "pruned.safetensors")
    layers = [layer for layer in xl.trained(size) if layer.endswith(("to_q", "proj_in", "_proj"))]
    dense = xl.save_lora(out / "lora.safetensors", layers, size=size)
    moved = transfer(out / "lora.safetensors", pruned, bases.target, out, "--method", "copy")
    assert_same(builders.dense(moved), named(dense))


def test_blocks_of_a_module_are_one_deep() -> None:
    assert {block_of(layer) for layer in xl.layers() if layer.startswith("unet.input_blocks.4.1.")} == {
        "unet.input_blocks.4.1",
        "unet.input_blocks.4.1.transformer_blocks.0",
        "unet.input_blocks.4.1.transformer_blocks.1",
    }


# --- LoRA-X files ------------------------------------------------------------------------------------------------------------


def test_a_lorax_file_is_fitted(bases: Bases, out: Path) -> None:
    class Library:
        def sha256(self, path: Path) -> None:
            return None

        def candidates(self, header: Header) -> list[Path]:
            return [bases.base]

    source = open_checkpoint(bases.base)
    file = out / "x.safetensors"
    save_lorax(plan(open_adapter(bases.lora), source, source, Options("copy")), file, dtype="fp32")
    assert open_adapter(file).family is source.family
    fit = Fitter(Cache(None, 0, 0), Library()).fit(file, bases.target, "cpu")
    assert fit.layers.keys() == set(SOME)
    assert not fit.message


@pytest.mark.parametrize("component", ["te1", "te2"])
def test_a_part_of_an_attention_is_written_with_the_rest_of_it(bases: Bases, out: Path, component: str) -> None:
    """The WebUI drops a part of an OpenCLIP attention silently; the first encoder is no OpenCLIP."""
    head = f"{component}.text_model.encoder.layers.1"
    dense = xl.save_lora(out / "part.safetensors", [f"{head}.self_attn.q_proj", f"{head}.mlp.fc1"])
    found = builders.dense(transfer(out / "part.safetensors", bases.base, bases.target, out, "--method", "copy"))
    rest = [f"{head}.self_attn.{part}" for part in ("k_proj", "v_proj", "out_proj")] if component == "te2" else []
    zero = np.zeros((xl.XL.second, xl.XL.second))
    assert_same({name: value for name, value in found.items() if value.any()}, named(dense))
    assert {name for name, value in found.items() if not value.any()} == named(dict.fromkeys(rest, zero)).keys()


# --- refusals ----------------------------------------------------------------------------------------------------------------


def test_an_sd1_lora_is_not_for_sdxl(bases: Bases, files: Files) -> None:
    """A convolution says that it is SD 1.x's; without one, the shapes of the weights say that it is not this base's."""
    base = open_checkpoint(bases.base)
    with pytest.raises(LoraxError, match=r"made for Stable Diffusion 1\.x, but .* is Stable Diffusion XL"):
        open_adapter(files.lora).layers_of(base)
    text = builders.save_lora(bases.folder / "text.safetensors", builders.deltas(builders.TEXT))
    with pytest.raises(LoraxError, match=r"made for another kind of base, but .* is Stable Diffusion XL"):
        open_adapter(text).layers_of(base)


@pytest.mark.parametrize("shape", [(64, 64), (193, 64), (192,), ()])
def test_a_fused_weight_that_is_not_three(bases: Bases, out: Path, shape: tuple[int, ...]) -> None:
    key = f"{xl.TE2}transformer.resblocks.1.attn.in_proj_weight"
    save_file(load_file(bases.base) | {key: torch.zeros(shape)}, out / "bad.safetensors")
    with pytest.raises(
        LoraxError, match=r"bad\.safetensors: .*resblocks\.1\.attn\.in_proj_weight has shape .*expected three square"
    ):
        open_checkpoint(out / "bad.safetensors")


def test_nan_in_one_of_the_three(bases: Bases, out: Path) -> None:
    key = f"{xl.TE2}transformer.resblocks.1.attn.in_proj_weight"
    state = load_file(bases.base)
    state[key][xl.XL.second + 1, 0] = float("nan")
    save_file(state, out / "bad.safetensors")
    bad = open_checkpoint(out / "bad.safetensors")
    bad.weight("te2.text_model.encoder.layers.1.self_attn.q_proj")
    with pytest.raises(LoraxError, match=r"resblocks\.1\.attn\.in_proj_weight holds NaN"):
        bad.weight("te2.text_model.encoder.layers.1.self_attn.k_proj")


@pytest.mark.parametrize("missing", [xl.TE1, xl.TE2])
def test_a_target_without_one_of_the_encoders(bases: Bases, out: Path, missing: str) -> None:
    state = {key: value for key, value in load_file(bases.target).items() if not key.startswith(missing)}
    save_file(state, out / "part.safetensors")
    report = out / "report.json"
    transfer(bases.lora, bases.base, out / "part.safetensors", out, "--method", "copy", "--report", str(report))
    component, title = {xl.TE1: ("te1", "CLIP ViT-L"), xl.TE2: ("te2", "OpenCLIP ViT-bigG")}[missing]
    for record in json.loads(report.read_text())["layers"]:
        gone = record["source"].startswith(f"{component}.")
        assert record["status"] == ("unmatched" if gone else "transferred")
        assert not gone or record["reason"] == f"the target has no {title}"
