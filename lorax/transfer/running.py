"""Runs a transfer: by the weights, layer by layer, or by running both models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lorax.methods import runs_models
from lorax.transfer import by_layer, by_models
from lorax.transfer.forecast import forecast
from lorax.transfer.planning import Context, Moved, Plan
from lorax.transfer.proposals import proposals_for
from lorax.transfer.report import Unrelated


def run(plan: Plan, context: Context | None = None) -> Moved:
    """Move one adapter; see ``run_all``."""
    return run_all([plan], context)[0]


def run_all(plans: Sequence[Plan], context: Context | None = None, *, survey: bool = False) -> list[Moved]:
    """Move the adapters of one ``plan_all``: each gives what it gives alone.

    The context's progress counts the layers of all adapters, or the steps of each adapter if the method runs the models. It may
    raise to stop the work, and nothing is left behind but what the cache holds: what is found of large layers, and, until it
    ends, what a training needs to resume. If the method judges that source and target are no relatives, ``report.declined``
    says so and no layer is moved.

    A ``survey`` measures the similarity of every layer, for show, even if the method decides by a sample of them: it moves the
    same, and takes longer. A method that runs the models runs none of them in a survey and moves nothing: the report says what
    would be done, and what that takes. Raises LoraxError if the method runs the models and the context has nothing to run them.
    """
    context = context or Context()
    if not runs_models(plans[0].options.method):
        moved = by_layer.run(plans, context, survey=survey)
    elif survey:
        moved = [by_models.foretold(plan, context) for plan in plans]
    else:
        moved = [by_models.run(plan, context) for plan in plans]
    return [_with_prospects(plan, one) for plan, one in zip(plans, moved, strict=True)]


def _with_prospects(plan: Plan, moved: Moved) -> Moved:
    """Add to the report what the transfer is worth, or what else can be done if the bases are unrelated."""
    report = moved.report
    proposals = proposals_for(plan) if isinstance(report.declined, Unrelated) else ()
    return dataclasses.replace(moved, report=dataclasses.replace(report, expected=forecast(report), proposals=proposals))
