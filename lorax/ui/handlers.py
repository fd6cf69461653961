"""Handles what a user chooses and clicks in the tab. Each handler returns updates of components by name; layout is elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from lorax.catalog import ListedFile, facts
from lorax.errors import LoraxError
from lorax.hosts.base import Host, placed
from lorax.options import Batching, Options, Running, Saving, declared
from lorax.progress import Progress
from lorax.transfer import Do, Kind, Verdict
from lorax.ui import telling, words
from lorax.ui.choosing import Chooser
from lorax.ui.comparing import SIDE_BY_SIDE
from lorax.ui.comparison import moved_loras
from lorax.ui.judging import Asked, Judging
from lorax.ui.library import Library
from lorax.ui.pages import Page, Pages
from lorax.ui.requests import Choice, Reply, Values
from lorax.ui.results import NOTHING, Shown, analysed, deleted, filled, moved, original_tag
from lorax.ui.shelves import Shelves
from lorax.workflow import Batch, InFolder, Item, Memory, Request, analyse, batch

EXPLAINED = [option for kind in (Options, Running, Saving) for option in declared(kind) if option.choices]
ANALYSE, TRANSFER, COMPARE = "analyse", "transfer", "compare"
BUTTONS = {Do.MOVE: "move", Do.REFINE: "refine", Do.BRIDGE: "bridge", Do.USE_ORIGINAL: "original"}
NO_BUTTONS = {name: gr.update(visible=False) for name in BUTTONS.values()}
FIXED = (Kind.WRONG_SOURCE, Kind.UNREADABLE, Kind.OTHER_ARCHITECTURE, Kind.SOURCE_UNKNOWN, Kind.SOURCE_MISSING)  # not to be moved


class Handlers:
    """The handlers of one tab, whose pages are those of all users."""

    def __init__(self, host: Host) -> None:
        self.host, self.chooser, self.pages, self.judging = host, Chooser(host), Pages(), Judging(host)
        self.memory = Memory(host.cache(), host.models())
        self.library = Library(self.chooser, Shelves(host, self.judging.verdicts), self.move_several)
        self.nothing = dict(NOTHING)  # what a page shows on which nothing was done yet

    def load(self, page: Page, mark: str, values: Values) -> Reply:
        """Show a page that was opened: what was chosen before, and its job."""
        kept = {name: gr.update(value=value) for name, value in page.values.items()}
        lists = self._lists(page.values or values, all_values=True)
        fields = filled(self.host.jobs.of(page.id)) | page.compared
        return kept | lists | self.progress(page) | self.outcome(page) | fields

    def refresh(self, page: Page, mark: str, values: Values) -> Reply:
        self.chooser.refresh()
        return self.chooser.lists(values) | self.library.stale()

    def look(self, page: Page, mark: str, values: Values) -> Reply:
        """Have the LoRAs be read, since the tab is looked at; tell how far that is, and in the end what is known of them."""
        if not self.chooser.look():
            return {"looking": self.chooser.looking()}
        return self._lists(values)

    def _lists(self, values: Values, *, all_values: bool = False) -> Reply:
        lists = self.chooser.lists(values, all_values=all_values)
        return lists | {"compare_which": gr.update(choices=list(moved_loras(self.host)))}

    def use_card(self, page: Page, name: str, values: Values) -> Reply:
        """Choose the LoRA that was sent from its card."""
        if (label := self.chooser.label(name)) is None:
            return {"card": "", "status": words.message(f"{name}: its file is not there. Press Refresh lists.", "error")}
        return {"card": "", "adapters": gr.update(choices=list(self.chooser.labels()), value=[label])}

    def sent(self, tag: str, target: str | None, originals: str) -> None:
        """Have the host draw with the target, to which a tag for it was sent instead of the originals' tags."""
        if target:
            self.host.choose(target)

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
        reply, revision = Reply(), self.chooser.revision
        try:
            values = self._completed(page, values, reply)
            choice = Choice.of(values)
            models = self.chooser.adapters(choice.adapters)
            notes = words.facts_lines([(model.name, facts(model.path)) for model in models])
            reply["notes"] = words.answers(question) + notes + telling.loaded(self.host.loaded(), choice.target)
            reply |= self._judged(page, choice, models)
        except (LoraxError, OSError) as error:
            reply |= {"notes": words.answers(question), "verdict": words.message(str(error), "error")} | NO_BUTTONS
        if page.values and self._files(Choice.of(page.values)) != self._files(Choice.of(values)):
            self._forget(page)
            reply |= self.outcome(page) | self.progress(page)
        if page.values.get("target") != values["target"] or self.chooser.revision != revision:
            reply |= self.library.stale()
        page.values = values
        return reply | {f"{one.name}_means": words.meaning(one, values[one.name]) for one in EXPLAINED}

    def _completed(self, page: Page, values: Values, reply: Reply) -> Values:
        """Return the values with the source that the LoRAs tell, and the target that is loaded if none is chosen by hand."""
        before, choice, loaded = page.values.get("adapters") or [], Choice.of(values), self.host.loaded()
        models, found = self.chooser.adapters(choice.adapters), dict[str, Any]()
        if self.chooser.names(choice.adapters) != self.chooser.names(before):
            found["source"], page.guess = self.chooser.source_of(models)
        elif choice.source != page.values.get("source") and choice.source:
            self.chooser.confirm(models, choice.source)
        if choice.target in (None, page.loaded) and loaded and choice.target != loaded:
            found["target"] = loaded
        page.loaded = loaded
        reply |= {name: gr.update(value=value) for name, value in found.items() if value != values[name]}
        is_open = found.get("source", choice.source) is None
        reply |= {"asking": gr.update(visible=bool(page.guess) and is_open), "guess": telling.guess(page.guess)}
        return {**values, **found}

    def _files(self, choice: Choice) -> tuple[Any, ...]:
        """Return the chosen checkpoints and LoRAs alone. A LoRA's label changes once it was read."""
        return choice.source, choice.target, tuple(choice.also), *self.chooser.names(choice.adapters)

    def _judged(self, page: Page, choice: Choice, models: Sequence[ListedFile]) -> Reply:
        """Return what is true of the LoRAs on the target, once it is known, and the buttons that go with it."""
        bases = self.host.bases()
        if not models or choice.target not in bases:
            asked_for = words.message("Choose a LoRA, and the checkpoint that you want to use it on.")
            return {"verdict": asked_for} | NO_BUTTONS | {"move": gr.update(visible=True, interactive=False, variant="secondary")}
        known = [facts(model.path) for model in models]
        warned = "".join(words.message(text, "warning") for text in self.chooser.misfits(choice, models, known))
        source = bases.get(choice.source) if choice.source else None
        asked = replace(choice.of_options(Running), trigger="", captions=())  # which change no cost
        found = self.judging.ask(page.id, Asked(models, bases[choice.target], source, list(bases.values()), asked))
        if found is None:
            return {"verdict": warned + telling.PENDING} | NO_BUTTONS
        said = telling.verdicts([model.name for model in models], found)
        tag = original_tag(self.host, models, found)
        return {"verdict": warned + said, "original_tag": tag} | self._buttons(found, choice, bool(warned))

    def _buttons(self, verdicts: Sequence[Verdict], choice: Choice, doubted: bool) -> Reply:
        """Show what can be done, the recommended one as the primary button, unless what was chosen is ``doubted``."""
        offered = [action.do for verdict in verdicts for action in verdict.actions]
        if any(_is_asked_for(verdict, choice) for verdict in verdicts):
            offered.append(Do.MOVE)
        best = None if doubted else next(iter(offered), None)
        if not self.host.has_prompt or len(verdicts) > SIDE_BY_SIDE:
            offered = [one for one in offered if one is not Do.USE_ORIGINAL]
        return {
            name: gr.update(visible=do in offered, interactive=True, variant="primary" if do is best else "secondary")
            for do, name in BUTTONS.items()
        }

    def start(self, page: Page, kind: str, title: str, work: Callable[[Progress], Shown]) -> Reply:
        """Start a job of the page. Raises LoraxError if it has one already."""
        if any(job.state == "running" for job in self.host.jobs.of(page.id)):
            raise LoraxError("A job is running already. Wait until it has ended, or interrupt it.")
        if kind == TRANSFER:
            self._forget(page)
        else:
            self.host.jobs.forget(page.id, kind)
        self.host.jobs.begin(self.host, work, page.id, kind, title)
        return self.outcome(page) | self.progress(page)

    def analyse(self, page: Page, mark: str, values: Values) -> Reply:
        choice = Choice.of(values)
        if not choice.source and len(choice.adapters) > 1:
            raise LoraxError("Details are told of LoRAs of one checkpoint. Choose the one that these were trained on.")
        source, target, options = self._base(choice.source, "source"), self._base(choice.target, "target"), self._options(choice)
        request = Request(source, target, self.chooser.adapters(choice.adapters), options, choice.of_options(Running))
        title = f"Measuring {words.short(source.name)} and {words.short(target.name)}"
        return self.start(page, ANALYSE, title, lambda progress: analysed(analyse(request, progress, self.memory)))

    def transfer(self, page: Page, method: str, values: Values) -> Reply:
        """Start a transfer, by ``method`` or else by the chosen one."""
        choice = Choice.of({**values, "method": method or values["method"]})
        adapters, source = self.chooser.adapters(choice.adapters), None
        if choice.source or len(adapters) == 1:  # who is quick presses before the source that the LoRA names is filled in
            source = self._base(choice.source or self.chooser.source_of(adapters)[0], "source")
        targets = [self._base(name, "target") for name in dict.fromkeys([choice.target, *choice.also])]
        return self._start_batch(page, [Item(adapter, source) for adapter in adapters], targets, choice)

    def move_several(self, page: Page, adapters: Sequence[ListedFile], values: Values) -> Reply:
        """Start a transfer of LoRAs of the library, each from the source that it names. What is there already is left out."""
        choice = Choice.of({**values, "skip_existing": values["skip_existing"] or not values["overwrite"]})
        return self._start_batch(page, [Item(adapter) for adapter in adapters], [self._base(choice.target, "target")], choice)

    def _start_batch(self, page: Page, items: Sequence[Item], targets: Sequence[ListedFile], choice: Choice) -> Reply:
        running, batching = choice.of_options(Running), choice.of_options(Batching)
        asked = Batch(items, targets, list(self.host.bases().values()), self._options(choice), running, batching)
        subfolder = choice.values["subfolder"].strip()
        destination = InFolder(self.host.adapter_folder, subfolder, choice.of_options(Saving), self.host.prompt_names)

        def work(progress: Progress) -> Shown:
            outcomes = batch(asked, destination, progress, self.memory)
            self.chooser.refresh()
            return moved(self.host, asked, outcomes)

        what = words.short(items[0].adapter.name) if len(items) == 1 else f"{len(items)} LoRAs"
        return self.start(page, TRANSFER, f"Moving {what} to {' and '.join(words.short(one.name) for one in targets)}", work)

    def comparison(self, work: Callable[..., list[Any]], ask: Callable[[Values], Any], names: list[str]) -> Callable[..., Reply]:
        """Make the handler of a button that draws. ``work`` returns what the components ``names`` show, and the status."""

        def compare(page: Page, mark: str, values: Values) -> Reply:
            asked = ask(values)
            is_open = {"comparison": gr.update(open=True)}

            def drawn(progress: Progress) -> Shown:
                return Shown(is_open | dict(zip([*names, "status"], work(progress, asked), strict=True)))

            reply = self.start(page, COMPARE, "Drawing pictures", drawn)
            page.compared = {f"compare_{name}": gr.update(value=value) for name, value in values.items() if name != "last"}
            page.compared["compare_which"] = gr.update(choices=list(moved_loras(self.host)), value=values["which"])
            return reply

        return compare

    def interrupt(self, page: Page, mark: str, values: Values) -> Reply:
        """Stop the job of this page, and no other."""
        for job in self.host.jobs.of(page.id):
            job.stop()
        return self.outcome(page) | self.progress(page)  # one that waited has ended already

    def poll(self, page: Page, mark: str, values: Values) -> Reply:
        """Tell how far the job is, and what has come of it if the page does not know. ``mark``: a number, and what it knows."""
        reply, jobs = self.progress(page), self.host.jobs.of(page.id)
        if mark.partition(" ")[2] == telling.seen(jobs):
            return reply
        return reply | self.outcome(page) | filled(jobs[-1:]) | self.chooser.lists(values) | self.library.stale()

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
                reply |= job.outcome.reply
            elif job.state != "running":
                reply["status"] = telling.ended(job)
        return reply

    def _forget(self, page: Page) -> None:
        """Forget what has come of the page's jobs, and what was compared."""
        self.host.jobs.forget(page.id, ANALYSE, TRANSFER, COMPARE)
        page.compared = {}

    def ask_delete(self, page: Page, mark: str, values: Values) -> Reply:
        names = [file.name for shown in self._written(page) for file in shown.files]
        return {"deleting": gr.update(visible=True), "what": telling.delete(names)}

    def keep(self, page: Page, mark: str, values: Values) -> Reply:
        return {"deleting": gr.update(visible=False)}

    def delete(self, page: Page, mark: str, values: Values) -> Reply:
        """Delete what the page's last transfer has written."""
        said = "".join(words.message(deleted(shown), "done") for shown in self._written(page))
        self._forget(page)
        self.chooser.refresh()
        return self.outcome(page) | self.progress(page) | self.chooser.lists(values) | {"status": said}

    def open_folder(self, page: Page, mark: str, values: Values) -> Reply:
        for shown in self._written(page):
            if self.host.opens_folders:
                self.host.open_folder(shown.files[0].parent)
        return {}

    def _written(self, page: Page) -> list[Shown]:
        """Return what has come of the page's transfer, if it has written something."""
        return [job.outcome for job in self.host.jobs.of(page.id) if job.state == "done" and job.outcome.files]

    def _base(self, name: str | None, role: str) -> ListedFile:
        if (found := self.host.bases().get(name or "")) is None:
            raise LoraxError(f"No {role} is chosen. Choose the checkpoint in the list.")
        return found

    def _options(self, choice: Choice) -> Options:
        return placed(self.host, choice.of_options(Options))


def _is_asked_for(verdict: Verdict, choice: Choice) -> bool:
    """Tell whether a file can be written that the choices ask for, though the verdict does not advise to move."""
    if verdict.kind in FIXED and not (verdict.kind is Kind.OTHER_ARCHITECTURE and choice.also):
        return False
    if choice.also or choice.method != Options.method:
        return True
    return choice.values["save_as"] != Saving.save_as and verdict.kind not in (Kind.UNRELATED, Kind.CROSSED)
