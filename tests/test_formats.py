"""Every format on every family: the delta that is read equals LyCORIS' own, or a dense reference where it has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.cli import main
from lorax.formats import lokr, lora, open_adapter, parts
from tests import adapters, builders, xl
from tests import families as narrow
from tests.adapters import RECIPES, SIGNS
from tests.structure import TINY, Param, unet_params

KINDS = (
    "input_blocks.0.0",
    "attn2.to_k",
    "ff.net.0.proj",
    "proj_in",
    "in_layers.2",
    "skip_connection",
    "0.op",
    "q_proj",
    "mlp.fc2",
)


@dataclass(frozen=True)
class Family:
    """A base of a family, and one layer of every kind: its name in kohya's adapters -> (layer, weight)."""

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


def sd2(folder: Path) -> Family:
    """SD 1.x's blocks with linear projections, and OpenCLIP, whose last layer is not used."""
    down, up = [(1, 1)] * 3 + [(0, 0)], [(0, 0, 0)] + [(1, 1, 1)] * 3
    unet = list(unet_params(TINY.channels, TINY.cross, down, 1, up, linear=True))
    projection = Param("text_projection.weight", "text_projection.weight", (TINY.cross, TINY.cross))
    made, names, weights, tensors = torch.Generator().manual_seed(0), {}, {}, {}
    for component, params in (("unet", unet), ("te", [*TINY.text(), projection])):
        for param in params:
            layer = f"{component}.{param.ldm.removesuffix('.weight')}"
            weights[layer] = torch.randn(param.shape, generator=made) / param.shape[-1] ** 0.5
            tensors[f"{component}.{param.ldm}"] = weights[layer]
            if param.is_layer:
                names[layer] = f"lora_{component}_" + param.diffusers.removesuffix(".weight").replace(".", "_")
    text = {f"cond_stage_model.model.{key}": value.contiguous() for key, value in xl.open_clip(xl.text(tensors, "te")).items()}
    save_file({builders.UNET + key: value for key, value in xl.text(tensors, "unet").items()} | text, folder / "sd2.safetensors")
    base = open_checkpoint(folder / "sd2.safetensors")
    return Family(base, {name: (layer, weights[layer]) for layer, name in some(names).items()})


def refiner(folder: Path) -> Family:
    """The refiner, whose UNet's layers are spelled as in LDM, and whose only text encoder is called as SDXL's second."""
    parameters = {f"unet.{path}": value for path, value in narrow.random_state(narrow.REFINER_UNET, 0).items()}
    parameters |= {f"te2.{path}": value for path, value in narrow.big_g().items()}
    layers = [f"unet.{param.ldm}" for param in narrow.REFINER_UNET if param.is_layer]
    layers += [f"te2.{param.ldm}" for param in narrow.BIG_G if param.is_layer]
    names = {layer.removesuffix(".weight"): f"lora_{layer}".removesuffix(".weight").replace(".", "_") for layer in layers}
    base = open_checkpoint(builders.save(narrow.MAKE["refiner"](0), folder / "refiner.safetensors"))
    return Family(base, {name: (layer, parameters[f"{layer}.weight"]) for layer, name in some(names).items()})


FAMILIES: dict[str, Callable[[Path], Family]] = {"sd1": sd1, "sd2": sd2, "sdxl": sdxl, "sdxl_refiner": refiner}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    made = FAMILIES[request.param](tmp_path_factory.mktemp("family"))
    assert made.base.family.name == request.param
    assert {kind for kind in KINDS if any(layer.endswith(kind) for layer, _ in made.weights.values())} == set(KINDS)
    return made


def save(family: Family, recipe: str, path: Path, *, alpha: bool = True) -> dict[str, torch.Tensor]:
    """An adapter of one layer of every kind; layer -> dW in float64."""
    random, state, expected = torch.Generator().manual_seed(1), {}, {}
    for name, (layer, weight) in family.weights.items():
        tensors, dW = RECIPES[recipe](weight, random)
        state |= {f"{name}.{part}": tensor.contiguous() for part, tensor in tensors.items() if alpha or part != "alpha"}
        expected[layer] = dW.double().flatten(1)
    kept = [name for name in family.weights if all(f"{name}.{part}" in state for part in SIGNS.get(recipe, ()))]
    assert kept, "LyCORIS chose another form everywhere"
    save_file(state, path)
    return expected


def assert_reads(family: Family, path: Path, expected: dict[str, torch.Tensor]) -> None:
    read = open_adapter(path).deltas_of(family.base)
    assert read.keys() == expected.keys()
    for layer, delta in read.items():
        dW = delta.scale * delta.up.double() @ delta.down.double()
        assert (dW - expected[layer]).norm() <= 1e-5 * expected[layer].norm(), layer
        assert delta.rank <= min(dW.shape), layer


@pytest.mark.parametrize("recipe", RECIPES)
def test_read_as_lycoris_does(family: Family, recipe: str, tmp_path: Path) -> None:
    assert_reads(family, tmp_path / "a.safetensors", save(family, recipe, tmp_path / "a.safetensors"))


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if "constraint" not in recipe])
def test_without_alpha(family: Family, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without alpha, the rank counts as alpha. A constraint is kept as alpha, and cannot be without."""
    monkeypatch.setattr(adapters, "ALPHA", 0.0)
    expected = save(family, recipe, tmp_path / "a.safetensors", alpha=False)
    assert_reads(family, tmp_path / "a.safetensors", expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_converted_without_moving(family: Family, recipe: str, tmp_path: Path) -> None:
    """A plain LoRA with the same deltas, whose ranks are below the largest."""
    expected = save(family, recipe, tmp_path / "a.safetensors")
    base, plain = str(family.base.path), tmp_path / "plain.safetensors"
    files = [str(tmp_path / "a.safetensors"), "--source", base, "--target", base, "--output", str(plain)]
    assert main(["transfer", *files, "--dtype", "fp32"]) == 0
    found = {family.base.names[name]: torch.from_numpy(dW) for name, dW in builders.dense(plain).items()}
    assert {key.partition(".")[2] for key in load_file(plain)} == {"lora_up.weight", "lora_down.weight", "alpha"}
    zeros = {layer for layer, dW in found.items() if not dW.any()}  # of OpenCLIP's attentions, of which hosts want all
    assert found.keys() - zeros == expected.keys()
    for layer, dW in expected.items():
        assert (found[layer] - dW).norm() <= 1e-5 * dW.norm(), layer


@pytest.mark.parametrize("recipe", ["(IA)^3", "OFT", "BOFT", "GLoRA", "GLoRA, old", "DoRA of LoCon"])
def test_what_depends_on_the_base_is_cut_to_the_chosen_rank(family: Family, recipe: str, tmp_path: Path) -> None:
    """The result is the best LoRA of that rank, and the report says what that loses."""
    expected = save(family, recipe, tmp_path / "a.safetensors")
    base, plain, report = str(family.base.path), tmp_path / "plain.safetensors", tmp_path / "report.json"
    files = [str(tmp_path / "a.safetensors"), "--source", base, "--target", base, "--output", str(plain), "--report", str(report)]
    assert main(["transfer", *files, "--dtype", "fp32", "--max-rank", "3"]) == 0
    found = {family.base.names[name]: torch.from_numpy(dW) for name, dW in builders.dense(plain).items()}
    lost = {layer["target"]: layer["compression_error"] for layer in json.loads(report.read_text())["layers"]}
    for layer, dW in expected.items():
        U, S, Vh = torch.linalg.svd(dW, full_matrices=False)
        assert lost[layer] == pytest.approx((S[3:].norm() / S.norm()).item(), rel=1e-4)
        assert (found[layer] - (U[:, :3] * S[:3]) @ Vh[:3]).norm() <= 1e-4 * dW.norm(), layer


def test_oft_of_kohya(tmp_path: Path) -> None:
    """The names of kohya's OFT have a prefix of their own."""
    made, random = sdxl(tmp_path), torch.Generator().manual_seed(2)
    name, (layer, weight) = next(item for item in made.weights.items() if "attn2" in item[0])
    tensors, dW = RECIPES["OFT"](weight, random)
    oft = {f"{name.replace('lora_unet_', 'oft_unet_')}.{part}": tensor for part, tensor in tensors.items()}
    save_file(oft, tmp_path / "oft.safetensors")
    (read,) = open_adapter(tmp_path / "oft.safetensors").deltas_of(made.base).items()
    assert read[0] == layer
    assert torch.allclose(read[1].scale * read[1].up @ read[1].down, dW, atol=1e-5)


def test_a_rank_beyond_the_weights_asks_for_no_more_memory_than_the_weight() -> None:
    """A file of a few hundred kB, with an inner rank of thousands, would ask for gigabytes otherwise."""
    made, r = torch.Generator().manual_seed(0), 5000

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made) / r**0.5

    first = {"lokr_w1_a": drawn(2, r), "lokr_w1_b": drawn(r, 4), "lokr_w2": drawn(4, 4)}
    tucker = {"up": drawn(8, r), "mid": drawn(r, 2, 3, 3), "down": drawn(2, 4)}
    expected = {
        lokr: torch.kron(first["lokr_w1_a"] @ first["lokr_w1_b"], first["lokr_w2"]),
        lora: torch.einsum("op,pqhw,qi->oihw", *tucker.values()).flatten(1),
    }
    for format, tensors in ((lokr, first), (lora, tucker)):
        found = format.decode(parts.Layer("a", tensors, 1.0))
        assert torch.allclose(found.up @ found.down, expected[format], rtol=1e-4, atol=1e-5)
        assert found.rank <= min(expected[format].shape)
