"""Orchestrates every job: plans, analyses, transfers and writes, and fits LoRA-X files to a loaded checkpoint."""

from lorax.workflow.destination import AtPath, Destination, InFolder, ReportFile
from lorax.workflow.fitting import Fit, Fitter, Library
from lorax.workflow.memory import Memory
from lorax.workflow.orchestrator import analyse, cost_of, plans, reports_of, transfer
from lorax.workflow.request import Request, Result
from lorax.workflow.verdicts import Verdicts

__all__ = [
    "AtPath",
    "Destination",
    "Fit",
    "Fitter",
    "InFolder",
    "Library",
    "Memory",
    "ReportFile",
    "Request",
    "Result",
    "Verdicts",
    "analyse",
    "cost_of",
    "plans",
    "reports_of",
    "transfer",
]
