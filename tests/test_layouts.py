"""Whole key lists of every supported family, from diffusers' and transformers' own models, in each layout that files have."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_open_clip_checkpoint
from safetensors.torch import save_file

from lorax.checkpoint import Checkpoint, Family, UNetNames, families, open_checkpoint
from lorax.errors import LoraxError
from lorax.inspection import inspect
from tests import layouts, xl
from tests.layouts import TEXTS, UNETS, Shapes
from tests.tensor_files import HeaderOnly

PRUNED = {"small-sd", "tiny-sd", "ssd-1b", "vega", "koala-1b", "koala-700m"}
# As KOALA and tiny-sd have it: diffusers' converter takes three blocks a level and a middle block for granted.
NOT_CONVERTED = {"tiny-sd", "koala-700m"}


def ldm(kind: str) -> dict[str, str]:
    """LDM path -> diffusers path of every parameter of the UNet."""
    names = UNetNames.from_diffusers(layouts.unet(kind))
    return {names.to_ldm(path): path for path in layouts.unet(kind)}


def open_clip(shapes: Shapes) -> Shapes:
    """A text encoder as OpenCLIP has it."""
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        width = shapes["text_model.final_layer_norm.weight"][0]
        state.setdefault("text_projection.weight", torch.empty(width, width))
    return {key: tuple(value.shape) for key, value in xl.open_clip(state).items()}


def header(kind: str, prefixes: dict[str, str] | None = None) -> Shapes:
    """Make the header of a whole checkpoint in LDM's layout. ``prefixes``: component -> another one than the usual."""
    family = UNETS[kind][0]
    shapes = {families.UNET.checkpoint + path: layouts.unet(kind)[name] for path, name in ldm(kind).items()}
    for component in family.components[1:]:
        model, width, count = TEXTS[family][component.folder]
        inside = layouts.text((model, width, count if component.pooled else count + 1))
        prefix = (prefixes or {}).get(component.name, component.checkpoint)
        shapes |= {prefix + key: shape for key, shape in (open_clip(inside) if component.open_clip else inside).items()}
    return shapes


def opened(shapes: Shapes, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setattr("lorax.checkpoint.layouts.open_tensors", lambda path: HeaderOnly(shapes))
    return open_checkpoint("base.safetensors")


def expected(kind: str) -> dict[str, tuple[int, ...]]:
    """Layer -> shape, of the whole base."""
    family, names = UNETS[kind][0], UNetNames.from_diffusers(layouts.unet(kind))
    found = {f"unet.{names.to_ldm(path)}": layouts.unet(kind)[f"{path}.weight"] for path in layouts.layers(layouts.unet(kind))}
    for component in family.components[1:]:
        shapes = layouts.text(TEXTS[family][component.folder])
        found |= {f"{component.name}.{path}": shapes[f"{path}.weight"] for path in layouts.layers(shapes)}
    return found


@pytest.mark.parametrize("kind", UNETS)
def test_both_layouts_of_a_unet(kind: str) -> None:
    """Both layouts tell the same structure and family, and every parameter's name comes back from the other layout."""
    there = ldm(kind)
    names = UNetNames.from_ldm(there)
    assert names.blocks == UNetNames.from_diffusers(layouts.unet(kind)).blocks
    assert {names.to_diffusers(path): path for path in there} == {there[path]: path for path in there}
    assert families.detect(layouts.unet(kind)) is UNETS[kind][0]
    assert families.detect({path: layouts.unet(kind)[name] for path, name in there.items()}) is UNETS[kind][0]


@pytest.mark.parametrize("kind", [kind for kind in UNETS if kind not in NOT_CONVERTED])
def test_as_diffusers_converts(kind: str) -> None:
    there, config = ldm(kind), UNETS[kind][1]
    told = {"layers_per_block": 2, **config}
    converted = convert_ldm_unet_checkpoint({families.UNET.checkpoint + path: path for path in there}, told)
    assert converted == {name: path for path, name in there.items()}


@pytest.mark.parametrize("kind", UNETS)
def test_a_checkpoint_in_ldms_layout(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = opened(header(kind), monkeypatch)
    assert base.family is UNETS[kind][0]
    assert base.layers == expected(kind)


@pytest.mark.parametrize("kind", UNETS)
def test_every_name_finds_its_layer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """kohya, its converters, PEFT and diffusers spell the names; and what is written is found again."""
    base, family = opened(header(kind), monkeypatch), UNETS[kind][0]
    assert {base.names[base.names.kohya(layer)] for layer in base.layers} == base.layers.keys()
    for path, name in ldm(kind).items():
        layer = f"unet.{path.removesuffix('.weight')}"
        if layer in base.layers:
            module = name.removesuffix(".weight")
            spelled = ["lora_unet_" + module.replace(".", "_"), "lora_unet_" + layer[5:].replace(".", "_"), f"unet.{module}"]
            spelled.append("lycoris_" + module.replace(".", "_"))  # of LyCORIS around a UNet, as SimpleTuner saves it
            assert {base.names.get(one) for one in spelled} == {layer}
    for component in family.components[1:]:
        for path in layouts.layers(layouts.text(TEXTS[family][component.folder])):
            for prefix in component.kohya:
                assert base.names[prefix + path.replace(".", "_")] == f"{component.name}.{path}"
            assert base.names[f"{component.folder}.{path}"] == f"{component.name}.{path}"


@pytest.mark.parametrize("kind", UNETS)
def test_inspect_tells_the_pruned_ones(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(header(kind), monkeypatch)
    found = inspect(Path("base.safetensors"))
    assert found["family"] == UNETS[kind][0].title
    assert (found["blocks"] == "standard") is (kind not in PRUNED)


@pytest.mark.parametrize("family", [families.SD2, families.SDXL_REFINER])
def test_open_clip_as_diffusers_converts_it(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """SD 2.x's last layer and its projection are dropped, the refiner's are kept."""
    component = family.components[1]
    kind = next(kind for kind in UNETS if UNETS[kind][0] is family)
    with torch.device("meta"):
        tower = {k: torch.empty(s) for k, s in header(kind).items() if k.startswith(component.checkpoint)}
    model: Any = SimpleNamespace(config=SimpleNamespace())
    converted = convert_open_clip_checkpoint(model, tower, component.checkpoint)
    theirs = set(layouts.layers({key: tuple(value.shape) for key, value in converted.items()}))
    theirs -= set() if component.pooled else {"text_projection"}  # diffusers makes it, and its model has no place for it
    base = opened(header(kind), monkeypatch)
    assert {layer.partition(".")[2] for layer in base.layers if layer.startswith(f"{component.name}.")} == theirs


def test_sd_turbo_has_its_encoder_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    base = opened(header("sd2", {"te": "conditioner.embedders.0.model."}), monkeypatch)
    assert base.layers == expected("sd2")


@pytest.mark.parametrize("kind", UNETS)
def test_without_text_encoders(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The UNet comes in a whole checkpoint, and alone in either layout."""
    unet = {layer: shape for layer, shape in expected(kind).items() if layer.startswith("unet.")}
    prefix = families.UNET.checkpoint
    alone = {prefix + path: layouts.unet(kind)[name] for path, name in ldm(kind).items()}
    for shapes in (alone, {key.removeprefix(prefix): shape for key, shape in alone.items()}, layouts.unet(kind)):
        base = opened(shapes, monkeypatch)
        assert base.family is UNETS[kind][0]
        assert base.layers == unet


# --- diffusers folders -------------------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> dict[str, torch.Tensor]:
    """A narrow UNet of SD 2.x."""
    return {key: torch.randn([min(n, 4) for n in shape]) for key, shape in layouts.unet("sd2").items()}


def shards(folder: Path, model: dict[str, torch.Tensor], index: str, variant: str = "") -> None:
    folder.mkdir(parents=True)
    names = [f"diffusion_pytorch_model{variant}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    where = {key: names[number % 2] for number, key in enumerate(model)}
    for name in names:
        save_file({key: model[key] for key in model if where[key] == name}, folder / name)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.mark.parametrize(
    ("index", "variant"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", ""),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", ".fp16"),
        ("diffusion_pytorch_model.fp16.safetensors.index.json", ".fp16"),
    ],
)
def test_weights_in_several_files(tmp_path: Path, model: dict[str, torch.Tensor], index: str, variant: str) -> None:
    shards(tmp_path / "base" / "unet", model, index, variant)
    base = open_checkpoint(tmp_path / "base")
    names = UNetNames.from_diffusers(model)
    for path in layouts.layers({key: tuple(value.shape) for key, value in model.items()}):
        assert torch.equal(base.stored(f"unet.{names.to_ldm(path)}"), model[f"{path}.weight"])
    assert len(base.layers) == len(layouts.layers(layouts.unet("sd2")))
    again = open_checkpoint(tmp_path / "base" / "unet")  # the UNet's own folder
    assert (again.layers, again.identity.sha256) == (base.layers, base.identity.sha256)


def test_an_incomplete_download(tmp_path: Path, model: dict[str, torch.Tensor]) -> None:
    index = "diffusion_pytorch_model.safetensors.index.json"
    shards(tmp_path / "unet", model, index)
    gone = tmp_path / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors"
    gone.unlink()
    with pytest.raises(LoraxError, match=f"{gone.name}: no such file, but {index} names it"):
        open_checkpoint(tmp_path)
    (tmp_path / "unet" / index).write_text('{"weight_map": 3}')
    with pytest.raises(LoraxError, match="cannot be read as an index of weight files"):
        open_checkpoint(tmp_path)
