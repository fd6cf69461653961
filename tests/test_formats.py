"""Every format on every family: the delta that is read equals LyCORIS' own, or a dense reference where it has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.formats import open_adapter
from tests import builders, xl
from tests.adapters import RECIPES
from tests.structure import TINY

KINDS = ("attn2.to_k", "ff.net.0.proj", "proj_in", "in_layers.2", "skip_connection", "0.op", "q_proj", "mlp.fc2")


@dataclass(frozen=True)
class Family:
    """A base of it, and for one layer of every kind: its name in kohya's adapters -> (layer, weight)."""

    base: Checkpoint
    weights: dict[str, tuple[str, torch.Tensor]]


def some(layers: dict[str, str]) -> dict[str, str]:
    """One layer of every kind in every component: layer -> name."""
    found: dict[tuple[str, str], str] = {}
    for layer in layers:
        if kind := next((kind for kind in KINDS if layer.endswith(kind)), None):
            found.setdefault((layer.partition(".")[0], kind), layer)
    return {layer: layers[layer] for layer in found.values()}


def sd1(folder: Path) -> Family:
    state = builders.base()
    names, weights = {}, {}
    for prefix, short, params in ((builders.UNET, "unet", TINY.unet()), (builders.TE, "te", TINY.text())):
        for param in params:
            if param.is_layer:
                layer = f"{short}.{param.ldm.removesuffix('.weight')}"
                names[layer] = f"lora_{short}_" + param.diffusers.removesuffix(".weight").replace(".", "_")
                weights[layer] = state[prefix + param.ldm]
    path = builders.save(state, folder / "sd1.safetensors")
    return Family(open_checkpoint(path), {name: (layer, weights[layer]) for layer, name in some(names).items()})


def sdxl(folder: Path) -> Family:
    state = xl.base()
    names = {layer: xl.spelled(layer, xl.XL, "kohya") for layer in xl.layers()}
    path = xl.save(state, folder / "sdxl.safetensors")
    return Family(open_checkpoint(path), {name: (layer, state[f"{layer}.weight"]) for layer, name in some(names).items()})


FAMILIES: dict[str, Callable[[Path], Family]] = {"SD 1.x": sd1, "SDXL": sdxl}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    made = FAMILIES[request.param](tmp_path_factory.mktemp("family"))
    assert len(made.weights) >= len(KINDS)
    return made


@pytest.mark.parametrize("recipe", RECIPES)
def test_read_as_lycoris_does(family: Family, recipe: str, tmp_path: Path) -> None:
    random, state, expected = torch.Generator().manual_seed(1), {}, {}
    for name, (layer, weight) in family.weights.items():
        tensors, dW = RECIPES[recipe](weight, random)
        state |= {f"{name}.{part}": tensor.contiguous() for part, tensor in tensors.items()}
        expected[layer] = dW.double().flatten(1)
    save_file(state, tmp_path / "a.safetensors")
    adapter = open_adapter(tmp_path / "a.safetensors")
    read = adapter.deltas_of(family.base)
    assert read.keys() == expected.keys()
    for layer, delta in read.items():
        dW = delta.scale * delta.up.double() @ delta.down.double()
        assert (dW - expected[layer]).norm() <= 1e-5 * expected[layer].norm(), layer
        assert delta.rank <= min(dW.shape), layer


def test_oft_of_kohya(tmp_path: Path) -> None:
    """Its names have a prefix of their own."""
    made, random = sdxl(tmp_path), torch.Generator().manual_seed(2)
    name, (layer, weight) = next(item for item in made.weights.items() if "attn2" in item[0])
    tensors, dW = RECIPES["OFT"](weight, random)
    oft = {f"{name.replace('lora_unet_', 'oft_unet_')}.{part}": tensor for part, tensor in tensors.items()}
    save_file(oft, tmp_path / "oft.safetensors")
    (read,) = open_adapter(tmp_path / "oft.safetensors").deltas_of(made.base).items()
    assert read[0] == layer
    assert torch.allclose(read[1].scale * read[1].up @ read[1].down, dW, atol=1e-5)
