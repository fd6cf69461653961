"""Chooses and checks the paths of moved adapters and reports."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Protocol

from lorax.errors import LoraxError
from lorax.files import Staging, check_folder, check_free
from lorax.options import Saving
from lorax.output import path_of
from lorax.transfer import Plan


class Destination(Protocol):
    """The paths of moved adapters, and how the adapters are saved."""

    @property
    def saving(self) -> Saving: ...

    def paths(self, plans: Sequence[Plan]) -> list[Path]:
        """Return a path for each adapter. Raises LoraxError if one of them must not be written."""


@dataclass(frozen=True)
class AtPath:
    """A file or a folder that the user names; by default each adapter's own folder."""

    output: Path | None = None
    saving: Saving = field(default_factory=Saving)

    def paths(self, plans: Sequence[Plan]) -> list[Path]:
        if len(plans) > 1 and self.output is not None and not self.output.is_dir():
            raise LoraxError(f"{self.output}: not a folder, which --output must be for {len(plans)} adapters. Create it first.")
        paths = [path_of(one, self.output, self.saving) for one in plans]
        if twice := next((path for number, path in enumerate(paths) if path in paths[:number]), None):
            raise LoraxError(f"{twice}: the name that two of the adapters get. Rename one of them, or move them one at a time.")
        for path in paths:
            check_folder(path)
            check_free(path, _inputs(plans), self.saving.overwrite)
        return paths


@dataclass(frozen=True)
class InFolder:
    """A folder inside ``root``, a host's folder of adapters. Raises LoraxError for names that lead outside."""

    root: Path
    subfolder: str = ""  # empty: beside the adapter
    name: str = ""  # empty: the name of ``output.path_of``
    saving: Saving = field(default_factory=Saving)
    prompt_names: Callable[[], Mapping[str, Path]] = dict  # ``Host.prompt_names``

    def __post_init__(self) -> None:
        if PurePath(self.name).name != self.name or "\\" in self.name:
            raise LoraxError(f"name {self.name!r}: expected a file name without folders. Name the folder as the subfolder.")
        subfolder = PurePath(self.subfolder)
        if subfolder.anchor or ".." in subfolder.parts:
            raise LoraxError(f"subfolder {self.subfolder!r}: outside of {self.root}. Choose one inside it.")

    def paths(self, plans: Sequence[Plan]) -> list[Path]:
        paths = [self._path(one) for one in plans]
        if len(set(paths)) < len(paths):
            raise LoraxError(f"{len(paths)} LoRAs cannot share the name {paths[0].name}. Leave the output name empty.")
        names = self.prompt_names()
        for path in paths:
            if (other := names.get(path.stem, path)) != path:
                raise LoraxError(
                    f"{path}: in prompts it could not be told from {other}, which has the same name. Choose another output name, "
                    "or move that file away."
                )
        for path in paths:
            instead = "have it replaced (Replace, or overwrite in the API)"
            check_free(path, _inputs(plans), self.saving.overwrite, "output name", instead)
        return paths

    def _path(self, plan: Plan) -> Path:
        path = path_of(plan, None, self.saving)
        name = f"{self.name.removesuffix('.safetensors')}.safetensors" if self.name else path.name
        beside = path.parent if path.parent.is_relative_to(self.root) else self.root
        return (self.root / self.subfolder if self.subfolder else beside) / name


@dataclass(frozen=True)
class ReportFile:
    """A file for the reports as JSON."""

    path: Path
    overwrite: bool = False

    def check(self, plans: Sequence[Plan]) -> None:
        """Raise LoraxError if the file must not be written."""
        check_folder(self.path, "--report")
        check_free(self.path, _inputs(plans), self.overwrite, "--report")

    def stage(self, reports: dict[str, Any] | list[dict[str, Any]], staging: Staging) -> None:
        """Stage the reports, to be written together with the adapters."""
        text = json.dumps(reports, indent=2)
        staging.write(self.path, lambda temporary: temporary.write_text(text, encoding="utf-8"), self.overwrite)


def _inputs(plans: Sequence[Plan]) -> list[Path]:
    return [path for one in plans for path in one.inputs]
