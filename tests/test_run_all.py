"""Several adapters in one pass over the bases: each gives what it gives alone, and each pair of layers is read once."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file

from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.errors import Interrupted, LoraxError
from lorax.formats import AdapterFile, open_adapter
from lorax.options import Options
from lorax.subspace import Decomposition
from lorax.transfer import Context, by_layer, plan_all, planning, run, run_all
from tests import builders, structure
from tests.samples import Files


@pytest.fixture
def adapters(files: Files, tmp_path: Path) -> list[AdapterFile]:
    """Alike, a part in another order and naming, and one with a layer that the source lacks."""
    some = builders.deltas(reversed(builders.SOME[2:]), rank=3, alpha=1.0)
    other = [*builders.deltas(builders.TEXT + builders.SOME[:3], rank=5), *builders.deltas(builders.CONVOLUTIONS, rank=2)]
    unknown = {f"lora_unet_down_blocks_9_x.lora_{part}.weight": torch.ones(4, 4) for part in ("up", "down")}
    save_file(builders.adapter(other) | unknown, tmp_path / "c.safetensors")
    builders.save_lora(tmp_path / "b.safetensors", some, "diffusers")
    return [open_adapter(path) for path in (files.lora, tmp_path / "b.safetensors", tmp_path / "c.safetensors")]


class Watched(Decomposition):
    """Counts those that are made and those that live."""

    made: ClassVar[list[weakref.ref[Watched]]] = []
    most = 0

    def __init__(self, W: torch.Tensor) -> None:
        super().__init__(W)
        Watched.made.append(weakref.ref(self))
        Watched.most = max(Watched.most, sum(ref() is not None for ref in Watched.made))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    gc.collect()
    Watched.made, Watched.most = [], 0
    monkeypatch.setattr(by_layer, "Decomposition", Watched)
    return Watched


def bases(files: Files, kind: str) -> tuple[Checkpoint, Checkpoint]:
    return open_checkpoint(files.base), open_checkpoint(getattr(files, kind))


@pytest.mark.parametrize("kind", ["target", "pruned", "stranger"])
@pytest.mark.parametrize("method", ["auto", "copy", "lorax", "prolora", "prolora-cross"])
def test_each_gives_what_it_gives_alone(files: Files, adapters: list[AdapterFile], kind: str, method: str) -> None:
    plans = plan_all(adapters, *bases(files, kind), Options(method, threshold=0.3))
    together = run_all(plans)
    for plan, found in zip(plans, together, strict=True):
        alone = run(plan)
        assert found.report == alone.report
        assert list(found.layers) == list(alone.layers)
        for layer, delta in alone.layers.items():
            other = found.layers[layer]
            assert torch.equal(other.up, delta.up)
            assert torch.equal(other.down, delta.down)
            assert other.scale == delta.scale


def test_each_pair_of_layers_is_decomposed_once_and_as_many_at_a_time_as_there_are_workers(
    files: Files, adapters: list[AdapterFile], watched: type[Watched]
) -> None:
    plans = plan_all(adapters, *bases(files, "target"), Options("prolora"))
    run_all(plans)
    touched = {(found.source, found.target) for plan in plans for found in plan.pairs.values() if found}
    assert len(watched.made) == 2 * len(touched) < 2 * sum(len(plan.pairs) for plan in plans)
    assert watched.most <= 2 * torch.get_num_threads()


def test_the_layers_are_paired_once(files: Files, adapters: list[AdapterFile], monkeypatch: pytest.MonkeyPatch) -> None:
    pair, calls = planning.pair, []
    monkeypatch.setattr(planning, "pair", lambda *given: calls.append(given) or pair(*given))
    plan_all(adapters, *bases(files, "pruned"), Options())
    assert len(calls) == 1


def test_progress_counts_the_layers_of_all_and_may_stop_it(files: Files, adapters: list[AdapterFile]) -> None:
    plans = plan_all(adapters, *bases(files, "target"), Options("copy"))
    total = sum(len(plan.pairs) for plan in plans)
    seen: list[tuple[int, int, str]] = []
    run_all(plans, Context(lambda *given: seen.append(given)))
    shares = [done for done, _, _ in seen]
    assert shares == sorted(shares)
    assert shares[-1] == seen[-1][1]
    assert (seen[0][2], seen[-1][2]) == (f"moving layers, 0 of {total}", f"moving layers, {total} of {total}")

    def stop(done: int, total: int, text: str) -> None:
        if text == seen[5][2]:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_all(plans, Context(stop))


def test_one_that_does_not_fit_stops_all_before_any_work(files: Files, adapters: list[AdapterFile], tmp_path: Path) -> None:
    wider = builders.save_lora(tmp_path / "wider.safetensors", builders.deltas(size=structure.WIDER))
    with pytest.raises(LoraxError, match=r"wider\.safetensors"):
        plan_all([*adapters, open_adapter(wider)], *bases(files, "target"), Options())
