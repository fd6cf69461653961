"""Requests for a transfer or an analysis, and their results."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorax.catalog import ListedFile
from lorax.errors import LoraxError
from lorax.options import Options, Running
from lorax.transfer import Report


@dataclass(frozen=True)
class Request:
    """The adapters to move from a source to a target, and the options. Raises LoraxError if no adapter is named."""

    source: ListedFile
    target: ListedFile
    adapters: Sequence[ListedFile]
    options: Options = field(default_factory=Options)
    running: Running = field(default_factory=Running)

    def __post_init__(self) -> None:
        if not self.adapters:
            raise LoraxError("No LoRA is chosen. Choose at least one.")

    @property
    def is_within_one_base(self) -> bool:
        """Whether source and target are one file."""
        return self.source.path.resolve() == self.target.path.resolve()


@dataclass(frozen=True)
class Result:
    """The result for one adapter."""

    adapter: ListedFile
    given: Path  # the file or folder that the user named
    file: Path  # the file with the tensors
    report: Report
    files: tuple[Path, ...] = ()  # written files, the adapter first
    note: str = ""  # about the written files

    @property
    def written(self) -> Path | None:
        """The new adapter file, if there is one."""
        return self.files[0] if self.files else None
