"""What is compared: every method of the registry, the copy by name, and controls that know nothing of the style."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from lab import writing
from lab.change import match_change
from lab.paths import CACHE
from lab.zoo import ADAPTERS, STYLES, Adapter
from lorax.checkpoint import Checkpoint
from lorax.demo.bundle import captions
from lorax.files import Cache
from lorax.formats import open_adapter
from lorax.low_rank import LowRank
from lorax.methods import BRIDGE, METHODS, REFINE, Kinship, refine, runs_models
from lorax.models import Watch
from lorax.options import Options, Running
from lorax.runner import Runners
from lorax.transfer import Context, Layers, Moved, Plan, by_models, plan, run

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25)
RANKS = ("5%", "10%", "25%", "50%", "75%", "energy:0.9", "energy:0.95", "energy:0.99")
THRESHOLDS = (0.2, 0.5, 0.8, 0.9, 0.95)
STEPS = (10, 20, 30, 50, 70, 100)  # after which refine is looked at
FROM_BRIDGE, CHANGE = "refine from bridge", "match the change"
HIGHER = "refine, rank 16"
BY_NAME, COPY, AUTO, LORAX, RANDOM, WRONG = "copy by name", "copy", "auto", "lorax", "random", "wrong style"
PROJECTING = [name for name in METHODS if name not in (COPY, AUTO) and not runs_models(name)]


@dataclass(frozen=True)
class Variant:
    name: str
    options: Options
    strengths: tuple[float, ...] = STRENGTHS
    question: str = "headline"  # which table or plot it is for: headline, rank, threshold, behaviour or steps
    start: str | None = None  # of refine
    steps: int | None = None
    pictures: int | None = None
    constants: tuple[tuple[str, object], ...] = ()  # of refine, which are no options of the tool
    lora_rank: int | None = None

    @property
    def running(self) -> Running:
        return Running(captions=captions(), steps=self.steps, pictures=self.pictures, lora_rank=self.lora_rank)

    def at(self, step: int) -> str:
        """The name under which refine's result after so many steps is stored."""
        return f"{self.name} to step {step}"


def _variants() -> list[Variant]:
    headline = [
        Variant(BY_NAME, Options("copy", pairing="name")),
        Variant(COPY, Options("copy")),
        Variant(AUTO, Options("auto")),
        *(Variant(name, Options(name, threshold=0)) for name in PROJECTING),
        Variant("lorax, gated at 0.8", Options("lorax"), (1.0,)),
        Variant(RANDOM, Options("copy"), (1.0,)),
        Variant(WRONG, Options("copy"), (1.0,)),
    ]
    ranks = [
        Variant(f"{name} {rank}", Options(name, rank=rank, threshold=0), (1.0,), "rank") for name in PROJECTING for rank in RANKS
    ]
    thresholds = [
        Variant(f"{name} above {threshold}", Options(name, threshold=threshold), (1.0,), "threshold")
        for name in PROJECTING
        for threshold in THRESHOLDS
    ]
    behaviour = [
        *(Variant(name, Options(name), (1.0,), "behaviour") for name in filter(runs_models, METHODS)),
        Variant(FROM_BRIDGE, Options(REFINE), (1.0,), "behaviour", BRIDGE),
        Variant(HIGHER, Options(REFINE), (1.0,), "behaviour", lora_rank=16),
        Variant(CHANGE, Options(REFINE), (1.0,), "behaviour", steps=50),
    ]
    steps = [
        Variant(variant.at(step), variant.options, (1.0,), "steps", variant.start)
        for variant in behaviour
        if variant.options.method == REFINE
        for step in STEPS
    ]
    return [*headline, *ranks, *thresholds, *behaviour, *steps]


VARIANTS = {variant.name: variant for variant in _variants()}


def asked(question: str, method: str | None = None) -> list[Variant]:
    """The variants that answer a question, of one method or of all."""
    return [one for one in VARIANTS.values() if one.question == question and method in (None, one.options.method)]


def moving(variant: Variant, adapter: Adapter) -> Adapter:
    """What is moved to be judged as ``adapter``."""
    return _another(adapter) if variant.name == WRONG else adapter


def move(
    variant: Variant,
    adapter: Adapter,
    source_name: str,
    source: Checkpoint,
    target: Checkpoint,
    watch: Watch | None = None,
) -> tuple[Plan, Moved]:
    """Plan a variant and move it. ``watch`` sees what refine trains.

    Every plan has the captions that the small models know, since ideas that run them start from the plan of a copy.
    """
    opened = open_adapter(moving(variant, adapter).path(source_name))
    planned = plan(opened, source, target, variant.options, variant.running)
    if runs_models(variant.options.method):
        if variant.name == CHANGE:
            return planned, _changed(planned, watch)
        if not variant.constants:
            return planned, by_models.run(planned, _context(), start=variant.start, watch=watch)
        # What is kept of a training does not tell of the constants, and nothing is kept of one that is watched.
        with mock.patch.multiple(refine, **dict(variant.constants)):
            return planned, by_models.run(planned, _context(), start=variant.start, watch=watch or _unseen)
    moved = run(planned)
    if variant.name == RANDOM:
        generator = torch.Generator().manual_seed(0)
        drawn = ((layer, random_like(delta, generator)) for layer, delta in moved.layers.items())
        moved = Moved(Layers.of(drawn), moved.report)
    return planned, moved


def _unseen(step: int, loss: float, layers: Mapping[str, LowRank]) -> None:
    """See nothing of a training."""


def _changed(planned: Plan, watch: Watch | None) -> Moved:
    """From what the first study started from: ``auto`` between relatives, else ``bridge``, with refine's rates."""
    moved, rate = run(dataclasses.replace(planned, options=Options(AUTO))), refine.EFFORTS[Kinship.RELATIVES].rate
    if not moved.layers:
        rate = refine.EFFORTS[Kinship.STRANGERS].rate
        moved = run(dataclasses.replace(planned, options=Options(BRIDGE)), _context())
    found = match_change(planned, moved.layers, steps=planned.running.steps or 0, rate=rate, watch=watch)
    return Moved(Layers.of(found.items()), moved.report)


def _context() -> Context:
    """Return what runs the models, with a cache in which what sources draw is kept."""
    return Context(cache=Cache(CACHE / "behaviour", 1 << 30, 0), models=Runners(torch.device("cpu")))


def kept_file(variant: Variant, adapter: Adapter, source: str, target: str) -> Path:
    """Where the sweep leaves what a method that runs the models has moved, which takes minutes."""
    return CACHE / "moved" / f"{variant.name} {adapter.name} {source} {target}.safetensors".replace(" ", "_")


@contextmanager
def written(planned: Plan, moved: Moved) -> Iterator[Path | None]:
    """A file with what was moved, for the length of the block, to run a model with; None where nothing was."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moved.safetensors"
        if moved.layers:
            writing.write(planned, moved, path, dtype="fp32")
        yield path if moved.layers else None


def random_like(delta: LowRank, generator: torch.Generator) -> LowRank:
    """A delta of the same shape, rank and norm, in random directions."""
    up = torch.randn(delta.up.shape, generator=generator)
    drawn = LowRank(up, torch.randn(delta.down.shape, generator=generator))
    return LowRank(drawn.up, drawn.down, delta.norm() / drawn.norm())


def _another(adapter: Adapter) -> Adapter:
    """The next style's adapter of the same rank."""
    position = STYLES.index(adapter.icons) if adapter.icons in STYLES else -1
    return ADAPTERS[f"{STYLES[(position + 1) % len(STYLES)]}-r{adapter.rank}"]
