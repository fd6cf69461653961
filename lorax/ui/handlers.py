"""Handles what a user chooses and clicks in the tab. Each handler returns updates of components by name; layout is elsewhere."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from lorax.catalog import facts
from lorax.errors import LoraxError
from lorax.hosts.base import Host
from lorax.options import Options, Running, Saving, declared
from lorax.progress import Progress
from lorax.ui import telling, words
from lorax.ui.choosing import Chooser
from lorax.ui.comparison import moved_loras
from lorax.ui.pages import Page, Pages
from lorax.ui.requests import Choice, Reply, Transfer, Values
from lorax.ui.results import NOTHING, Outcome, analysed, deleted, transferred
from lorax.workflow import InFolder, Memory, Request, analyse, transfer

EXPLAINED = [option for kind in (Options, Running, Saving) for option in declared(kind) if option.choices]
ANALYSE, TRANSFER, COMPARE = "analyse", "transfer", "compare"


class Handlers:
    """The handlers of one tab, whose pages are those of all users."""

    def __init__(self, host: Host) -> None:
        self.host, self.chooser, self.pages = host, Chooser(host), Pages()
        self.memory = Memory(host.cache(), host.models())
        self.nothing = dict(NOTHING)  # what a page shows on which nothing was done yet

    def load(self, page: Page, mark: str, values: Values) -> Reply:
        """Show a page that was opened: what was chosen before, and its job."""
        kept = {name: gr.update(value=value) for name, value in page.values.items()}
        return kept | self.lists(page.values or values) | self.progress(page) | self.outcome(page)

    def lists(self, values: Values) -> Reply:
        """Fill the lists."""
        return self.chooser.lists(values["source"], values["target"], values["adapters"])

    def refresh(self, page: Page, mark: str, values: Values) -> Reply:
        self.host.refresh()
        return self.lists(values)

    def use_card(self, page: Page, name: str, values: Values) -> Reply:
        """Choose the LoRA that was sent from its card."""
        label = self.chooser.label(name)
        return {"card": "", "adapters": gr.update(choices=list(self.chooser.labels()), value=[label])} if label else {"card": ""}

    def use_loaded(self, page: Page, mark: str, values: Values) -> Reply:
        loaded = self.host.loaded()
        return {"target": gr.update(value=loaded)} if loaded else {}

    def confirm(self, page: Page, mark: str, values: Values) -> Reply:
        """Take the guessed source."""
        return {"source": gr.update(value=page.guess), "asking": gr.update(visible=False)}

    def noted(self, page: Page, question: str, values: Values) -> Reply:
        """Answer the browser's question after a choice: facts, what is likely meant, and what is worth doing.

        ``notes`` holds the question, which is repeated until it is answered: gradio 3 drops an event whose handler is running.
        """
        reply: Reply = {}
        try:
            values = self._completed(page, values, reply)
            choice = Choice.of(values)
            models = self.chooser.adapters(choice.adapters)
            known = [facts(model.path) for model in models]
            warnings = self.chooser.misfits(choice, models, known)
            loaded = telling.loaded(self.host.loaded(), choice.target)
            notes = words.facts_lines([(model.name, fact) for model, fact in zip(models, known, strict=True)])
            reply["notes"] = words.answers(question) + notes + loaded
            reply["verdict"] = "".join(words.message(text, "warning") for text in warnings)
        except (LoraxError, OSError) as error:
            reply |= {"notes": words.answers(question), "verdict": words.message(str(error), "error")}
        if page.values and Choice.of(page.values).files != Choice.of(values).files:
            self.host.jobs.forget(page.id, ANALYSE, TRANSFER, COMPARE)
            reply |= self.outcome(page) | self.progress(page)
        page.values = values
        return reply | {f"{one.name}_means": words.meaning(one, values[one.name]) for one in EXPLAINED}

    def _completed(self, page: Page, values: Values, reply: Reply) -> Values:
        """Return the values with the source that the LoRAs tell, and the target that is loaded if none is chosen by hand."""
        before, choice, loaded = page.values.get("adapters") or [], Choice.of(values), self.host.loaded()
        found: dict[str, Any] = {}
        if choice.adapters != before:
            source, page.guess = self.chooser.source_of(self.chooser.adapters(choice.adapters))
            found["source"] = source
        if choice.target in (None, page.loaded) and loaded and choice.target != loaded:
            found["target"] = loaded
        page.loaded = loaded
        source = found.get("source", choice.source)
        reply |= {name: gr.update(value=value) for name, value in found.items() if value != values[name]}
        reply["asking"] = gr.update(visible=bool(page.guess) and source is None)
        reply["guess"] = telling.guess(page.guess)
        return {**values, **found}

    def start(self, page: Page, kind: str, title: str, work: Callable[[Progress], Outcome]) -> Reply:
        """Start a job of the page. Raises LoraxError if it has one already."""
        if any(job.state == "running" for job in self.host.jobs.of(page.id)):
            raise LoraxError("A job is running already. Wait until it has ended, or interrupt it.")
        self.host.jobs.forget(page.id, *((kind,) if kind != TRANSFER else (ANALYSE, TRANSFER, COMPARE)))
        self.host.jobs.begin(self.host, work, page.id, kind, title)
        return self.outcome(page) | self.progress(page)

    def analyse(self, page: Page, mark: str, values: Values) -> Reply:
        request = self.request(Choice.of(values))
        title = f"Comparing {words.short(request.source.name)} with {words.short(request.target.name)}"
        return self.start(page, ANALYSE, title, lambda progress: analysed(analyse(request, progress, self.memory)))

    def transfer(self, page: Page, method: str, values: Values) -> Reply:
        """Start a transfer, by ``method`` or else by the chosen one."""
        asked = Transfer.of({**values, "method": method or values["method"]})
        request = self.request(asked.choice)
        destination = InFolder(self.host.adapter_folder, asked.subfolder, asked.name, asked.saving, self.host.prompt_names)

        def work(progress: Progress) -> Outcome:
            results = transfer(request, destination, progress, self.memory)
            self.host.refresh()
            return transferred(self.host, request, results)

        title = f"Moving {request.adapters_in_words} to {words.short(request.target.name)}"
        return self.start(page, TRANSFER, title, work)

    def comparison(self, work: Callable[..., list[Any]], ask: Callable[[Values], Any], names: list[str]) -> Callable[..., Reply]:
        """Make the handler of a button that draws. ``work`` returns what the components ``names`` show, and the status."""

        def compare(page: Page, mark: str, values: Values) -> Reply:
            asked = ask(values)
            kept = {f"compare_{name}": gr.update(value=value) for name, value in values.items() if name != "last"}
            kept["compare_which"] = gr.update(choices=list(moved_loras(self.host)), value=values["which"])

            def drawn(progress: Progress) -> Outcome:
                return Outcome(kept | dict(zip([*names, "status"], work(progress, asked), strict=True)))

            return self.start(page, COMPARE, "Drawing pictures", drawn)

        return compare

    def interrupt(self, page: Page, mark: str, values: Values) -> Reply:
        """Stop the job of this page, and no other."""
        for job in self.host.jobs.of(page.id):
            job.stop()
        return self.progress(page)

    def poll(self, page: Page, mark: str, values: Values) -> Reply:
        """Tell how far the job is, and what has come of it if the page does not know. ``mark``: a number, and what it knows."""
        reply = self.progress(page)
        if mark.partition(" ")[2] == telling.seen(self.host.jobs.of(page.id)):
            return reply
        return reply | self.outcome(page) | self.lists(page.values or values)

    def progress(self, page: Page) -> Reply:
        jobs = self.host.jobs.of(page.id)
        running = next((job for job in jobs if job.state == "running"), None)
        return {
            "progress": telling.progress(jobs),
            "interrupt": gr.update(visible=running is not None),
            "actions": gr.update(visible=running is None),
        }

    def outcome(self, page: Page) -> Reply:
        """Return what has come of the page's jobs, as updates of all components that show such."""
        reply = dict(self.nothing)
        for job in self.host.jobs.of(page.id):
            if job.state == "done":
                reply |= job.outcome.shown
            elif job.state != "running":
                reply["status"] = telling.ended(job)
        return reply

    def ask_delete(self, page: Page, mark: str, values: Values) -> Reply:
        written = self._written(page)
        names = [file.name for file in written.files] if written else []
        return {"deleting": gr.update(visible=True), "what": telling.delete(names)}

    def keep(self, page: Page, mark: str, values: Values) -> Reply:
        return {"deleting": gr.update(visible=False)}

    def delete(self, page: Page, mark: str, values: Values) -> Reply:
        """Delete what the page's last transfer has written."""
        written = self._written(page)
        text = deleted(written) if written else ""
        self.host.jobs.forget(page.id, ANALYSE, TRANSFER, COMPARE)
        self.host.refresh()
        return self.outcome(page) | self.progress(page) | self.lists(values) | {"status": words.message(text, "done")}

    def open_folder(self, page: Page, mark: str, values: Values) -> Reply:
        if self.host.opens_folders and (written := self._written(page)):
            self.host.open_folder(written.files[0].parent)
        return {}

    def _written(self, page: Page) -> Outcome | None:
        """Return the outcome of the page's last transfer, if it has written something."""
        ended = [job for job in self.host.jobs.of(page.id) if job.state == "done" and job.outcome.files]
        return ended[-1].outcome if ended else None

    def request(self, choice: Choice) -> Request:
        """Make the request for what is chosen. Raises LoraxError if something is missing."""
        bases = self.host.bases()
        for role, name in (("source", choice.source), ("target", choice.target)):
            if name not in bases:
                raise LoraxError(f"No {role} is chosen. Choose the checkpoint in the list.")
        options, running = choice.of_options(Options), choice.of_options(Running)
        if options.device == "auto":
            options = replace(options, device=self.host.device())
        source, target = (bases[name] for name in (choice.source, choice.target) if name)
        return Request(source, target, self.chooser.adapters(choice.adapters), options, running)
