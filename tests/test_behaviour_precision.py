"""Running models in half precision, and with less memory: what comes out is what float32 gives, nearly or exactly."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch

from lorax.demo.bundle import BASE
from lorax.devices import precision
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.low_rank import LowRank
from lorax.methods import bridge, refine
from lorax.models import Factors, Lesson, NewNoise, adapted, effect, recomputed, sampling, train
from lorax.models.optimizer import LARGEST_SCALE, Optimizer
from lorax.models.prompts import Prompts
from lorax.progress import Meter
from lorax.runner import Runner, Runners
from tests.lab_models import LOCON, LORA


def computes(dtype: torch.dtype) -> bool:
    """Whether this torch convolves in it on a processor; old ones do not in float16."""
    try:
        torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3, dtype=dtype), torch.ones(1, 1, 3, 3, dtype=dtype))
    except RuntimeError:
        return False
    return True


HALVES = [dtype for dtype in (torch.bfloat16, torch.float16) if computes(dtype)]
PROMPTS = ["sun", "cat face", "red car", "house"]


@pytest.fixture
def base(models: Path) -> Path:
    return models / f"{BASE}.safetensors"


def noisy(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, 8, 8, generator=made), torch.arange(count) * 200 + 100


def change(runner: Runner, lora: Path) -> torch.Tensor:
    """Return what the adapter's deltas, as hooks, change in the prediction."""
    latents, times = noisy()
    with torch.no_grad():
        alone = runner.predict(latents, times, runner.encode(PROMPTS))
        with adapted(runner, open_adapter(lora).deltas_of(runner.base)):
            return runner.predict(latents, times, runner.encode(PROMPTS)) - alone


def gradients(runner: Runner, scale: float = 1.0, blocks: bool = False) -> dict[str, torch.Tensor]:
    """Return the gradients of the mean loss, for the factors of every layer."""
    layers = open_adapter(LOCON).deltas_of(runner.base)
    factors = {
        layer: (dW.up.clone().requires_grad_(), dW.down.clone().requires_grad_(), dW.scale) for layer, dW in layers.items()
    }
    latents, times = noisy()
    with (
        adapted(runner, {layer: LowRank(*values) for layer, values in factors.items()}),
        recomputed(runner.blocks() if blocks else ()),
    ):
        loss = (runner.predict(latents, times, runner.encode(PROMPTS)) - latents).square().mean()
        torch.autograd.backward(scale * loss)
    return {f"{layer}.{i}": values[i].grad / scale for layer, values in factors.items() for i in (0, 1)}


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.dtype == expected.dtype == torch.float32
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_predicts_and_changes_as_float32_does(base: Path, dtype: torch.dtype) -> None:
    whole, half = Runner(base), Runner(base, dtype=dtype)
    assert next(half.unet.parameters()).dtype == next(half.text_encoder.parameters()).dtype == dtype
    latents, times = noisy()
    with torch.no_grad():
        expected, found = (one.predict(latents, times, one.encode(PROMPTS)) for one in (whole, half))
    assert 0 < apart(found, expected) < 0.03
    assert 0 < apart(change(half, LOCON), change(whole, LOCON)) < 0.15  # a difference of two that are alike


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_in_half_precision_are_those_of_float32(base: Path, dtype: torch.dtype) -> None:
    expected, found = gradients(Runner(base)), gradients(Runner(base, dtype=dtype), scale=LARGEST_SCALE)
    assert expected.keys() == found.keys()
    joined = [torch.cat([values[name].flatten() for name in expected]) for values in (found, expected)]
    assert 0 < apart(*joined) < 0.05


@pytest.mark.parametrize("dtype", HALVES)
def test_the_autoencoder_stays_in_float32(base: Path, dtype: torch.dtype) -> None:
    whole, half = Runner(base), Runner(base, dtype=dtype)
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents = half.encode_pictures(pictures)
    assert torch.equal(latents, whole.encode_pictures(pictures))
    assert torch.equal(half.decode(latents), whole.decode(latents))


def test_training_in_half_precision_gains_what_float32_gains(base: Path) -> None:
    """In bfloat16; in float16 a processor takes minutes. The factors are of float32, whatever the model's."""
    gains, prompts = [], PROMPTS * 4
    source = Runner(base)
    latents = sampling.draw(source, open_adapter(LORA).deltas_of(source.base), prompts, Meter())
    for dtype in (torch.float32, torch.bfloat16):
        target, seen = Runner(base, dtype=dtype), {}
        start = refine.blank(target, dict.fromkeys(open_adapter(LORA).deltas_of(target.base), 4))
        watch = partial(_noted, seen)
        lesson = Lesson(NewNoise(target, latents, prompts), steps=10, batch=16, rate=1e-2)
        layers = train(target, Factors(start, target.device), lesson, Meter(), watch=watch)
        assert {dW.up.dtype for dW in layers.values()} == {torch.float32}
        gains.append(1 - seen[10] / seen[0])
    assert gains[0] > 0.03
    assert gains[1] == pytest.approx(gains[0], rel=0.1)


def _noted(seen: dict[int, float], step: int, loss: float, layers: Mapping[str, LowRank]) -> None:
    seen[step] = loss


def test_small_gradients_survive_float16_by_the_scale() -> None:
    """1e-9 is nothing there."""
    module, x = torch.nn.Linear(4, 3, bias=False, dtype=torch.float16), torch.ones(1, 2, 4, dtype=torch.float16)
    found = []
    for scale in (1.0, LARGEST_SCALE):
        up = torch.ones(3, 2, requires_grad=True)
        torch.autograd.backward(scale * 1e-9 * effect(module, x, LowRank(up, torch.ones(2, 4))).float().sum())
        assert up.grad is not None
        found.append(up.grad / scale)
    assert not found[0].any()
    assert torch.allclose(found[1], torch.full((3, 2), 8e-9), rtol=1e-2, atol=0)


def test_a_step_that_overflows_is_no_step_of_the_training() -> None:
    """If the first gradients overflow at eight scales, the result is as if none did, but for the scale."""

    def trained(most: float) -> tuple[Optimizer, list[float]]:
        parameter, scales = torch.nn.Parameter(torch.ones(2)), []
        optimizer = Optimizer([parameter], 1e-2)

        def gradient(scale: float) -> None:
            scales.append(scale)
            torch.autograd.backward(scale * (parameter - 3).square().sum() * (torch.inf if scale > most else 1))

        for _ in range(3):
            optimizer.advance(gradient)
        return optimizer, scales

    (smooth, scales), (rough, tried) = trained(LARGEST_SCALE), trained(LARGEST_SCALE / 2**8)
    assert scales == [LARGEST_SCALE] * 3
    assert tried == [LARGEST_SCALE / 2**i for i in range(9)] + [LARGEST_SCALE / 2**8] * 2
    assert smooth.step == rough.step == 3
    assert torch.equal(smooth.parameters[0], rough.parameters[0])
    assert torch.equal(smooth.average[0], rough.average[0])
    with pytest.raises(LoraxError, match="NaN or infinite"):
        trained(0)


def test_a_target_whose_predictions_overflow_is_named(base: Path) -> None:
    """The error comes before a step is taken, and so also if few are."""
    target = Runner(base)
    next(target.unet.parameters()).data.fill_(torch.inf)
    start = refine.blank(target, dict.fromkeys(open_adapter(LORA).deltas_of(target.base), 4))
    latents = torch.randn(len(PROMPTS), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    lesson = Lesson(NewNoise(target, latents, PROMPTS), steps=1, batch=16, rate=1e-2)
    with pytest.raises(LoraxError, match=r"base\.safetensors: what the model computes is NaN or infinite"):
        train(target, Factors(start, target.device), lesson, Meter())


def test_what_half_precision_cannot_hold_is_kept_as_it_is_and_what_overflows_is_named(base: Path) -> None:
    model = Runner(base)
    assert bridge._kept(torch.tensor([1.0, 2.0]), model).dtype == torch.half
    assert torch.equal(bridge._kept(torch.tensor([1.0, 1e6]), model), torch.tensor([1.0, 1e6]))
    with pytest.raises(LoraxError, match="what the model computes is NaN or infinite"):
        bridge._kept(torch.tensor([1.0, float("inf")]), model)


def test_what_is_recomputed_has_the_same_gradients(base: Path) -> None:
    runner = Runner(base)
    expected, found = gradients(runner), gradients(runner, blocks=True)
    assert all(torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-7) for name in expected)
    assert any(gradient.any() for gradient in expected.values())
    assert not any("forward" in vars(block) for block in runner.blocks())


def test_what_is_recomputed_is_not_kept(base: Path) -> None:
    """Bytes that autograd keeps of a prediction, each storage once."""
    runner, kept = Runner(base), []
    layers = open_adapter(LOCON).deltas_of(runner.base)
    latents, times = noisy()
    for blocks in ((), runner.blocks()):
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        factors = {
            layer: LowRank(dW.up.clone().requires_grad_(), dW.down.clone().requires_grad_(), dW.scale)
            for layer, dW in layers.items()
        }
        with adapted(runner, factors), recomputed(blocks), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            predicted = runner.predict(latents, times, runner.encode(PROMPTS))
            own = {one.untyped_storage().data_ptr() for part in (runner.unet, runner.text_encoder) for one in part.parameters()}
            kept.append(sum(size for pointer, size in storages.items() if pointer not in own))
            del predicted
    assert kept[1] < 0.6 * kept[0]


def test_a_forward_that_a_host_has_put_there_comes_back() -> None:
    block = torch.nn.Linear(2, 2)
    block.forward = theirs = lambda x: 3 * x
    with recomputed([block]):
        assert torch.equal(block(torch.ones(2)), torch.full((2,), 3.0))
    assert block.forward is theirs


def test_prompts_are_encoded_once_unless_the_text_encoder_is_adapted(base: Path) -> None:
    runner, encoded = Runner(base), []
    runner.size = 64  # a picture at a time
    encode = runner.encode
    runner.encode = lambda prompts: (encoded.append(prompts), encode(prompts))[1]  # type: ignore[method-assign]
    said = Prompts(runner, ["sun", "cat", "sun"], ["unet.input_blocks.0.0"], Meter())
    assert encoded == [["sun"], ["cat"]]
    assert torch.equal(said(["cat"]).context, encode(["cat"]).context)
    assert encoded == [["sun"], ["cat"]]
    assert torch.equal(Prompts(runner, ["sun"], ["te.layer"], Meter())(["sun"]).context, encode(["sun"]).context)
    assert encoded[2:] == [["sun"]]


def test_a_closed_model_holds_nothing(base: Path) -> None:
    with Runners(torch.device("cpu")).opened(Runner(base).base) as runner:
        runner.encode_pictures(torch.rand(1, 3, 64, 64))
    parts = [runner.unet, runner.vae, runner.text_encoder]
    assert {parameter.device.type for part in parts for parameter in part.parameters()} == {"meta"}


def test_the_processor_computes_in_float32(base: Path) -> None:
    assert precision(torch.device("cpu")) == torch.float32
    opened, device = Runner(base).base, torch.device("cpu")
    with Runners(device).opened(opened) as whole, Runners(device, torch.bfloat16).opened(opened) as half:
        assert (whole.dtype, half.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card")
def test_on_a_graphics_card_parts_make_room(base: Path) -> None:
    with Runners(torch.device("cuda")).opened(Runner(base).base) as runner:
        runner.encode_pictures(torch.rand(1, 3, 64, 64))
        assert {part.device.type for part in runner.vae.parameters()} == {"cpu"}
        given = runner.encode(["sun"])
        latents = torch.randn(1, 4, 8, 8, requires_grad=True)
        torch.autograd.backward(runner.predict(latents, torch.tensor([500]), given).sum())
        assert {part.device.type for part in runner.text_encoder.parameters()} == {"cpu"}
        assert torch.equal(runner.encode(["sun"]).context, given.context)
