"""Orchestrates every job: plans, analyses, transfers and writes, and fits LoRA-X files to a loaded checkpoint."""

from lorax.workflow.batch import Batch, Item, batch
from lorax.workflow.destination import AtPath, Destination, InFolder, ReportFile
from lorax.workflow.fitting import Fit, Fitter, Library
from lorax.workflow.memory import Memory
from lorax.workflow.orchestrator import analyse, reports_of, transfer
from lorax.workflow.outcomes import End, Outcome, outcome_as_json, table
from lorax.workflow.overview import COARSE, FILTERS, SORTS, Group, Overview, Row, State, counted, counts, row_as_json, selected
from lorax.workflow.passes import plans
from lorax.workflow.request import Request, Result
from lorax.workflow.verdicts import Verdicts

__all__ = [
    "COARSE",
    "FILTERS",
    "SORTS",
    "AtPath",
    "Batch",
    "Destination",
    "End",
    "Fit",
    "Fitter",
    "Group",
    "InFolder",
    "Item",
    "Library",
    "Memory",
    "Outcome",
    "Overview",
    "ReportFile",
    "Request",
    "Result",
    "Row",
    "State",
    "Verdicts",
    "analyse",
    "batch",
    "counted",
    "counts",
    "outcome_as_json",
    "plans",
    "reports_of",
    "row_as_json",
    "selected",
    "table",
    "transfer",
]
