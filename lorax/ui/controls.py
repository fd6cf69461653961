"""Makes gradio components for options, and bridges the one difference between gradio 3 and 4 that concerns the tab."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr

from lorax.options import Option
from lorax.ui import words

JS = "_js" if "_js" in inspect.signature(gr.Blocks.load).parameters else "js"
# Of an event listener: no sign of work, and no entry in gradio's list of endpoints, for which the WebUI's whole page waits.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_name": False}
Parts = dict[str, Any]  # components by name


def js(code: str) -> dict[str, str]:
    """Return the keyword argument of an event listener that runs ``code`` in the browser first."""
    return {JS: code}


def controls(options: Iterable[Option], preset: Mapping[str, Any]) -> Parts:
    """Make components for the options; below a list of choices, a line says what the chosen one means."""
    made: Parts = {}
    for option in options:
        default = preset.get(option.name, option.default)
        with gr.Column(min_width=260 if option.slider else 160):  # a slider's help stands beside its number
            made[option.name] = control(option, default)
            if option.choices:
                made[f"{option.name}_means"] = gr.HTML(words.meaning(option, default), elem_id=f"lorax_{option.name}_means")
    return made


def control(option: Option, default: Any) -> Any:
    """Make a component for the option."""
    shown: dict[str, Any] = {"label": option.label, "info": option.help, "elem_id": f"lorax_{option.name}"}
    if option.choices:
        return gr.Dropdown(list(option.choices), value=default, **shown)
    if option.slider:
        return gr.Slider(*option.slider, value=default, step=option.step, **shown)
    if option.kind is bool:
        return gr.Checkbox(value=default, **shown)
    if option.lines:
        return gr.Textbox(
            value="\n".join(default), placeholder=option.placeholder or option.example, lines=3, max_lines=12, **shown
        )
    value = "" if default is None else str(int(default) if isinstance(default, float) else default)
    return gr.Textbox(value=value, placeholder=option.placeholder or option.example, max_lines=1, **shown)


def line(label: str, info: str, elem_id: str, placeholder: str = "", value: str = "") -> Any:
    """Make a text field of one line."""
    return gr.Textbox(value, label=label, info=info, max_lines=1, placeholder=placeholder, elem_id=elem_id)


def wire(elem_id: str, text: str = "") -> Any:
    """Make a hidden line by which the script in the browser and the handlers talk to each other."""
    return gr.Textbox(text, elem_id=elem_id, elem_classes="lorax-hidden", show_label=False, container=False)
