"""Lays out the parts of the tab: choices, what can be done, result, details. The events are elsewhere."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from lorax.hosts.base import Host
from lorax.options import Batching, Options, Running, Saving, declared
from lorax.ui import words
from lorax.ui.controls import Parts, controls, line, wire

BASIC = ("save_as", "overwrite", "strength", "name")  # options that are not in Advanced


def choices(host: Host) -> Parts:
    """Make the lists of LoRAs, source and target, and what is said of them."""
    parts: Parts = {}
    search = "One or several; type to search by name, rank or checkpoint"
    parts["adapters"] = _list("LoRA", search, "lorax_adapters", multiselect=True)
    parts["notes"] = gr.HTML(elem_id="lorax_notes")
    parts["source"] = _list("It was trained on", "The source checkpoint, filled in if the file tells", "lorax_source")
    with gr.Row(visible=False, elem_id="lorax_asking") as parts["asking"]:
        parts["guess"] = gr.HTML(elem_id="lorax_guess")
        parts["confirm"] = gr.Button("Yes, it was", size="sm", scale=0, min_width=120, elem_id="lorax_confirm")
    parts["target"] = _list("You want to use it on", "The target checkpoint, at first the one that is loaded", "lorax_target")
    with gr.Row():
        parts["use_loaded"] = _small("Use the loaded one", "lorax_target_loaded", host.has_prompt)
        parts["refresh"] = _small("Refresh lists", "lorax_refresh")
    parts["looking"] = gr.HTML(elem_id="lorax_looking")
    return parts


def options(host: Host, preset: Mapping[str, Any]) -> Parts:
    """Make the options: a few, and the others in Advanced."""
    saving = declared(Saving)
    with gr.Accordion("Options", open=False, elem_id="lorax_options"):
        with gr.Row():
            parts = controls([*(option for option in saving if option.name in BASIC), *declared(Batching)], preset)
            parts["subfolder"] = line("Subfolder", "Inside the LoRA folder", "lorax_subfolder", "beside the LoRA")
        if host.without_lorax:
            gr.HTML(words.message(host.without_lorax, "warning"), elem_id="lorax_save_as_notice")
        parts["also"] = _list("Also for", "Further targets; each gets a file of its own", "lorax_also", multiselect=True)
        with gr.Accordion("Advanced", open=False, elem_id="lorax_advanced"):
            with gr.Row():
                parts |= controls(declared(Options), preset)
            with gr.Row():
                parts |= controls([option for option in saving if option.name not in BASIC], preset)
            gr.HTML(words.heading("For Refine and Bridge"))
            with gr.Row():
                parts |= controls(declared(Running), preset)
    return parts


def doing() -> Parts:
    """Make the verdict, the buttons that do something, and the progress of what is done."""
    parts: Parts = {"verdict": gr.HTML(elem_id="lorax_verdict")}
    with gr.Row(elem_id="lorax_actions") as parts["actions"]:
        parts["move"] = gr.Button("Move", interactive=False, min_width=110, elem_id="lorax_move")
        parts["refine"] = gr.Button("Refine", visible=False, min_width=110, elem_id="lorax_refine")
        parts["bridge"] = gr.Button("Bridge", visible=False, min_width=110, elem_id="lorax_bridge")
        parts["original"] = gr.Button(
            "Use it as it is: send to txt2img", visible=False, min_width=110, elem_id="lorax_use_original"
        )
    parts["original_tag"] = wire("lorax_original_tag")
    parts["progress"] = gr.HTML(elem_id="lorax_progress")
    parts["interrupt"] = gr.Button("Interrupt", visible=False, elem_id="lorax_interrupt")
    parts["status"] = gr.HTML(elem_id="lorax_status")
    return parts


def result(host: Host) -> Parts:
    """Make what is shown of a transfer, and what can be done with what it wrote."""
    parts: Parts = {}
    with gr.Column(visible=False, elem_id="lorax_result") as parts["result"]:
        parts["written"] = gr.HTML(elem_id="lorax_written")
        with gr.Column() as parts["using"]:
            parts["tag"] = gr.Textbox(label="For the prompt", interactive=False, elem_id="lorax_tag")
            parts["sent_to"], parts["originals"] = wire("lorax_sent_to"), wire("lorax_originals")
            with gr.Row():
                parts["send"] = _small("Send to txt2img", "lorax_send", host.has_prompt, variant="primary")
                parts["copy"] = _small("Copy", "lorax_copy")
                parts["open"] = _small("Open folder", "lorax_open", host.opens_folders)
                parts["delete"] = _small("Delete this file", "lorax_delete")
            with gr.Column(visible=False, elem_id="lorax_deleting") as parts["deleting"]:
                parts["what"] = gr.HTML()
                with gr.Row():
                    parts["deleted"] = _small("Delete", "lorax_deleted", variant="stop")
                    parts["kept"] = _small("Keep", "lorax_kept")
    return parts


def details() -> Parts:
    """Make the numbers behind a verdict or a result."""
    parts: Parts = {}
    with gr.Accordion("Details", open=False, elem_id="lorax_details"):
        with gr.Row():
            gr.HTML(words.message("Every layer of both checkpoints is measured. It writes nothing, and can take minutes."))
            parts["analyse"] = _small("Measure", "lorax_analyse")
        with gr.Column(visible=False) as parts["analysis"]:
            parts["summary"] = gr.HTML(elem_id="lorax_summary")
            gr.HTML(words.heading("How alike the checkpoints are", words.MAP))
            parts["plot"] = gr.HTML(elem_id="lorax_heatmap")
            gr.HTML(words.heading("Layer by layer") + words.columns())
            parts["table"] = gr.Dataframe(
                headers=list(words.COLUMNS), interactive=False, wrap=True, height=400, elem_id="lorax_table"
            )
    return parts


def is_asked(part: Any) -> bool:
    """Tell whether the component is one that the user fills in."""
    return isinstance(part, gr.Textbox | gr.Dropdown | gr.Slider | gr.Checkbox)


def _list(label: str, info: str, elem_id: str, **shown: Any) -> Any:
    """Make a list that a handler fills."""
    return gr.Dropdown([], label=label, info=info, elem_id=elem_id, **shown)


def _small(label: str, elem_id: str, visible: bool = True, variant: str = "secondary") -> Any:
    return gr.Button(label, size="sm", min_width=100, visible=visible, variant=variant, elem_id=elem_id)
