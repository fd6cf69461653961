"""Connects the components of the tab with the handlers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gradio as gr

from lorax.errors import LoraxError
from lorax.ui import words
from lorax.ui.controls import QUIET, Parts, js
from lorax.ui.handlers import Handlers
from lorax.ui.layout import is_asked
from lorax.ui.pages import Page
from lorax.ui.requests import Form, Reply, Values

Handler = Callable[[Page, str, Values], Reply]
# The number of the page, which the browser keeps. The page's script may not be loaded yet.
PAGE = """() => {
    window.loraxPage ??= String(Math.random()).slice(2) + String(Math.random()).slice(2);
    try { window.loraxPage = localStorage.lorax_page ??= window.loraxPage; } catch { /* the browser keeps nothing */ }
    return ["", window.loraxPage];
}"""


class Comparing(NamedTuple):
    """A button of the part Compare, and the job that it starts; see ``comparing.Start``."""

    button: Any
    work: Any
    form: Form
    ask: Any
    outputs: list[Any]


class Events:
    """The events of the tab. Each sends all that is chosen, and may change every component."""

    def __init__(self, handlers: Handlers, wires: Parts, asked: Form, parts: Parts, compared: Sequence[Comparing]) -> None:
        self.handlers, self.wires, self.asked, self.parts, self.compared = handlers, wires, asked, parts, compared
        drawn = {f"drawn_{number}": part for number, part in enumerate(compared[0].outputs)}
        handlers.nothing |= {name: first(part) for name, part in drawn.items()}
        fields = compared[0].form.named(lambda name: f"compare_{name}")
        del fields["compare_last"]  # a state, which is among the parts
        self.outputs = Form(**{**fields, **parts, **drawn, "card": wires["card"]})
        with gr.Row(visible=False):
            self.no_mark = gr.Textbox("")

    def connect(self, blocks: gr.Blocks) -> None:
        handlers, parts, wires = self.handlers, self.parts, self.wires
        _then(self.on(blocks.load, handlers.load, script=PAGE), "opened")
        self.on(wires["question"].input, handlers.noted, wires["question"])
        self.on(wires["poll"].input, handlers.poll, wires["poll"])
        self.on(wires["look"].input, handlers.look, wires["look"])
        _then(self.on(wires["card"].input, handlers.use_card, wires["card"]), "ask")
        for component in self.asked.components:
            changed = component.blur if isinstance(component, gr.Textbox) else component.change  # not at every letter
            changed(None, None, None, **js("() => lorax.ask()"))
        for name in ("adapters", "source", "target"):
            parts[name].input(None, None, None, **js("() => lorax.stale()"))  # what was said of another choice goes at once
        for name, handler in (("refresh", handlers.refresh), ("use_loaded", handlers.use_loaded), ("confirm", handlers.confirm)):
            _then(self.on(parts[name].click, handler), "ask")
        for name, handler in (
            ("analyse", handlers.analyse),
            ("interrupt", handlers.interrupt),
            ("open", handlers.open_folder),
            ("delete", handlers.ask_delete),
            ("deleted", handlers.delete),
            ("kept", handlers.keep),
        ):
            self.on(parts[name].click, handler)
        for name in ("move", "refine", "bridge"):
            self.on(parts[name].click, handlers.transfer, gr.Textbox("" if name == "move" else name, visible=False))
        self._connect_library()
        for one in self.compared:
            names = [f"drawn_{number}" for number in range(len(one.outputs))]
            self.on(one.button.click, handlers.comparison(one.work, one.ask, names), form=one.form)
        send, copy = "(...sent) => lorax.send(...sent)", "(text) => lorax.copy(text)"
        for button, *sent in (("send", "tag", "sent_to", "originals"), ("original", "original_tag", "target", "original_tag")):
            parts[button].click(handlers.sent, [parts[name] for name in sent], None, queue=False, **QUIET, **js(send))
        parts["copy"].click(None, [parts["tag"]], None, **js(copy))

    def _connect_library(self) -> None:
        """Connect the part Library, whose events send its own fields along."""
        library, parts = self.handlers.library, self.parts
        fields = {name: part for name, part in parts.items() if name.startswith("library_") and is_asked(part)}
        form = Form(**self.asked.named(lambda name: name), **fields)
        self.on(self.wires["library_look"].input, library.look, self.wires["library_look"], form=form)
        for listen, handler in (
            (parts["library_only"].change, library.select),
            (parts["library_sort"].change, library.select),
            (parts["library_search"].submit, library.select),
            (parts["library_search"].blur, library.select),
            (parts["library_more"].click, library.more),
            (parts["library_all"].click, library.choose_all),
            (parts["library_none"].click, library.choose_none),
            (parts["library_told"].click, library.told),
            (parts["library_closely"].click, library.closely),
        ):
            self.on(listen, handler, form=form)
        moved = self.on(parts["library_move"].click, library.move, form=form)
        moved.then(None, None, None, **js("() => lorax.show()"))

    def on(
        self, listen: Callable[..., Any], handler: Handler, mark: Any = None, script: str = "", form: Form | None = None
    ) -> Any:
        """Have ``handler`` called with the page, the value of ``mark`` and all that is chosen; an error becomes a message."""
        form, chooser = form or self.asked, self.handlers.chooser

        def handle(mark: str, id: str, *values: Any) -> list[Any]:
            try:
                reply = handler(self.handlers.pages.of(id), mark, chooser.named(form.read(values)))
            except (LoraxError, OSError) as error:
                reply = {"status": words.message(str(error), "error")}
            return self.outputs.fill(chooser.labelled(reply), gr.update())

        inputs = [mark or self.no_mark, self.wires["page"], *form.components]
        named = f"(...values) => lorax.named(values.slice(0, {len(inputs)}))"
        if script:
            named = f"(...values) => {{ const first = ({script})(); return [...first, ...values.slice(2, {len(inputs)})]; }}"
        return listen(handle, inputs, self.outputs.components, queue=False, **QUIET, **js(named))


def _then(answered: Any, call: str) -> None:
    """Have the browser ask about what is chosen once the answer to an event is there. ``call``: a function of lorax.js."""
    answered.then(None, None, None, **js(f"() => {{ window.lorax?.{call}(); return []; }}"))


def first(part: Any) -> Any:
    """Return the update by which a component is as it was at first."""
    if isinstance(part, gr.State):
        return part.value
    if isinstance(part, gr.Column | gr.Row):
        return gr.update(visible=part.visible)
    return gr.update(value=part.value, visible=part.visible)
