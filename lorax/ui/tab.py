"""Builds the tab from its parts."""

from typing import Any

import gradio as gr

from lorax.hosts.base import Host
from lorax.ui import comparing, layout, library, words
from lorax.ui.controls import wire
from lorax.ui.events import Comparing, Events
from lorax.ui.handlers import Handlers
from lorax.ui.requests import Form

TITLE = "LoRA-X"


def build(host: Host, **page: Any) -> gr.Blocks:
    """Build the tab as blocks of its own; ``page`` is passed to ``gr.Blocks``."""
    handlers, preset, compared = Handlers(host), host.defaults(), list[Comparing]()
    with gr.Blocks(analytics_enabled=False, **page) as blocks, gr.Column(elem_id="lorax"):
        if host.notice:
            gr.HTML(words.message(host.notice, "warning"))
        wires = {name: wire(f"lorax_{name}") for name in ("page", "question", "poll", "look", "library_look", "card")}
        with gr.Row(elem_id="lorax_columns"):
            with gr.Column(scale=2, min_width=320):
                chosen = layout.choices(host)
                options = layout.options(host, preset)
            with gr.Column(scale=3, min_width=320):
                shown = layout.doing() | layout.result(host)
                shown["last"] = gr.State({})  # what the comparison knows of the last transfer
                shown["comparison"] = comparing.lay_out(host, lambda *given: compared.append(Comparing(*given)), shown["last"])
        shown |= layout.details()
        in_library = library.lay_out()
        asked = {name: part for name, part in (chosen | options).items() if layout.is_asked(part)}
        events = Events(handlers, wires, Form(**asked), chosen | options | shown | in_library, compared)
        events.connect(blocks)
    return blocks
