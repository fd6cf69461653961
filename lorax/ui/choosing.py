"""Knows what there is to choose in the tab, and what is likely meant."""

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from lorax.catalog import Facts, FileKind, ListedFile, Origins, Record, Sure, Survey, confirm, record, seen
from lorax.hosts.base import Host
from lorax.ui import telling
from lorax.ui.requests import Choice, Reply, Values

TOLD = "  ("  # stands between a file's name and what is known of it
BASES = ("source", "target", "also")  # the lists of checkpoints


class Chooser:
    """The lists of a host's checkpoints and LoRAs. No file is read before somebody looks at the lists, and then in a thread.

    Handlers know checkpoints by their names. ``named`` and ``labelled`` stand between them and the page, which also shows what
    those are that cannot be used.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._survey, self._surveyed = Survey(), set[Path]()
        self._is_new = False  # whether a name may be that of another file than before
        self.revision = 0  # how often the lists were read again, or a source was confirmed

    def refresh(self) -> None:
        """Have the host look for files, of which some may be new."""
        self.host.refresh()
        self._is_new = True
        self.revision += 1

    def look(self) -> bool:
        """Have what is new be read; tell whether all is."""
        if not self._survey.is_running and self._must_read():
            self._is_new, paths = False, self._paths()
            self._surveyed = set(paths)
            self._survey.begin(paths)
        return not self._survey.is_running

    def looking(self) -> str:
        """Say how far the reading is, with a mark by which the page's script asks again."""
        if self._survey.is_running or self._must_read():
            return telling.looking("look", self._survey.done, self._survey.total)
        return ""

    def _must_read(self) -> bool:
        """Tell whether something may be new, or was never read."""
        return self._is_new or any(self._is_unread(path) for path in self._paths())

    def _is_unread(self, path: Path) -> bool:
        known = seen(path)
        return path not in self._surveyed if known is None else _is_back(path, known)

    def _paths(self) -> list[Path]:
        return [model.path for models in (self.host.bases(), self.host.adapters()) for model in models.values()]

    def lists(self, values: Values, *, all_values: bool = False) -> Reply:
        """Return updates of the lists. What was selected and is not there any more is taken out.

        Other selections are left alone, since the user may have changed them meanwhile, unless ``all_values`` are to be set,
        what is selected may have got a label, or there may be several: gradio 4 keeps these by their places in the list.
        """
        bases, labels = list(self.host.bases()), self.labels()
        names = {name: label for label, name in labels.items()}
        chosen = [names[name] for name in self.names(values["adapters"] or ()) if name in names]
        found = {
            "adapters": (list(labels), chosen),
            "also": (bases, [base for base in values["also"] or () if base in bases]),
            "source": (bases, values["source"] if values["source"] in bases else None),
            "target": (bases, values["target"] if values["target"] in bases else self.host.loaded()),
        }
        reply: Reply = {}
        for name, (choices, value) in found.items():
            is_as_it_was = (value or None) == (values[name] or None) and self._labelled(value) == value
            is_by_place = isinstance(value, list) and bool(value)
            keeps = is_as_it_was and not is_by_place and not all_values
            reply[name] = gr.update(choices=choices) if keeps else gr.update(choices=choices, value=value)
        return reply | {"looking": self.looking()}

    def labels(self) -> dict[str, str]:
        """Return the LoRAs' names by their labels in the list, which tell of each what was read of it so far."""
        found = {}
        for name, model in self.host.adapters().items():
            if (label := _label(name, model)) is not None:
                found[label] = name
        return found

    def label(self, name: str) -> str | None:
        """Return the label of the LoRA of this name; None if it is not listed."""
        model = self.host.adapters().get(name)
        return _label(name, model) if model else None

    def adapters(self, labels: Sequence[str]) -> list[ListedFile]:
        adapters = self.host.adapters()
        return [adapters[name] for name in self.names(labels)]

    def names(self, labels: Sequence[str]) -> list[str]:
        """Return the names of the LoRAs that are listed. A page may have a label of before the LoRA was read, or of after it."""
        adapters = self.host.adapters() if labels else {}
        return [name for label in labels if (name := _name(label, adapters))]

    def named(self, values: Values) -> Values:
        """Return the values with the names of checkpoints in place of their labels."""
        bases = self.host.bases()
        names = {one: _each(values[one], lambda label: _name(label, bases) or label) for one in BASES if one in values}
        return {**values, **names}

    def labelled(self, reply: Reply) -> Reply:
        """Return the reply with the labels of checkpoints in place of their names."""
        updates = {one: dict(reply[one]) for one in BASES if one in reply}
        for update in updates.values():
            update |= {key: self._labelled(update[key]) for key in ("choices", "value") if key in update}
        return reply | updates

    def _labelled(self, chosen: Any) -> Any:
        """Return what is chosen in a list of checkpoints, with a label instead of the name of each that is unsupported."""
        bases = self.host.bases()

        def label(name: str) -> str:
            known = seen(bases[name].path) if name in bases else None
            return f"{name}{TOLD}{known.unsupported}: not supported)" if known and known.unsupported else name

        return _each(chosen, label)

    def source_of(self, models: Sequence[ListedFile]) -> tuple[str | None, str | None]:
        """Return the base that all of the LoRAs name, or that was confirmed; and if there is none, a guess to be confirmed."""
        origins = Origins(self.host.bases().values())
        found = [origins.of(record(model.path)) for model in models]
        sources = {one.base.name for one in found if one.sure is Sure.FOUND and one.base}
        if len(sources) == 1 and all(one.sure is Sure.FOUND for one in found):
            return sources.pop(), None
        guesses = [one.base.name for one in found if one.sure is Sure.GUESS and one.base]
        return None, guesses[0] if len(found) == 1 and guesses else None

    def confirm(self, models: Sequence[ListedFile], source: str) -> list[ListedFile]:
        """Remember the source that was chosen for LoRAs whose files name none that is listed; return those that are left out.

        It cannot be one of another family.
        """
        bases, left = self.host.bases(), list[ListedFile]()
        if source not in bases:
            return list(models)
        base, origins = bases[source].path, Origins(bases.values())
        for model in models:
            known = record(model.path)
            if origins.named(known) or known.family not in ("", record(base).family):
                left.append(model)
            elif known.confirmed != str(base.absolute()):
                confirm(model.path, base)
                self.revision += 1
        return left

    def misfits(self, choice: Choice, models: Sequence[ListedFile], known: Sequence[Facts]) -> list[str]:
        """Return in sentences where LoRAs name another source than the chosen one."""
        bases, found = self.host.bases(), []
        origins = Origins(bases.values())
        for model, fact in zip(models, known, strict=True):
            base = origins.named(record(model.path)) if choice.source in bases and not fact.problem else None
            if base and base.name != choice.source:
                was, where = ("made", "for") if fact.is_moved else ("trained", "on")
                found.append(f"{model.name} says that it was {was} {where} {base.name}, not {where} {choice.source}.")
        return found


def _name(label: str, models: Container[str]) -> str:
    """Return which of the models is meant by a label; empty if none is."""
    while label and label not in models:
        label = label.rpartition(TOLD)[0]
    return label


def _each(chosen: Any, change: Callable[[str], str]) -> Any:
    """Return what is chosen in a list, which may be one thing, several or nothing, with each changed."""
    return [change(one) for one in chosen] if isinstance(chosen, list) else change(chosen) if chosen else chosen


def _label(name: str, model: ListedFile) -> str | None:
    """Return a LoRA's label; None if its file is gone."""
    known = seen(model.path)
    if known is None or _is_back(model.path, known):
        return name
    return f"{name}{TOLD}{known.facts})" if known.kind is not FileKind.GONE else None


def _is_back(path: Path, known: Record) -> bool:
    """Tell whether a file is there again that was gone when it was read last, as while a trainer writes it."""
    return known.kind is FileKind.GONE and path.is_file()
