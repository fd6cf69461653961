"""Handles what a user chooses and clicks in the tab. The layout is elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from lorax.catalog import Facts, ListedFile, facts, named, propose
from lorax.errors import Interrupted, LoraxError
from lorax.formats import open_adapter
from lorax.hosts.base import Host, Shot
from lorax.methods import runs_models
from lorax.options import Options, Running, Saving
from lorax.progress import Progress
from lorax.transfer.wording import cost_words
from lorax.ui import words
from lorax.ui.heatmap import heatmap
from lorax.ui.requests import Choice, Comparison, Form, Transfer, Values
from lorax.workflow import InFolder, Memory, Request, analyse, cost_of, plans, transfer

Asked = TypeVar("Asked")
KEEP = gr.update()


class Handlers:
    """The handlers of one page of a host."""

    def __init__(self, host: Host) -> None:
        self.host, self.memory = host, Memory(host.cache(), host.models())

    def lists(self, source: str | None, target: str | None, adapters: list[str] | None) -> list[Any]:
        """Return updates of the three lists and of the line about the loaded base. Selections that still exist do not change."""
        bases, labels, loaded = list(self.host.bases()), self._labels(), self.host.loaded()
        source = source if source in bases else loaded or next(iter(bases), None)
        return [
            gr.update(choices=bases, value=source),
            gr.update(choices=bases, value=target if target in bases else None),
            gr.update(choices=list(labels), value=[label for label in adapters or [] if label in labels]),
            self.loaded_line(),
        ]

    def refresh(self, *chosen: Any) -> list[Any]:
        self.host.refresh()
        return self.lists(*chosen)

    def loaded_line(self) -> str:
        loaded = self.host.loaded()
        return words.message(f"Loaded now: {loaded}") if loaded else ""

    def use_loaded(self) -> Any:
        loaded = self.host.loaded()
        return gr.update(value=loaded) if loaded else KEEP

    def add_card(self, name: str, adapters: list[str] | None) -> list[Any]:
        """Add a LoRA, sent from its card, to the selected ones."""
        label = next((label for label, listed in self._labels().items() if listed == name), None)
        if label is None:
            return [KEEP, ""]
        return [gr.update(choices=list(self._labels()), value=list(dict.fromkeys([*(adapters or []), label]))), ""]

    def noted(self, question: str, before: list[Any], choice: Choice) -> list[Any]:
        """Return updates after a choice: the next ``before``, the source, the loaded line, the notes, the methods' options.

        ``before`` holds the selected LoRAs and the loaded base of the last call. The notes contain the browser's question, which
        is repeated until it is answered: gradio 3 drops an event whose handler is still running.
        """
        answer, loaded, chosen_before, loaded_before = words.answers(question), self.host.loaded(), *before
        running = gr.update(visible=runs_models(choice.method))
        try:
            models, proposed = self._adapters(choice.adapters), None
            if not choice.adapters:  # the loaded base is proposed until a LoRA is selected
                proposed = loaded if choice.source == loaded_before != loaded else None
            elif choice.adapters != chosen_before:
                bases = self.host.bases()
                found = (propose(model.path, bases.values()) for model in models)
                proposed = next((base.name for base in found if base), None)
            html = answer + self._notes(replace(choice, source=proposed or choice.source), models)
        except (LoraxError, OSError) as error:
            return [before, KEEP, KEEP, answer + words.message(str(error), "error"), running]
        source = gr.update(value=proposed) if proposed else KEEP
        return [[choice.adapters, loaded], source, self.loaded_line(), html, running]

    def _notes(self, choice: Choice, models: Sequence[ListedFile]) -> str:
        """Return HTML with facts about the LoRAs, warnings, and what it takes to run the checkpoints."""
        known = [(model.name, facts(model.path)) for model in models]
        problems = [f"{name}: {fact.problem}" for name, fact in known if fact.problem]
        warnings = [*problems, *self._misfits(choice.source, choice.target, models, known)]
        html = words.facts_table(known) + "".join(words.message(text, "warning") for text in warnings)
        bases = self.host.bases()
        both_listed = choice.source in bases and choice.target in bases
        if warnings or not runs_models(choice.method) or not both_listed or not models:
            return html
        takes = cost_words(cost_of(self._request(choice)))
        return html + words.message(f"{choice.method} runs both checkpoints. It takes {takes}, or less.")

    def _misfits(
        self, source: str | None, target: str | None, models: Sequence[ListedFile], known: Sequence[tuple[str, Facts]]
    ) -> list[str]:
        bases = self.host.bases()
        if source not in bases or target not in bases or not models:
            return []
        if source == target:
            return ["Source and target are the same checkpoint: nothing would change."]
        found = []
        for model, (_, fact) in zip(models, known, strict=True):
            base = named(model.path, bases.values())
            if base and base.name != source:
                found.append(f"{model.name} says that it was trained on {base.name}, but the source is {source}.")
            try:
                if not fact.problem:
                    plans(Request(bases[source], bases[target], [model], Options(pairing="name")))
            except LoraxError as error:
                found.append(str(error))
        return list(dict.fromkeys(found))

    def job(
        self, work: Callable[[Progress, Asked], list[Any]], form: Form, ask: Callable[[Values], Asked], outputs: int
    ) -> Callable[..., Sequence[Any]]:
        """Make the handler of a job. An error or a stop becomes a message in the last output."""

        def guarded(progress: Progress, *values: Any) -> list[Any]:
            try:
                progress(0, 1, "Reading the files")  # raises if the job was stopped in the queue
                return work(progress, ask(form.read(values)))
            except Interrupted:
                text = words.message("Stopped. Nothing was written.", "warning")
            except (LoraxError, OSError) as error:
                text = words.message(str(error), "error")
            return [KEEP] * (outputs - 1) + [text]

        return self.host.handler(guarded, outputs)

    def analyse(self, progress: Progress, choice: Choice) -> list[Any]:
        results = analyse(self._request(choice), progress, self.memory)
        records = [record for result in results for record in result.report.records]
        shown = words.summary(results), heatmap(records), words.rows(results)
        return [gr.update(visible=True), *shown, words.message("Nothing was written. Click Transfer to write.", "done")]

    def transfer(self, progress: Progress, asked: Transfer) -> list[Any]:
        request, saving = self._request(asked.choice), asked.choice.of_options(Saving)
        folder = self.host.adapter_folder
        destination = InFolder(folder, asked.subfolder, saving, self.host.prompt_names)
        results = transfer(request, destination, progress, self.memory)
        self.host.refresh()
        files = {r.written.relative_to(folder).with_suffix("").as_posix(): r for r in results if r.written}
        moved = {name: (r.adapter.name, str(r.written)) for name, r in files.items()}
        tags = [words.tag(self.host.tag(r.written), facts(r.written)) for r in results if r.written]
        state = {"source": request.source.name, "target": request.target.name, "moved": moved}
        return [
            gr.update(visible=True),
            words.written(results),
            gr.update(value=" ".join(tags), visible=bool(tags)),
            state,
            gr.update(choices=list(moved), value=next(iter(moved), None)),
            gr.update(choices=list(self._labels()), value=asked.choice.adapters),
            words.message("Done.", "done") if moved else words.message("Nothing was written.", "warning"),
        ]

    def compare(self, progress: Progress, asked: Comparison) -> list[Any]:
        state, which = asked.moved, asked.which
        if not state or which is None or which not in state["moved"]:
            raise LoraxError("Transfer a LoRA first: there is nothing to compare yet.")
        bases, (name, path) = self.host.bases(), state["moved"][which]
        source, target = _listed(bases, state["source"]), _listed(bases, state["target"])
        adapter, moved = _listed(self.host.adapters(), name), _listed({which: ListedFile(which, Path(path))}, which)
        copied = [Shot(f"{words.short(target.name)} with a plain copy", target, adapter)]
        shots = [
            Shot(f"{words.short(source.name)} with the LoRA", source, adapter),
            Shot(f"{words.short(target.name)} alone", target, None),
            *(copied if open_adapter(adapter.path).header is None else ()),  # a LoRA-X file is fitted, never copied
            Shot(f"{words.short(target.name)} with the moved LoRA", target, moved),
        ]
        pictures, comments = self.host.pictures(shots, asked.prompt, asked.seed, asked.steps, asked.size, progress)
        captioned = [(picture, shot.title) for picture, shot in zip(pictures, shots, strict=True)]
        status = "".join(words.message(text, "warning") for text in comments) or words.message("Done.", "done")
        return [gr.update(value=captioned, visible=True), status]

    def _request(self, choice: Choice) -> Request:
        bases = self.host.bases()
        for role, name in (("source", choice.source), ("target", choice.target)):
            if name not in bases:
                raise LoraxError(f"No {role} is chosen. Choose the checkpoint in the list.")
        options, running = choice.of_options(Options), choice.of_options(Running)
        if options.device == "auto":
            options = replace(options, device=self.host.device())
        source, target = (bases[name] for name in (choice.source, choice.target) if name)
        return Request(source, target, self._adapters(choice.adapters), options, running)

    def _labels(self) -> dict[str, str]:
        """Return the LoRAs' names by their labels in the list."""
        return {f"{name}  ({facts(model.path)})": name for name, model in self.host.adapters().items() if model.path.is_file()}

    def _adapters(self, labels: list[str] | None) -> list[ListedFile]:
        names, adapters = self._labels(), self.host.adapters()
        return [adapters[names[label]] for label in labels or [] if label in names]


def _listed(models: dict[str, ListedFile], name: str) -> ListedFile:
    """Return the file of this name. Raises LoraxError if it was removed."""
    if name not in models or not models[name].path.exists():
        raise LoraxError(f"{name}: not there any more, though it was at the transfer. Choose another, and transfer again.")
    return models[name]
