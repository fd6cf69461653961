"""The main job: plan which layer feeds which, then stream the adapter's layers through a method."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lorax.adapter import LowRank
from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError
from lorax.formats import AdapterFile
from lorax.methods import BEHAVIOURAL, METHODS, Bases
from lorax.options import DENSE_RANK, Options, Running
from lorax.pairing import Pair, pair
from lorax.report import LayerRecord, Report
from lorax.subspace import Decomposition, RankRule

Progress = Callable[[int, int, str], None]  # done, total, what is being worked on; raises to stop
Use = tuple[int, str]  # number of the plan among those of one run, name of the layer in its adapter
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Every layer of the adapter with its pair, or with the reason why it has none."""

    adapter: AdapterFile
    source: Checkpoint
    target: Checkpoint
    options: Options
    pairs: dict[str, Pair | None]  # name in the adapter -> pair; None where the source has no such layer
    running: Running = field(default_factory=Running)

    def limit(self, name: str) -> int | None:
        """The largest rank that the layer is written with; None: any. A delta that is not low-rank in the file becomes so."""
        return self.options.max_rank or (None if self.adapter.is_low_rank(name) else DENSE_RANK)

    @property
    def inputs(self) -> tuple[Path, ...]:
        """What is read, and so must not be written: the adapter's file, and the bases' files or folders."""
        return self.adapter.path, self.source.path, self.target.path


@dataclass(frozen=True)
class Moved:
    """The transferred adapter: target layer -> delta, and what happened to every layer."""

    layers: dict[str, LowRank] = field(repr=False)
    report: Report


def plan(adapter: AdapterFile, source: Checkpoint, target: Checkpoint, options: Options) -> Plan:
    """Resolve the adapter's layers on the source and pair them with the target's. Reads no weight where names agree.

    Raises LoraxError when adapter, source and target do not fit together.
    """
    return plan_all([adapter], source, target, options)[0]


def plan_all(adapters: Iterable[AdapterFile], source: Checkpoint, target: Checkpoint, options: Options) -> list[Plan]:
    """The same for several adapters, for which the bases' layers are paired once."""
    if source.family != target.family:
        raise LoraxError(
            f"{target.path} is {target.family.title}, but {source.path} is {source.family.title}. "
            "Moves between families are not supported yet."
        )
    resolved = [(adapter, adapter.layers_of(source)) for adapter in adapters]
    pairs = pair(source, target, options.pairing)
    return [
        Plan(adapter, source, target, options, {name: pairs[layer] if layer else None for name, layer in layers.items()})
        for adapter, layers in resolved
    ]


def run(plan: Plan, progress: Progress = lambda done, total, name: None) -> Moved:
    """Stream every layer through the method. ``progress(done, total, name)`` may raise to cancel; nothing is left behind.

    When the method judges that source and target are not relatives, ``report.declined`` says so and no layer is moved.
    """
    return run_all([plan], progress)[0]


def run_all(plans: Sequence[Plan], progress: Progress = lambda done, total, name: None) -> list[Moved]:
    """The same for the plans of one ``plan_all``, in one pass over the bases: each gives what it gives alone.

    ``done`` and ``total`` count the layers of all adapters; of a method that runs the models, the steps of each adapter's.
    """
    if plans[0].options.method in BEHAVIOURAL:
        try:
            from lorax import behaviour
        except ModuleNotFoundError as error:
            raise LoraxError(
                f"method {plans[0].options.method} runs the models and needs {error.name}, which is not installed here. Use "
                "it on the command line, where it is, or choose a method that needs the weights alone."
            ) from error
        return [behaviour.run(plan, progress) for plan in plans]
    device = pick_device(plans[0].options.device)
    total, done = sum(len(plan.pairs) for plan in plans), itertools.count()
    ended: list[dict[str, tuple[LayerRecord, LowRank | None]]] = [{} for _ in plans]
    for uses in _by_pair(plans):
        for number, name, end in _through(plans, uses, device, lambda name: progress(next(done), total, name)):
            ended[number][name] = end
    progress(total, total, "")
    return [_concluded(plan, [ends[name] for name in plan.pairs]) for plan, ends in zip(plans, ended, strict=True)]


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


def _by_pair(plans: Sequence[Plan]) -> list[list[Use]]:
    """The layers of all adapters, those together that touch the same pair of the bases' layers."""
    groups: dict[tuple, list[Use]] = {}
    for number, plan in enumerate(plans):
        for name, found in plan.pairs.items():
            key = (found.source, found.target) if found and found.target else (number, name, None)
            groups.setdefault(key, []).append((number, name))
    return list(groups.values())


def _through(
    plans: Sequence[Plan], uses: Iterable[Use], device: torch.device, step: Callable[[str], None]
) -> Iterator[tuple[int, str, tuple[LayerRecord, LowRank | None]]]:
    """Move the layers of one pair, whose weights are read and decomposed once, and are gone when this ends."""
    bases: Bases | None = None
    for number, name in uses:
        step(name)
        plan, found = plans[number], plans[number].pairs[name]
        if found is None or found.target is None:
            yield number, name, (unmatched(plan, name, device), None)
            continue
        dW = plan.adapter.delta(name, plan.source, device).to(device)
        rule = _rule(plan, dW)
        if bases is None or rule != bases.rule:
            bases = dataclasses.replace(bases, rule=rule) if bases else _bases(plan, found.source, found.target, device, rule)
        yield number, name, _move(plan, name, dW, found, bases)


def _rule(plan: Plan, dW: LowRank) -> RankRule:
    """The kept rank. An adapter that was trained in the source's leading subspace would lose something where less is kept."""
    own = plan.options.rank == "auto" and plan.adapter.in_subspace
    return RankRule(str(dW.rank)) if own else plan.options.rule


def unmatched(plan: Plan, name: str, device: torch.device) -> LayerRecord:
    """Of a layer of the adapter that has no pair."""
    found = plan.pairs[name]
    reason = found.reason if found else "the source has no such layer"
    known = found is not None or not plan.adapter.is_on_base(name)
    norm = plan.adapter.delta(name, plan.source, device).norm() if known else 0.0
    return LayerRecord(name, "unmatched", reason, norm, source=found.source if found else None)


def _bases(plan: Plan, source: str, target: str, device: torch.device, rule: RankRule) -> Bases:
    of_source = Decomposition(plan.source.weight(source, device))
    of_target = of_source if plan.source is plan.target else Decomposition(plan.target.weight(target, device))
    return Bases(of_source, of_target, rule)


def _move(plan: Plan, name: str, dW: LowRank, found: Pair, bases: Bases) -> tuple[LayerRecord, LowRank | None]:
    method, options, norm = METHODS[plan.options.method], plan.options, dW.norm()
    record = LayerRecord(
        name,
        "skipped",
        "",
        norm,
        source=found.source,
        target=found.target,
        pairing=found.reason,
        similarity=bases.similarity,
        overlap=bases.overlap(dW),
    )
    gated = method.gated and options.threshold > 0  # similarity is a little below 0 where it is less than chance
    if gated and bases.similarity is not None and bases.similarity < options.threshold:
        return record.ended("skipped", f"similarity {bases.similarity:.2f} is below the threshold {options.threshold:g}"), None
    moved, how = method.move(dW, bases)
    if moved is None:
        return record.ended("skipped", how), None
    if gated and bases.similarity is None:
        how += "; similarity is undefined for unequal shapes, so not gated"
    kept, subspace_rank = moved.norm() / norm if norm > 0 else 1.0, None if moved is dW else bases.r
    moved, error = moved.compressed(plan.limit(name))
    measured = {"kept": kept, "subspace_rank": subspace_rank, "rank": moved.rank, "compression_error": error}
    return record.ended("transferred", how, **measured), moved.to("cpu")


def _concluded(plan: Plan, ends: Iterable[tuple[LayerRecord, LowRank | None]]) -> Moved:
    """What is said and done of an adapter as a whole, once the end of each of its layers is known."""
    records, layers = [], {}
    for record, moved in ends:
        records.append(record)
        if moved is not None and record.target is not None:
            layers[record.target] = moved
    report = Report(records, plan.options.method)
    strength = METHODS[plan.options.method].strength(report.overlap)
    declined, why = _declined(plan, records), "the bases are not related"
    if declined is None and strength == 0:
        declined = (
            f"{plan.target.path} already has {report.overlap:.0%} of what {plan.adapter.path} adds. Use it without the LoRA."
        )
        why = "the target has it already"
    if declined:
        records = [_unmoved(record, why) if record.status == "transferred" else record for record in records]
        return Moved({}, Report(records, plan.options.method, declined))
    layers = {layer: dataclasses.replace(delta, scale=strength * delta.scale) for layer, delta in layers.items()}
    return Moved(layers, dataclasses.replace(report, strength=strength, embeddings=tuple(plan.adapter.embeddings)))


def _unmoved(record: LayerRecord, why: str) -> LayerRecord:
    """What becomes of a moved layer when the transfer is declined as a whole."""
    return record.ended("skipped", why, kept=None, subspace_rank=None, rank=None, compression_error=None)


def _declined(plan: Plan, records: list[LayerRecord]) -> str | None:
    """Why the method moves nothing between these bases, or None when it does, or when no layer has a pair to judge by.

    The first component of the family of which the adapter has layers decides: many unrelated UNets share a text encoder.
    """
    if not any(record.target for record in records):
        return None
    touched = {record.source.partition(".")[0] for record in records if record.source}
    component = next(component.name for component in plan.source.family.components if component.name in touched)
    paired = [record for record in records if record.target and record.target.startswith(f"{component}.")]
    if (judgement := METHODS[plan.options.method].judge([record.similarity for record in paired])) is None:
        return None
    return (
        f"{plan.source.path} and {plan.target.path} are not related: in the {component}, {judgement}. Weights alone transfer "
        "nothing between such bases, and a copy would do harm. Method refine can: it trains, for minutes, on pictures that "
        "the source draws with the adapter. To try weights all the same, name another method."
    )
