"""Builds the tab, and connects its components to the handlers."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from lorax.errors import LoraxError
from lorax.hosts.base import Host
from lorax.ui import layout, words
from lorax.ui.controls import Parts, js, wire
from lorax.ui.handlers import Handlers
from lorax.ui.pages import Page
from lorax.ui.requests import Form, Reply, Values

TITLE = "LoRA-X"
Handler = Callable[[Page, str, Values], Reply]
# The number of the page, which the browser keeps. The page's script may not be loaded yet.
PAGE = """() => {
    window.loraxPage ??= String(Math.random()).slice(2) + String(Math.random()).slice(2);
    try { window.loraxPage = localStorage.lorax_page ??= window.loraxPage; } catch { /* the browser keeps nothing */ }
    return ["", window.loraxPage];
}"""


def build(host: Host, **page: Any) -> gr.Blocks:
    """Build the tab as blocks of its own; ``page`` is passed to ``gr.Blocks``."""
    handlers, preset = Handlers(host), host.defaults()
    with gr.Blocks(analytics_enabled=False, **page) as blocks, gr.Column(elem_id="lorax"):
        if host.notice:
            gr.HTML(words.message(host.notice, "warning"))
        wires = {name: wire(f"lorax_{name}") for name in ("page", "question", "poll", "card")}
        with gr.Row(elem_id="lorax_columns"):
            with gr.Column(scale=2, min_width=400):
                chosen = layout.choices()
                options = layout.options(preset)
            with gr.Column(scale=3, min_width=400):
                shown = layout.doing() | layout.result(host)
        shown |= layout.details()
        asked = {name: part for name, part in (chosen | options).items() if hasattr(part, "change") and not _is_shown(part)}
        _Events(handlers, wires, Form(**asked), chosen | options | shown).connect(blocks)
    return blocks


class _Events:
    """The events of the tab. Each sends all that is chosen, and may change every component."""

    def __init__(self, handlers: Handlers, wires: Parts, asked: Form, parts: Parts) -> None:
        self.handlers, self.wires, self.asked, self.parts = handlers, wires, asked, parts
        self.outputs = Form(**parts, card=wires["card"])
        with gr.Row(visible=False):
            self.no_mark = gr.Textbox("")

    def connect(self, blocks: gr.Blocks) -> None:
        handlers, parts, wires = self.handlers, self.parts, self.wires
        opened = self.on(blocks.load, handlers.load, script=PAGE)
        opened.then(None, None, None, **js("() => { window.lorax?.ask(); return []; }"))
        self.on(wires["question"].input, handlers.noted, wires["question"])
        self.on(wires["poll"].input, handlers.poll, wires["poll"])
        self.on(wires["card"].input, handlers.use_card, wires["card"])
        for component in self.asked.components:
            changed = component.blur if isinstance(component, gr.Textbox) else component.change  # not at every letter
            changed(None, None, None, **js("() => lorax.ask()"))
        for name, handler in (
            ("refresh", handlers.refresh),
            ("use_loaded", handlers.use_loaded),
            ("confirm", handlers.confirm),
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
        send, copy = "(text, target) => lorax.send(text, target)", "(text) => lorax.copy(text)"
        parts["send"].click(None, [parts["tag"], parts["sent_to"]], None, **js(send))
        parts["original"].click(None, [parts["original_tag"], parts["target"]], None, **js(send))
        parts["copy"].click(None, [parts["tag"]], None, **js(copy))

    def on(self, listen: Callable[..., Any], handler: Handler, mark: Any = None, script: str = "") -> Any:
        """Have ``handler`` called with the page, the value of ``mark`` and all that is chosen; an error becomes a message."""

        def handle(mark: str, id: str, *values: Any) -> list[Any]:
            try:
                reply = handler(self.handlers.pages.of(id), mark, self.asked.read(values))
            except (LoraxError, OSError) as error:
                reply = {"status": words.message(str(error), "error")}
            return self.outputs.fill(reply, gr.update())

        inputs = [mark or self.no_mark, self.wires["page"], *self.asked.components]
        named = f"(...values) => lorax.named(values.slice(0, {len(inputs)}))"
        if script:
            named = f"(...values) => {{ const first = ({script})(); return [...first, ...values.slice(2, {len(inputs)})]; }}"
        return listen(handle, inputs, self.outputs.components, show_progress="hidden", queue=False, **js(named))


def _is_shown(part: Any) -> bool:
    """Tell whether the component only shows something."""
    return isinstance(part, gr.HTML | gr.Button)
