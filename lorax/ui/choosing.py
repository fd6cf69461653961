"""Knows what there is to choose in the tab, and what is likely meant."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from lorax.catalog import Facts, ListedFile, facts, named, propose
from lorax.errors import LoraxError
from lorax.hosts.base import Host
from lorax.options import Options
from lorax.ui.requests import Choice
from lorax.workflow import Request, plans


class Chooser:
    """The lists of a host's checkpoints and LoRAs."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def lists(self, source: str | None, target: str | None, adapters: Sequence[str] | None) -> dict[str, Any]:
        """Return updates of the three lists, in which what was selected stays so if it still exists."""
        bases, labels = list(self.host.bases()), self.labels()
        return {
            "adapters": gr.update(choices=list(labels), value=[label for label in adapters or () if label in labels]),
            "source": gr.update(choices=bases, value=source if source in bases else None),
            "target": gr.update(choices=bases, value=target if target in bases else self.host.loaded()),
        }

    def labels(self) -> dict[str, str]:
        """Return the LoRAs' names by their labels in the list."""
        return {f"{name}  ({facts(model.path)})": name for name, model in self.host.adapters().items() if model.path.is_file()}

    def label(self, name: str) -> str | None:
        """Return the label of the LoRA of this name; None if it is not listed."""
        return next((label for label, listed in self.labels().items() if listed == name), None)

    def adapters(self, labels: Sequence[str]) -> list[ListedFile]:
        names, adapters = self.labels(), self.host.adapters()
        return [adapters[names[label]] for label in labels if label in names]

    def source_of(self, models: Sequence[ListedFile]) -> tuple[str | None, str | None]:
        """Return the base that the LoRAs tell of, if one does, and else a guess, which the user must confirm."""
        bases = self.host.bases()
        for model in models:
            if found := propose(model.path, bases.values()):
                return found.name, None
        return None, None

    def misfits(self, choice: Choice, models: Sequence[ListedFile], known: Sequence[Facts]) -> list[str]:
        """Return what does not fit together, in sentences."""
        bases = self.host.bases()
        found = [f"{model.name}: {fact.problem}" for model, fact in zip(models, known, strict=True) if fact.problem]
        if choice.source not in bases or choice.target not in bases:
            return found
        for model, fact in zip(models, known, strict=True):
            base = named(model.path, bases.values())
            if base and base.name != choice.source:
                found.append(f"{model.name} says that it was trained on {base.name}, but the source is {choice.source}.")
            try:
                if not fact.problem and choice.source != choice.target:
                    plans(Request(bases[choice.source], bases[choice.target], [model], Options(pairing="name")))
            except LoraxError as error:
                found.append(str(error))
        return list(dict.fromkeys(found))
