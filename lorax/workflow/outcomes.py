"""Tells what became of each adapter of a batch, for each target."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lorax.catalog import ListedFile
from lorax.transfer import as_json, wording
from lorax.workflow.request import Result


class End(Enum):
    """How it ended for an adapter and a target."""

    WRITTEN = "written"
    EXISTED = "existed already"
    DECLINED = "declined"
    UNMOVED = "nothing moved"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_good(self) -> bool:
        """Whether the file is there."""
        return self in (End.WRITTEN, End.EXISTED)


@dataclass(frozen=True)
class Outcome:
    """What became of an adapter on the way to a target.

    ``source`` is None if it was not found. ``path`` is the file that was written or existed already. ``result`` has the report,
    all written files and the note on them; it is None if nothing was computed.
    """

    adapter: ListedFile
    target: ListedFile
    end: End
    source: ListedFile | None = None
    path: Path | None = None
    error: str = ""
    result: Result | None = None

    @property
    def written(self) -> Path | None:
        """The new adapter file, if there is one."""
        return self.result.written if self.result else None

    @property
    def reason(self) -> str:
        """Why there is no new file, in words; empty if it was written, existed already or was stopped."""
        if self.end is End.DECLINED and self.result:
            return wording.refusal(self.result.report) or ""
        if self.end is End.UNMOVED and self.result:
            return wording.nothing_moved(self.result.file, self.result.report)
        return self.error


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each outcome, in columns for a terminal, with the file or the reason."""
    rows = [("LoRA", "target", "what became of it", "file or reason")]
    for one in outcomes:
        said = str(one.path) if one.path else next(iter(one.reason.splitlines()), "")
        rows.append((one.adapter.name, one.target.name, one.end.value, said))
    return wording.columns(rows)


def outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as values of JSON, with the names of its files in the lists, and paths of what was written."""
    result = outcome.result
    return {
        "adapter": outcome.adapter.name,
        "source": outcome.source.name if outcome.source else None,
        "target": outcome.target.name,
        "outcome": outcome.end.value,
        "reason": outcome.reason,
        "file": str(outcome.path) if outcome.path else None,
        "written": [str(file) for file in result.files] if result else [],
        "note": result.note if result else "",
        "report": as_json(result.report) if result else None,
    }
