"""Knows what there is to choose in the tab, and what is likely meant."""

from collections.abc import Sequence

import gradio as gr

from lorax.catalog import Facts, ListedFile, Sure, facts, named, origin
from lorax.hosts.base import Host
from lorax.ui.requests import Choice, Reply, Values


class Chooser:
    """The lists of a host's checkpoints and LoRAs."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def lists(self, values: Values) -> Reply:
        """Return updates of the three lists, in which what was selected stays so if it still exists."""
        bases, labels = list(self.host.bases()), self.labels()
        source, target, also, adapters = (values[name] for name in ("source", "target", "also", "adapters"))
        return {
            "adapters": gr.update(choices=list(labels), value=[label for label in adapters or () if label in labels]),
            "source": gr.update(choices=bases, value=source if source in bases else None),
            "target": gr.update(choices=bases, value=target if target in bases else self.host.loaded()),
            "also": gr.update(choices=bases, value=[base for base in also or () if base in bases]),
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
        """Return the base that all of the LoRAs name, and if there is none, a guess, which the user must confirm."""
        found = [origin(model.path, self.host.bases().values()) for model in models]
        sources = {one.base.name for one in found if one.sure is Sure.FOUND and one.base}
        if len(sources) == 1 and all(one.sure is Sure.FOUND for one in found):
            return sources.pop(), None
        guesses = [one.base.name for one in found if one.sure is Sure.GUESS and one.base]
        return None, guesses[0] if len(found) == 1 and guesses else None

    def misfits(self, choice: Choice, models: Sequence[ListedFile], known: Sequence[Facts]) -> list[str]:
        """Return in sentences where LoRAs name another source than the chosen one."""
        bases, found = self.host.bases(), []
        for model, fact in zip(models, known, strict=True):
            base = named(model.path, bases.values()) if choice.source in bases and not fact.problem else None
            if base and base.name != choice.source:
                found.append(f"{model.name} says that it was trained on {base.name}, but the source is {choice.source}.")
        return found
