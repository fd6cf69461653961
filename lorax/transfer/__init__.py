"""Transfers adapters: plans which layer goes where, moves the layers by a method, and reports the result for each."""

from lorax.transfer.as_json import as_json
from lorax.transfer.by_models import find_hashes
from lorax.transfer.cost import estimate, hashing_of, total
from lorax.transfer.expected import Cost, Forecast, Measured
from lorax.transfer.planning import Context, Moved, Plan, plan, plan_all
from lorax.transfer.report import AlreadyThere, LayerRecord, Report, Status
from lorax.transfer.resume import pictures_changed
from lorax.transfer.running import expected, run, run_all
from lorax.transfer.spool import Layers
from lorax.transfer.streaming import Stream
from lorax.transfer.verdict import Action, Do, Kind, Verdict

__all__ = [
    "Action",
    "AlreadyThere",
    "Context",
    "Cost",
    "Do",
    "Forecast",
    "Kind",
    "LayerRecord",
    "Layers",
    "Measured",
    "Moved",
    "Plan",
    "Report",
    "Status",
    "Stream",
    "Verdict",
    "as_json",
    "estimate",
    "expected",
    "find_hashes",
    "hashing_of",
    "pictures_changed",
    "plan",
    "plan_all",
    "run",
    "run_all",
    "total",
]
