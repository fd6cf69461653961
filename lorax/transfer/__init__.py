"""The transfer: plans which layer goes where, moves the layers by a method, and reports what became of each."""

from lorax.transfer.as_json import as_json
from lorax.transfer.cost import estimate, total
from lorax.transfer.expected import Cost, Forecast, Measured, Proposal
from lorax.transfer.planning import Context, Moved, Plan, plan, plan_all
from lorax.transfer.report import AlreadyThere, LayerRecord, Report, Status, Unrelated
from lorax.transfer.running import run, run_all

__all__ = [
    "AlreadyThere",
    "Context",
    "Cost",
    "Forecast",
    "LayerRecord",
    "Measured",
    "Moved",
    "Plan",
    "Proposal",
    "Report",
    "Status",
    "Unrelated",
    "as_json",
    "estimate",
    "plan",
    "plan_all",
    "run",
    "run_all",
    "total",
]
