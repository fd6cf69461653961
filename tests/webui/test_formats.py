"""Adapters of every format that the real WebUI reads: its decoders give our deltas, and its pictures are those of our plain LoRA.

The adapters hold random values, on layers of every kind; OpenCLIP's attention, with one weight for q, k and v, is among them.
What the WebUI cannot apply is left out: (IA)^3 on the output of a convolution and GLoRA on any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab import writing
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.demo import bundle
from lorax.formats import open_adapter
from lorax.options import Options
from lorax.transfer import plan, run
from tests.builders import State
from tests.webui import narrow_open_clip, narrow_xl
from tests.webui.checkout import needs_types, needs_webui
from tests.webui.drawing import OTHER, SAME
from tests.webui.server import Drawn, WebUI

pytestmark = [needs_webui, needs_types]
RANK, ALPHA = 4, 2.0
RANDOM = torch.Generator().manual_seed(5)
KINDS = ("attn1.to_q", "attn2.to_k", "ff.net.0.proj", "proj_in", "in_layers.2", "0.op", "encoder.layers.0.mlp.fc1")
KINDS += tuple(f"encoder.layers.0.self_attn.{part}_proj" for part in ("q", "k", "v", "out"))
Recipe = Callable[[torch.Tensor], State]


def locon(W: torch.Tensor) -> State:
    m, n, *kernel = W.shape
    one = [1] * len(kernel)
    return {"lora_up.weight": noise(0.25, m, RANK, *one), "lora_down.weight": noise(0.25, RANK, n, *kernel)}


def locon_tucker(W: torch.Tensor) -> State:
    m, n, *kernel = W.shape
    if not kernel:
        return locon(W)
    up, down = noise(0.31, m, RANK, 1, 1), noise(0.31, RANK, n, 1, 1)
    return {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": noise(0.31, RANK, RANK, *kernel)}


def loha(W: torch.Tensor) -> State:
    m, n = W.flatten(1).shape
    return {f"hada_w{i}_{x}": noise(0.42, *shape) for i in (1, 2) for x, shape in (("a", (m, RANK)), ("b", (RANK, n)))}


def loha_tucker(W: torch.Tensor) -> State:
    m, n, *kernel = W.shape
    if not kernel:
        return loha(W)
    shapes = {"w{}_a": (RANK, m), "w{}_b": (RANK, n), "t{}": (RANK, RANK, *kernel)}
    return {f"hada_{part.format(i)}": noise(0.44, *shape) for i in (1, 2) for part, shape in shapes.items()}


def lokr(W: torch.Tensor) -> State:
    m, n = len(W) // 4, W.flatten(1).shape[1] // 4
    return {"lokr_w1": noise(0.39, 4, 4), "lokr_w2_a": noise(0.39, m, RANK), "lokr_w2_b": noise(0.39, RANK, n)}


def lokr_in_factors(W: torch.Tensor) -> State:
    m, n = len(W) // 8, W.flatten(1).shape[1] // 8
    shapes = {"w1_a": (8, RANK), "w1_b": (RANK, 8), "w2_a": (m, RANK), "w2_b": (RANK, n)}
    return {f"lokr_{part}": noise(0.42, *shape) for part, shape in shapes.items()}


def lokr_whole(W: torch.Tensor) -> State:
    m, n, *kernel = W.shape
    return {"lokr_w1": noise(0.25, 4, 4), "lokr_w2": noise(0.25, m // 4, n // 4, *kernel)}


def lokr_tucker(W: torch.Tensor) -> State:
    m, n, *kernel = W.shape
    if not kernel:
        return lokr(W)
    shapes = {"w1": (4, 4), "w2_a": (RANK, m // 4), "w2_b": (RANK, n // 4), "t2": (RANK, RANK, *kernel)}
    return {f"lokr_{part}": noise(0.42, *shape) for part, shape in shapes.items()}


def full(W: torch.Tensor) -> State:
    return {"diff": noise(0.06, *W.shape)}


def ia3(W: torch.Tensor) -> State:
    return {"weight": noise(0.3, len(W)), "on_input": torch.tensor(0)} if W.dim() == 2 else ia3_on_input(W)


def ia3_on_input(W: torch.Tensor) -> State:
    return {"weight": noise(0.3, W.shape[1], *(1 for _ in W.shape[2:])), "on_input": torch.tensor(1)}


def glora(W: torch.Tensor) -> State:
    m, n = W.shape[:2]
    if W.dim() == 4:
        return locon(W)
    shapes = {"a1": (RANK, n), "a2": (n, RANK), "b1": (RANK, n), "b2": (m, RANK)}
    return {f"{part}.weight": noise(0.17, *shape) for part, shape in shapes.items()}


def oft(W: torch.Tensor) -> State:
    return {"oft_blocks": noise(0.15, len(W) // 8, 8, 8), "alpha": torch.tensor(0.0)}


def oft_with_constraint(W: torch.Tensor) -> State:
    rescale = 1 + noise(0.1, len(W), *(1 for _ in W.shape[1:]))
    return oft(W) | {"rescale": rescale, "alpha": torch.tensor(0.02)}


def oft_of_old(W: torch.Tensor) -> State:
    return {"oft_diag": torch.linalg.qr(torch.eye(8) + noise(0.15, len(W) // 8, 8, 8)).Q.contiguous()}


def boft(W: torch.Tensor) -> State:
    return {"oft_blocks": noise(0.1, 2, len(W) // 8, 8, 8), "alpha": torch.tensor(0.0)}


def dora(W: torch.Tensor) -> State:
    norms = W.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *(1 for _ in W.shape[2:]))
    return locon(W) | {"dora_scale": norms * (1 + noise(0.2, *norms.shape))}


def dora_on_the_output(W: torch.Tensor) -> State:
    norms = W.flatten(1).norm(dim=1).reshape(-1, *(1 for _ in W.shape[1:]))
    return loha(W) | {"dora_scale": norms * (1 + noise(0.2, *norms.shape))}


PREFIXES = {  # of the WebUI's names for layers
    "unet": "diffusion_model_",
    "te": "transformer_",
    "te, OpenCLIP": "model_",
    "te1": "0_transformer_",
    "te2, OpenCLIP": "1_model_",
}
RECIPES = (
    locon,
    locon_tucker,
    loha,
    loha_tucker,
    lokr,
    lokr_in_factors,
    lokr_whole,
    lokr_tucker,
    full,
    ia3,
    ia3_on_input,
    glora,
    oft,
    oft_with_constraint,
    oft_of_old,
    boft,
    dora,
    dora_on_the_output,
)


def noise(size: float, *shape: int) -> torch.Tensor:
    return size * torch.randn(shape, generator=RANDOM)


@dataclass(frozen=True)
class Family:
    """A checkpoint that the WebUI has loaded, some of its layers, and its picture without an adapter."""

    webui: WebUI
    base: Checkpoint
    layers: list[str]
    plain: Drawn

    def key(self, layer: str) -> str:
        """The WebUI's name for a layer, under which it applies a network."""
        component, _, path = layer.partition(".")
        if next(one.open_clip for one in self.base.family.components if one.name == component):
            path = path.replace("text_model.encoder.layers", "transformer.resblocks")
            path = path.replace("mlp.fc1", "mlp.c_fc").replace("self_attn", "attn")
            component += ", OpenCLIP"
        return PREFIXES[component] + path.replace(".", "_")


@pytest.fixture(scope="module", params=[bundle.BASE, narrow_open_clip.SD2, narrow_xl.XL])
def family(started: WebUI, request: pytest.FixtureRequest) -> Family:
    base = open_checkpoint(started.checkpoints / f"{request.param}.safetensors")
    found: dict[tuple[str, str], str] = {}
    for layer in base.layers:
        if kind := next((kind for kind in KINDS if layer.endswith(kind)), None):
            found.setdefault((layer.partition(".")[0], kind), layer)
    started.load(request.param)
    return Family(started, base, list(found.values()), started.draw())


def save(family: Family, state: State, name: str) -> tuple[Path, Path]:
    """The adapter and the plain LoRA of it, in the WebUI's folder."""
    adapter, converted = (family.webui.loras / f"{stem}.safetensors" for stem in (name, f"{name}-plain"))
    save_file(state, adapter)
    planned = plan(open_adapter(adapter), family.base, family.base, Options("copy"))
    writing.write(planned, run(planned), converted, dtype="fp32", overwrite=True)
    return adapter, converted


def assert_same_pictures(family: Family, name: str) -> None:
    drawn, converted = (family.webui.draw(f"<lora:{stem}:1>") for stem in (name, f"{name}-plain"))
    assert drawn.distance(converted) <= SAME
    assert drawn.distance(family.plain) >= OTHER


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_decoded_and_drawn_as_the_webui_does(family: Family, recipe: Recipe) -> None:
    name, state = f"{family.base.title}-{recipe.__name__}".replace("_", "-"), {}
    for layer in family.layers:
        W = family.base.weight(layer).reshape(family.base.layers[layer])
        parts = {"alpha": torch.tensor(ALPHA)} | recipe(W)
        state |= {f"{family.base.names.kohya(layer)}.{part}": tensor for part, tensor in parts.items()}
    adapter, _ = save(family, state, name)
    family.webui.draw()  # the decoders are given the weights as they are without a network
    decoded = load_file(family.webui.call("probe/decode", {"network": name}))
    ours = open_adapter(adapter).deltas_of(family.base)
    assert set(decoded) == {family.key(layer) for layer in ours}
    for layer, delta in ours.items():
        dW, theirs = delta.scale * delta.up @ delta.down, decoded[family.key(layer)].flatten(1)
        assert (dW - theirs).norm() <= 1e-5 * theirs.norm(), layer
    assert_same_pictures(family, name)


def test_norms_and_biases_are_drawn_as_they_were(family: Family) -> None:
    state = {}
    for layer in family.layers:
        if f"{layer}.bias" in family.base.vectors and layer.startswith("unet."):
            name = family.base.names.kohya(layer)
            state |= {
                f"{name}.diff": noise(0.03, *family.base.layers[layer]),
                f"{name}.diff_b": noise(0.2, family.base.layers[layer][0]),
            }
    for parameter, size in family.base.vectors.items():
        layer, _, kind = parameter.rpartition(".")
        if layer in family.base.names.norms.values() and layer.startswith("unet."):
            state[f"{family.base.names.kohya(layer)}.{kind[0]}_norm"] = noise(0.1, size)
    name = f"{family.base.title}-vectors"
    _, converted = save(family, state, name)
    assert load_file(converted).keys() == state.keys()
    assert_same_pictures(family, name)


def test_a_part_of_openclips_attention_is_drawn_once_it_is_converted(family: Family) -> None:
    """The WebUI applies q, k, v and out of it or nothing, and drops a part without a word; what we write has all of them."""
    encoder = next((component.name for component in family.base.family.components if component.open_clip), None)
    if encoder is None:
        pytest.skip("no OpenCLIP in this family")
    layer = f"{encoder}.text_model.encoder.layers.0.self_attn.v_proj"
    m, n = family.base.layers[layer]
    parts = {"lora_up.weight": noise(1.0, m, RANK), "lora_down.weight": noise(1.0, RANK, n)}
    name = f"{family.base.title}-part"
    save(family, {f"{family.base.names.kohya(layer)}.{part}": tensor for part, tensor in parts.items()}, name)
    assert family.webui.draw(f"<lora:{name}:1>").distance(family.plain) == 0
    assert family.webui.draw(f"<lora:{name}-plain:1>").distance(family.plain) >= OTHER


def test_of_the_refiner_the_unets_layers_are_applied(started: WebUI) -> None:
    """The WebUI looks for the refiner's only text encoder as for SDXL's second, and finds none of its layers."""
    refiner = open_checkpoint(started.checkpoints / f"{narrow_open_clip.REFINER}.safetensors")
    started.load(narrow_open_clip.REFINER)
    family = Family(started, refiner, [], started.draw())
    for component, applied in (("unet", True), ("te2", False)):
        state = {}
        for layer in refiner.layers:
            if layer.startswith(f"{component}.") and layer.endswith(KINDS):
                parts = {"alpha": torch.tensor(ALPHA)} | locon(refiner.weight(layer).reshape(refiner.layers[layer]))
                state |= {f"{refiner.names.kohya(layer)}.{part}": tensor for part, tensor in parts.items()}
        save(family, state, f"refiner-{component}")
        if applied:
            assert_same_pictures(family, f"refiner-{component}")
        else:
            assert started.draw(f"<lora:refiner-{component}:1>").distance(family.plain) == 0
