"""Makes gradio components for options, and bridges the one difference between gradio 3 and 4 that concerns the tab."""

import inspect
from typing import Any

import gradio as gr

from lorax.options import Option

JS = "_js" if "_js" in inspect.signature(gr.Blocks.load).parameters else "js"


def js(code: str) -> dict[str, str]:
    """Return the keyword argument of an event listener that runs ``code`` in the browser first."""
    return {JS: code}


def control(option: Option, default: Any) -> Any:
    """Make a component for the option."""
    shown: dict[str, Any] = {"label": option.label, "info": option.described, "elem_id": f"lorax_{option.name}"}
    if option.choices:
        return gr.Dropdown(list(option.choices), value=default, **shown)
    if option.bounds:
        return gr.Slider(*option.bounds, value=default, step=option.step, **shown)
    if option.kind is bool:
        return gr.Checkbox(value=default, **shown)
    if option.lines:
        return gr.Textbox(value="\n".join(default), placeholder="one a line", lines=3, max_lines=12, **shown)
    return gr.Textbox(value="" if default is None else str(default), placeholder=option.example, max_lines=1, **shown)
