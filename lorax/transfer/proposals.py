"""What is proposed where weights tell nothing: the methods that run the models, with what they are worth and what they take."""

from __future__ import annotations

from lorax.models.runnable import can_run
from lorax.transfer.cost import estimate
from lorax.transfer.forecast import CROSSED, RELATIVES, STRANGERS, measured
from lorax.transfer.planning import Plan
from lorax.transfer.report import Proposal


def kind_of(plan: Plan, unrelated: str | None) -> str:
    """Of the pair of bases. ``unrelated``: why they are no relatives, if so, as a report says it."""
    if not plan.within_family:
        return CROSSED
    return STRANGERS if unrelated else RELATIVES


def proposals_for(plan: Plan) -> tuple[Proposal, ...]:
    """Of what was measured between such bases as these, which are no relatives; what was worth most comes first.

    None where one of them cannot be run.
    """
    if not can_run(plan.source, plan.target):
        return ()
    found = measured(STRANGERS if plan.within_family else CROSSED)
    return tuple(Proposal(method, worth, estimate(plan, method)) for method, worth in found.items())
