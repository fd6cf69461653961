"""Chooses and checks the paths of moved adapters and reports."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Protocol

from lorax.errors import LoraxError, printable
from lorax.files import Inputs, Staging, check_folder, check_free, is_same_name
from lorax.options import LORAX, Saving, check_folder_name
from lorax.output import Naming


class Destination(Protocol):
    """The paths of moved adapters, and how the adapters are saved."""

    @property
    def saving(self) -> Saving: ...

    def path(self, naming: Naming) -> Path:
        """Return the path of an adapter's file."""

    def check(self, path: Path, inputs: Inputs) -> None:
        """Raise LoraxError if the path must not be written, since it is one of the ``inputs``, for example."""


@dataclass(frozen=True)
class AtPath:
    """A file or a folder that the user names; by default each adapter's own folder."""

    output: Path | None = None
    saving: Saving = field(default_factory=Saving)

    def path(self, naming: Naming) -> Path:
        if self.output is None or self.output.is_dir():
            return (self.output or naming.given.parent) / naming.file_name(self.saving)
        if self.output.suffix.lower() == ".safetensors":
            # By this ending, in small letters, a LoRA-X file is known as one.
            return self.output.with_suffix(".safetensors") if self.saving.save_as == LORAX else self.output
        return self.output.with_name(self.output.name + ".safetensors")

    def check(self, path: Path, inputs: Inputs) -> None:
        check_folder(path)
        check_free(path, inputs, self.saving.overwrite)


@dataclass(frozen=True)
class InFolder:
    """A folder inside ``root``, a host's folder of adapters. Raises LoraxError for names that lead outside."""

    root: Path
    subfolder: str = ""  # empty: beside the adapter
    saving: Saving = field(default_factory=Saving)
    prompt_names: Callable[[], Mapping[str, Path]] = dict  # ``Host.prompt_names``

    def __post_init__(self) -> None:
        subfolder = PurePath(self.subfolder)
        if printable(self.subfolder) != self.subfolder:
            raise LoraxError(f"subfolder {self.subfolder!r}: holds control characters. Choose another one.")
        if subfolder.anchor or ".." in subfolder.parts:
            raise LoraxError(f"subfolder {self.subfolder!r}: outside of {self.root}. Choose one inside it.")
        for part in subfolder.parts:
            check_folder_name(part)

    def path(self, naming: Naming) -> Path:
        beside = naming.given.parent if naming.given.is_relative_to(self.root) else self.root
        return (self.root / self.subfolder if self.subfolder else beside) / naming.file_name(self.saving)

    def check(self, path: Path, inputs: Inputs) -> None:
        if (other := self._names.get(path.stem, path)) != path:
            raise LoraxError(
                f"{path}: in prompts it could not be told from {other}, which has the same name. Choose another output name, "
                "or move that file away."
            )
        instead = "have it replaced (Replace, or overwrite in the API)"
        check_free(path, inputs, self.saving.overwrite, "output name", instead)

    @cached_property
    def _names(self) -> Mapping[str, Path]:
        return self.prompt_names()  # reads the disk


class Claims:
    """The paths that the adapters of one job get, each of them once. ``inputs`` are read by the job, ``report`` is written.

    Raises LoraxError if the report must not be written.
    """

    def __init__(self, destination: Destination, inputs: Inputs, report: "ReportFile | None" = None) -> None:
        self._destination, self._inputs, self._report, self._taken = destination, inputs, report, set[Path]()
        if report:
            report.check(inputs)

    def path(self, naming: Naming, *, may_exist: bool = False) -> Path:
        """Return the path of an adapter's file. Raises LoraxError if another one has it, or if it must not be written.

        ``may_exist``: whether a file that is there already may be returned.
        """
        path = self._destination.path(naming)
        if path in self._taken:
            raise LoraxError(
                f"{path}: the name that two of the adapters get. Have {{lora}} and {{target}} in the output name, rename one of "
                "them, or move them one at a time."
            )
        if self._report and is_same_name(path, self._report.path):
            raise LoraxError(f"{path}: named for the report and for an adapter. Choose another --report.")
        self._taken.add(path)
        if not (may_exist and path.is_file()):
            self._destination.check(path, self._inputs)
        return path


@dataclass(frozen=True)
class ReportFile:
    """A file for the reports as JSON."""

    path: Path
    overwrite: bool = False

    def check(self, inputs: Inputs) -> None:
        """Raise LoraxError if the file must not be written, since it is one of the ``inputs``, for example."""
        check_folder(self.path, "--report")
        check_free(self.path, inputs, self.overwrite, "--report")

    def stage(self, reports: dict[str, Any] | list[dict[str, Any]], staging: Staging) -> None:
        """Stage the reports, to be written together with the adapters."""
        text = json.dumps(reports, indent=2)
        staging.write(self.path, lambda temporary: temporary.write_text(text, encoding="utf-8"), self.overwrite)
