"""Runs transfers, by weights or by running both models."""

import dataclasses
from collections.abc import Sequence

from lorax.files import Cache
from lorax.methods import runs_models
from lorax.models import can_run
from lorax.progress import COMPARING, MEASURING, MOVING, Phase
from lorax.transfer import by_layer, by_models, cost
from lorax.transfer.expected import CROSSED, STRANGERS, Proposal
from lorax.transfer.forecast import forecast, measured
from lorax.transfer.planning import Context, Moved, Plan
from lorax.transfer.report import Unrelated


def run(plan: Plan, context: Context | None = None) -> Moved:
    """Move one adapter; see ``run_all``."""
    return run_all([plan], context)[0]


def run_all(plans: Sequence[Plan], context: Context | None = None, *, survey: bool = False) -> list[Moved]:
    """Move the adapters of one ``plan_all``, with the same result for each as alone.

    The context's progress tells of the whole job, and may raise to stop it. A ``survey`` measures the similarity of every layer,
    for show, and takes longer. A method that runs the models then moves nothing, and reports what it would do. Raises LoraxError
    if models must be run and the context has none.
    """
    context = context or Context()
    context.meter.expect(expected(plans, context.cache, survey=survey))
    if not runs_models(plans[0].options.method):
        moved = by_layer.run(plans, context, survey=survey, phase=MEASURING if survey else MOVING)
    elif survey:
        moved = [by_models.foretold(plan, context) for plan in plans]
    else:
        moved = [by_models.run(plan, context) for plan in plans]
    return [_with_prospects(plan, one, context.cache) for plan, one in zip(plans, moved, strict=True)]


def expected(plans: Sequence[Plan], cache: Cache | None, *, survey: bool = False) -> list[Phase]:
    """Return the phases of ``run_all``."""
    if not runs_models(plans[0].options.method):
        return [cost.moving(plans, MEASURING if survey else MOVING)]
    if survey:
        return [cost.moving([plan], COMPARING) for plan in plans]
    return [phase for plan in plans for phase in cost.phases(plan, cache)]


def _with_prospects(plan: Plan, moved: Moved, cache: Cache | None) -> Moved:
    """Add the forecast to the report, or proposals of other methods if the transfer was declined."""
    report = moved.report
    proposals: tuple[Proposal, ...] = ()
    if isinstance(report.declined, Unrelated) and can_run(plan.source, plan.target):
        found = measured(STRANGERS if plan.within_family else CROSSED)
        proposals = tuple(Proposal(method, worth, cost.estimate(plan, method, cache=cache)) for method, worth in found.items())
    return dataclasses.replace(moved, report=dataclasses.replace(report, expected=forecast(report), proposals=proposals))
