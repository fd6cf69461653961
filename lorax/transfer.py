"""The main job: plan which layer feeds which, then stream the adapter's layers through a method."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lorax.adapter import LowRank
from lorax.cache import Cache
from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError
from lorax.formats import AdapterFile
from lorax.layers import component_of
from lorax.methods import BEHAVIOURAL, METHODS
from lorax.methods.auto import judge
from lorax.moving import End, Pass
from lorax.options import DENSE_RANK, Options, Running
from lorax.pairing import Pair, pair
from lorax.prediction import of_metadata, warning
from lorax.report import LayerRecord, Proposal, Report
from lorax.streaming import Stream
from lorax.vectors import Vector, pair_vectors

if TYPE_CHECKING:
    from lorax.behaviour.model import Models

Progress = Callable[[int, int, str], None]  # done, total, what is being worked on; raises to stop
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Every layer of the adapter with its pair, or with the reason why it has none."""

    adapter: AdapterFile
    source: Checkpoint
    target: Checkpoint
    options: Options
    pairs: dict[str, Pair | None]  # name in the adapter -> pair; None where the source has no such layer
    of_bases: dict[str, Pair]  # source layer -> its pair, of all
    vectors: list[Vector]
    running: Running = field(default_factory=Running)

    def limit(self, name: str) -> int | None:
        """The largest rank that the layer is written with; None: any. A delta that is not low-rank in the file becomes so.

        That is, unless its bias goes along, for which it is written whole.
        """
        free = self.adapter.is_low_rank(name) or any(vector.layer == name and vector.target for vector in self.vectors)
        return self.options.max_rank or (None if free else DENSE_RANK)

    def prediction(self, base: Checkpoint) -> str | None:
        """What the base predicts, as it says itself, or as the adapter says of its source; None where neither does."""
        return base.prediction or (of_metadata(self.adapter.metadata) if base is self.source else None)

    @property
    def mismatch(self) -> str | None:
        """What is to be said where source and target do not predict the same."""
        source, target = (self.prediction(base) for base in (self.source, self.target))
        return warning(source, self.source.path.name, target, self.target.path.name)

    @property
    def within_family(self) -> bool:
        """Otherwise embeddings, norms and biases mean nothing to the target."""
        return self.source.family == self.target.family

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Bundled ones, which go along as they are."""
        return tuple(self.adapter.embeddings) if self.within_family else ()

    @property
    def inputs(self) -> tuple[Path, ...]:
        """What is read, and so must not be written: the adapter's file, and the bases' files or folders."""
        return self.adapter.path, self.source.path, self.target.path

    @cached_property
    def component(self) -> str:
        """By which the bases are judged: the family's first that the adapter has. Many unrelated UNets share a text encoder."""
        touched = {component_of(found.source) for found in self.pairs.values() if found}
        return next((component.name for component in self.source.family.components if component.name in touched), "")

    def is_judged(self, name: str) -> bool:
        """Whether the layer is of that component."""
        found = self.pairs[name]
        return found is not None and component_of(found.source) == self.component

    def same_shape(self, name: str) -> bool:
        """Of both weights of a layer that has a pair, as far as their inputs mean the same."""
        if (found := self.pairs[name]) is None or found.target is None:
            return False
        (m_s, n_s), (m_t, n_t) = self.source.matrix(found.source), self.target.matrix(found.target)
        return m_s == m_t and (n_s == n_t or found.columns is not None)


@dataclass(frozen=True)
class Moved:
    """The transferred adapter: target layer -> delta, and what happened to every layer.

    ``vectors``: target parameter, as ``unet.out.0.bias`` -> float32, what is added to norms and biases.
    """

    layers: dict[str, LowRank] = field(repr=False)
    report: Report
    vectors: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)


def plan(adapter: AdapterFile, source: Checkpoint, target: Checkpoint, options: Options, running: Running | None = None) -> Plan:
    """Resolve the adapter's layers on the source and pair them with the target's. Reads no weight where names agree.

    Raises LoraxError when adapter, source and target do not fit together.
    """
    return plan_all([adapter], source, target, options, running)[0]


def plan_all(
    adapters: Iterable[AdapterFile], source: Checkpoint, target: Checkpoint, options: Options, running: Running | None = None
) -> list[Plan]:
    """The same for several adapters, for which the bases' layers are paired once."""
    resolved = [(adapter, adapter.layers_of(source)) for adapter in adapters]
    pairs = pair(source, target, options.pairing)
    return [
        Plan(
            adapter,
            source,
            target,
            options,
            {name: pairs[layer] if layer else None for name, layer in layers.items()},
            pairs,
            pair_vectors(adapter, source, target, pairs, cut=options.max_rank is not None),
            running or Running(),
        )
        for adapter, layers in resolved
    ]


def run(plan: Plan, progress: Progress = lambda done, total, name: None, cache: Cache | None = None) -> Moved:
    """Stream every layer through the method. ``progress(done, total, name)`` may raise to cancel; nothing is left behind.

    When the method judges that source and target are not relatives, ``report.declined`` says so and no layer is moved.
    """
    return run_all([plan], progress, cache)[0]


def run_all(
    plans: Sequence[Plan],
    progress: Progress = lambda done, total, name: None,
    cache: Cache | None = None,
    *,
    survey: bool = False,
    models: Models | None = None,
) -> list[Moved]:
    """The same for the plans of one ``plan_all``, in one pass over the bases: each gives what it gives alone.

    What is found of large layers is kept in ``cache``, and is taken from there; so is, until it ends, what a method that trains
    needs to go on after it was stopped. A ``survey`` measures the similarity of every layer, for show, also where the method
    decides by a sample of them: it moves the same, and takes longer. Of a method that runs the models it runs none and moves
    nothing: the report says what would be done, and what that takes. ``models`` runs the bases for the methods that need it; by
    default diffusers does.

    ``done`` and ``total`` count the layers of all adapters; of a method that runs the models, the steps of each adapter's.
    """
    if plans[0].options.method in BEHAVIOURAL:
        from lorax import behaviour

        if survey:
            return behaviour.foretold(plans, progress, cache)
        models = models or _runners(plans[0].options)
        return [behaviour.run(plan, models, progress, cache) for plan in plans]
    total, done = sum(len(plan.pairs) for plan in plans), itertools.count()
    moving = Pass(plans, cache, survey)
    stream = Stream(pick_device(plans[0].options.device), moving.size, moving.load, moving.work)
    for sampled in (True, False):
        for (number, name), end in itertools.chain.from_iterable(stream(moving.tasks(sampled))):
            progress(next(done), total, name)
            moving.ended[number][name] = end
    progress(total, total, "")
    return [
        _concluded(plan, [moving.ended[number][name] for name in plan.pairs], moving.deciding(number))
        for number, plan in enumerate(plans)
    ]


def _runners(options: Options) -> Models:
    try:
        from lorax.runner import Runners
    except ModuleNotFoundError as error:
        raise LoraxError(
            f"method {options.method} runs the models and needs {error.name}, which is not installed here. Install it with "
            "pip install -e .[demo], or choose a method that needs the weights alone."
        ) from error
    return Runners(pick_device(options.device))


def pick_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is CUDA where there is one, else the CPU.

    ``mps`` is the CPU too, and a warning is logged: Apple's MPS has no float64, in which the subspaces are computed. Raises
    LoraxError when the device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    exists = available.get(kind, False) and (not number or (kind == "cuda" and number.isdigit()))
    if not exists or (number and int(number) >= torch.cuda.device_count()):
        raise LoraxError(
            f"device {name!r}: not available here. Choose auto, or one of {', '.join(d for d in available if available[d])}."
        )
    if name == "mps":
        log.warning("device mps: it has no float64, which the transfer needs. The CPU is used instead.")
        return torch.device("cpu")
    return torch.device(name)


def _concluded(plan: Plan, ends: Iterable[End], deciding: Collection[str]) -> Moved:
    """What is said and done of an adapter as a whole, once the end of each of its layers is known."""
    records, layers = [], {}
    for record, moved in ends:
        records.append(record)
        if moved is not None and record.target is not None:
            layers[record.target] = moved
    report = Report(records, plan.options.method, mismatch=plan.mismatch)
    strength = METHODS[plan.options.method].strength(report.overlap)
    unrelated, declined, why = _unrelated(plan, records, deciding), None, "the bases are not related"
    proposals: tuple[Proposal, ...] = ()
    if unrelated and METHODS[plan.options.method].declines:
        from lorax.behaviour.proposals import proposals_for

        proposals = proposals_for(plan)
        declined = f"{unrelated} Weights alone transfer nothing between such bases, and a copy would do harm."
    elif strength == 0:
        declined = (
            f"{plan.target.path} already has {report.overlap:.0%} of what {plan.adapter.path} adds. Use it without the LoRA."
        )
        why = "the target has it already"
    if declined:
        records = [_unmoved(record, why) if record.status == "transferred" else record for record in records]
        report = dataclasses.replace(report, records=records, declined=declined, unrelated=unrelated, proposals=proposals)
        return Moved({}, report)
    layers = {layer: dataclasses.replace(delta, scale=strength * delta.scale) for layer, delta in layers.items()}
    vectors = [_ended(vector, layers) for vector in plan.vectors]
    report = dataclasses.replace(
        report, unrelated=unrelated, strength=strength, embeddings=plan.embeddings, vectors=tuple(vectors)
    )
    added = {vector.target: strength * plan.adapter.vector(vector.key) for vector in vectors if vector.target}
    return Moved(layers, report, added)


def _ended(vector: Vector, layers: Mapping[str, LowRank]) -> Vector:
    """What becomes of a norm or a bias when these layers were moved: a bias stays behind with its layer."""
    layer, _, parameter = (vector.target or "").rpartition(".")
    if parameter == "bias" and vector.key.endswith(".diff_b") and layer not in layers:
        return dataclasses.replace(vector, target=None, reason="its layer was not transferred")
    return vector


def _unmoved(record: LayerRecord, why: str) -> LayerRecord:
    """What becomes of a moved layer when the transfer is declined as a whole."""
    return record.ended("skipped", why, kept=None, subspace_rank=None, rank=None, compression_error=None)


def _unrelated(plan: Plan, records: list[LayerRecord], deciding: Collection[str]) -> str | None:
    """Why source and target are no relatives, or None when they are, or when no layer has a pair to judge by."""
    if not any(record.target for record in records):
        return None
    judged = [record for record in records if record.target and plan.is_judged(record.name)]
    measured = {r.name for r in judged if r.similarity is not None and r.name in deciding}
    similarities = [r.similarity for r in judged if r.name in measured or not plan.same_shape(r.name)]
    if (judgement := judge(similarities)) is None:
        return None
    return f"{plan.source.path} and {plan.target.path} are not related: in the {plan.component}, {judgement}."
