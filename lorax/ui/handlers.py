"""What happens when something in the tab is chosen or clicked. No layout here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from lorax.catalog import Facts, Model, facts, named, propose
from lorax.errors import Interrupted, LoraxError
from lorax.formats import open_adapter
from lorax.hosts.base import Host, Shot
from lorax.methods import BEHAVIOURAL
from lorax.options import Options, Running, Saving, declared
from lorax.transfer.planning import Progress
from lorax.ui import words
from lorax.ui.controls import chosen
from lorax.ui.heatmap import heatmap
from lorax.workflow.jobs import Destination, Memory, Request, analyse, cost_of, plans, transfer

KEEP = gr.update()


class Handlers:
    """The first values of a job's handler are source, target, LoRAs and the controls of ``Options`` and ``Running``."""

    def __init__(self, host: Host) -> None:
        self.host, self.memory = host, Memory(host.cache(), host.models())

    # What is there to choose

    def lists(self, source: str | None, target: str | None, adapters: list[str] | None) -> list[Any]:
        """Updates of the three lists and of the line that says what is loaded. What is chosen stays so if it is still there."""
        bases, labels, loaded = list(self.host.bases()), self._labels(), self.host.loaded()
        source = source if source in bases else loaded or next(iter(bases), None)
        kept = [label for label in adapters or [] if label in labels]
        return [
            gr.update(choices=bases, value=source),
            gr.update(choices=bases, value=target if target in bases else None),
            gr.update(choices=list(labels), value=kept),
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
        """A card of the LoRA page, sent here: it joins the chosen ones."""
        label = next((label for label, known in self._labels().items() if known == name), None)
        if label is None:
            return [KEEP, ""]
        return [gr.update(choices=list(self._labels()), value=list(dict.fromkeys([*(adapters or []), label]))), ""]

    def noted(
        self,
        question: str,
        before: list[Any],
        source: str | None,
        target: str | None,
        adapters: list[str] | None,
        method: str,
        *options: Any,
    ) -> list[Any]:
        """What there is to say after a choice: what was chosen and is loaded now, the source that follows from it, notes.

        Last, whether what only methods that run the models have is shown.

        The notes carry the browser's question, which is asked anew until it is answered: gradio 3 drops an event whose handler
        still runs, and the notes would lack what was chosen in quick succession.
        """
        answer, loaded, chosen_before, loaded_before = words.answers(question), self.host.loaded(), *before
        running = gr.update(visible=method in BEHAVIOURAL)
        try:
            models, proposed = self._adapters(adapters), None
            if not adapters:
                proposed = loaded if source == loaded_before != loaded else None  # what is loaded, until a LoRA is chosen
            elif adapters != chosen_before:
                proposed = self._proposed(models)
            html = answer + self._notes(proposed or source, target, models, method, *options)
        except (LoraxError, OSError) as error:
            return [before, KEEP, KEEP, answer + words.message(str(error), "error"), running]
        return [[adapters or [], loaded], gr.update(value=proposed) if proposed else KEEP, self.loaded_line(), html, running]

    def _proposed(self, models: Sequence[Model]) -> str | None:
        """The source that one of the LoRAs names, if it is there."""
        bases = self.host.bases()
        found = (propose(model.path, bases.values()) for model in models)
        return next((base.name for base in found if base), None)

    def _notes(self, source: str | None, target: str | None, models: Sequence[Model], method: str, *options: Any) -> str:
        """What is known of the LoRAs, what does not fit, and what running the checkpoints would take."""
        known = [(model.name, facts(model.path)) for model in models]
        problems = [f"{name}: {fact.problem}" for name, fact in known if fact.problem]
        warnings = [*problems, *self._misfits(source, target, models, known)]
        html = words.facts_table(known) + "".join(words.message(text, "warning") for text in warnings)
        bases = self.host.bases()
        if warnings or method not in BEHAVIOURAL or source not in bases or target not in bases or not models:
            return html
        request = self._asked(bases[source], bases[target], models, [method, *options])
        return html + words.message(f"{method} runs both checkpoints. It takes {cost_of(request).words}, or less.")

    def _misfits(
        self, source: str | None, target: str | None, models: Sequence[Model], known: Sequence[tuple[str, Facts]]
    ) -> list[str]:
        bases = self.host.bases()
        if source not in bases or target not in bases or not models:
            return []
        if source == target:
            return ["Source and target are the same checkpoint: nothing would change."]
        found = []
        for model, fact in zip(models, (fact for _, fact in known), strict=True):
            says = named(model.path, bases.values())
            if says and says.name != source:
                found.append(f"{model.name} says that it was trained on {says.name}, but the source is {source}.")
            try:
                if not fact.problem:
                    plans(Request(bases[source], bases[target], [model], Options(pairing="name")))
            except LoraxError as error:
                found.append(str(error))
        return list(dict.fromkeys(found))

    # Jobs

    def job(self, work: Callable[..., list[Any]], outputs: int) -> Callable[..., Sequence[Any]]:
        """The handler of a job: a wrong choice or a stop becomes a message in the last output."""

        def guarded(progress: Progress, *values: Any) -> list[Any]:
            try:
                progress(0, 1, "Reading the files")  # a job that was stopped while it waited ends here
                return work(progress, *values)
            except Interrupted:
                text = words.message("Stopped. Nothing was written.", "warning")
            except (LoraxError, OSError) as error:
                text = words.message(str(error), "error")
            return [KEEP] * (outputs - 1) + [text]

        return self.host.handler(guarded, outputs)

    def analyse(self, progress: Progress, *values: Any) -> list[Any]:
        results = analyse(self._request(values), progress, self.memory)
        records = [record for result in results for record in result.report.records]
        shown = words.summary(results), heatmap(records), words.rows(results)
        return [gr.update(visible=True), *shown, words.message("Nothing was written. Click Transfer to write.", "done")]

    def transfer(self, progress: Progress, *values: Any) -> list[Any]:
        *given, name, subfolder = values[: -len(declared(Saving))]
        request, saving = self._request(given), chosen(Saving, values[-len(declared(Saving)) :])
        folder = self.host.adapter_folder
        destination = Destination(folder, subfolder.strip(), name.strip(), saving, self.host.prompt_names)
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
            gr.update(choices=list(self._labels()), value=given[2]),
            words.message("Done.", "done") if moved else words.message("Nothing was written.", "warning"),
        ]

    def compare(
        self, progress: Progress, state: dict, which: str | None, prompt: str, seed: float, steps: float, size: float | None
    ) -> list[Any]:
        if not state or which is None or which not in state["moved"]:
            raise LoraxError("Transfer a LoRA first: there is nothing to compare yet.")
        bases, (name, path) = self.host.bases(), state["moved"][which]
        source, target = _listed(bases, state["source"]), _listed(bases, state["target"])
        adapter, moved = _listed(self.host.adapters(), name), _listed({which: Model(which, Path(path))}, which)
        copied = [Shot(f"{words.short(target.name)} with a plain copy", target, adapter)]
        shots = [
            Shot(f"{words.short(source.name)} with the LoRA", source, adapter),
            Shot(f"{words.short(target.name)} alone", target, None),
            *(copied if open_adapter(adapter.path).header is None else ()),  # a LoRA-X file fits itself: it makes no plain copy
            Shot(f"{words.short(target.name)} with the moved LoRA", target, moved),
        ]
        pictures, said = self.host.pictures(shots, prompt, int(seed), int(steps), int(size) if size else None, progress)
        captioned = [(picture, shot.title) for picture, shot in zip(pictures, shots, strict=True)]
        status = "".join(words.message(text, "warning") for text in said) or words.message("Done.", "done")
        return [gr.update(value=captioned, visible=True), status]

    def _request(self, values: Sequence[Any]) -> Request:
        source, target, adapters, *options = values
        bases = self.host.bases()
        for role, name in (("source", source), ("target", target)):
            if name not in bases:
                raise LoraxError(f"No {role} is chosen. Choose the checkpoint in the list.")
        return self._asked(bases[source], bases[target], self._adapters(adapters), options)

    def _asked(self, source: Model, target: Model, models: Sequence[Model], options: Sequence[Any]) -> Request:
        count = len(declared(Options))
        made, running = chosen(Options, options[:count]), chosen(Running, options[count:])
        if made.device == "auto":
            made = replace(made, device=self.host.device())
        return Request(source, target, models, made, running)

    def _labels(self) -> dict[str, str]:
        """What the list of LoRAs shows -> name."""
        return {f"{name}  ({facts(model.path)})": name for name, model in self.host.adapters().items() if model.path.is_file()}

    def _adapters(self, labels: list[str] | None) -> list[Model]:
        names, adapters = self._labels(), self.host.adapters()
        return [adapters[names[label]] for label in labels or [] if label in names]


def _listed(models: dict[str, Model], name: str) -> Model:
    """Raises LoraxError where it is there no more."""
    if name not in models or not models[name].path.exists():
        raise LoraxError(f"{name}: not there any more, though it was at the transfer. Choose another, and transfer again.")
    return models[name]
