"""Concludes from the ends of an adapter's layers what becomes of the adapter as a whole."""

import dataclasses
from collections.abc import Collection, Iterable

from lorax.methods import auto, weight_method
from lorax.pairing import Vector
from lorax.reasons import Reason, Why
from lorax.transfer.planning import Moved, Plan
from lorax.transfer.report import AlreadyThere, LayerRecord, Report, Status, Unrelated
from lorax.transfer.spool import Kept, Layers

End = tuple[LayerRecord, Kept | None]


def concluded(plan: Plan, ends: Iterable[End], deciding: Collection[str]) -> Moved:
    """Return the moved adapter with its report, from the ends of all its layers."""
    records, layers = [], {}
    for record, moved in ends:
        records.append(record)
        if moved is not None and record.target is not None:
            layers[record.target] = moved
    method = weight_method(plan.options.method)
    report = Report(records, plan.options.method, mismatch=plan.mismatch, unrelated=_unrelated(plan, records, deciding))
    strength = method.strength(report.overlap)
    if report.unrelated and method.declines:
        return _declined(report, report.unrelated, Why.UNRELATED_BASES)
    if strength == 0:
        there = AlreadyThere(plan.target.path, plan.adapter.path, report.overlap)
        return _declined(report, there, Why.TARGET_HAS_IT)
    layers = {layer: kept.times(strength) for layer, kept in layers.items()}
    vectors = [_without_lost_bias(vector, layers) for vector in plan.vectors]
    report = dataclasses.replace(
        report,
        strength=strength,
        embeddings=plan.embeddings,
        vectors=tuple(vectors),
        draws_as_original=_draws_as_original(plan, records),
    )
    added = {vector.target: strength * plan.adapter.vector(vector.key) for vector in vectors if vector.target}
    return Moved(Layers(layers), report, added)


def _draws_as_original(plan: Plan, records: Iterable[LayerRecord]) -> bool:
    """Tell whether the moved file, but for its strength, does on the target what the original does there."""
    moved = {r.name: r.target for r in records if r.is_transferred and r.subspace_rank is None and not r.compression_error}
    return bool(moved) and not plan.differing(moved) and plan.carries_vectors_by_name


def _declined(report: Report, why: Unrelated | AlreadyThere, of_layer: Why) -> Moved:
    """Decline the transfer as a whole: all moved layers become skipped ones."""
    gone = {"kept": None, "subspace_rank": None, "rank": None, "compression_error": None}
    records = [r.ended(Status.SKIPPED, Reason(of_layer), **gone) if r.is_transferred else r for r in report.records]
    return Moved(Layers(), dataclasses.replace(report, records=records, declined=why))


def _without_lost_bias(vector: Vector, layers: Collection[str]) -> Vector:
    """Return the vector, without its target if it is the bias of a layer that was not moved."""
    layer, _, parameter = (vector.target or "").rpartition(".")
    if parameter == "bias" and vector.key.endswith(".diff_b") and layer not in layers:
        return dataclasses.replace(vector, target=None, reason=Reason(Why.LAYER_LEFT_OUT))
    return vector


def _unrelated(plan: Plan, records: list[LayerRecord], deciding: Collection[str]) -> Unrelated | None:
    """Return why source and target are unrelated; None if they are related, or if no layer has a pair."""
    if not any(record.target for record in records):
        return None
    judged = [record for record in records if record.target and plan.is_judged(record.name)]
    measured = {r.name for r in judged if r.similarity is not None and r.name in deciding}
    median = auto.median([r.similarity for r in judged if r.name in measured or not plan.same_shape(r.name)])
    return None if auto.are_related(median) else Unrelated(plan.source.path, plan.target.path, plan.component, median)
