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

    def lists(self, values: Values, *, all_values: bool = False) -> Reply:
        """Return updates of the lists. What was selected and is not there any more is taken out.

        Other selections are left alone, since the user may have changed them meanwhile, unless ``all_values`` are to be set.
        """
        bases, labels = list(self.host.bases()), list(self.labels())
        found = {
            "adapters": (labels, [label for label in values["adapters"] or () if label in labels]),
            "also": (bases, [base for base in values["also"] or () if base in bases]),
            "source": (bases, values["source"] if values["source"] in bases else None),
            "target": (bases, values["target"] if values["target"] in bases else self.host.loaded()),
        }
        reply = {}
        for name, (choices, value) in found.items():
            is_as_it_was = (value or None) == (values[name] or None)
            reply[name] = (
                gr.update(choices=choices) if is_as_it_was and not all_values else gr.update(choices=choices, value=value)
            )
        return reply

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
