"""Proposes methods that run the models for what weights cannot carry."""

from __future__ import annotations

from lorax.models import can_run
from lorax.transfer.cost import estimate
from lorax.transfer.expected import CROSSED, STRANGERS, Proposal
from lorax.transfer.forecast import measured
from lorax.transfer.planning import Plan


def proposals_for(plan: Plan) -> tuple[Proposal, ...]:
    """Return what was measured between unrelated bases such as these, the best first; nothing if one of them cannot be run."""
    if not can_run(plan.source, plan.target):
        return ()
    found = measured(STRANGERS if plan.within_family else CROSSED)
    return tuple(Proposal(method, worth, estimate(plan, method)) for method, worth in found.items())
