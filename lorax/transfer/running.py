"""The main job: plan which layer feeds which, then stream the adapter's layers through a method."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lorax.devices import pick_device
from lorax.errors import LoraxError
from lorax.files.cache import Cache
from lorax.low_rank import LowRank
from lorax.methods import BEHAVIOURAL, METHODS
from lorax.methods.auto import judge
from lorax.options import Options
from lorax.pairing.vectors import Vector
from lorax.reasons import Reason, Why
from lorax.transfer.by_layer import End, Pass
from lorax.transfer.planning import Moved, Plan, Progress
from lorax.transfer.report import LayerRecord, Proposal, Report
from lorax.transfer.streaming import Stream

if TYPE_CHECKING:
    from lorax.models.protocol import Models

log = logging.getLogger(__name__)


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
        from lorax.transfer import by_models

        if survey:
            return by_models.foretold(plans, progress, cache)
        models = models or _runners(plans[0].options)
        return [by_models.run(plan, models, progress, cache) for plan in plans]
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
        from lorax.runner.runner import Runners
    except ModuleNotFoundError as error:
        raise LoraxError(
            f"method {options.method} runs the models and needs {error.name}, which is not installed here. Install it with "
            "pip install -e .[demo], or choose a method that needs the weights alone."
        ) from error
    return Runners(pick_device(options.device))


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
        from lorax.transfer.proposals import proposals_for

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
        return dataclasses.replace(vector, target=None, reason=Reason(Why.LAYER_LEFT_OUT))
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
