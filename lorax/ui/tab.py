"""Lays out the tab, and connects its components to the handlers."""

from typing import Any

import gradio as gr

from lorax.hosts.base import Host
from lorax.methods import runs_models
from lorax.options import Options, Running, Saving, declared
from lorax.ui import words
from lorax.ui.controls import control, js
from lorax.ui.handlers import Handlers
from lorax.ui.requests import Choice, Comparison, Form, Transfer

TITLE = "LoRA-X"


def build(host: Host, **page: Any) -> gr.Blocks:
    """Build the tab as blocks of its own; ``page`` is passed to ``gr.Blocks``."""
    handlers, preset = Handlers(host), host.defaults()
    with gr.Blocks(analytics_enabled=False, **page) as blocks, gr.Column(elem_id="lorax"):
        if host.notice:
            gr.HTML(words.message(host.notice, "warning"))
        choices, loaded, notes = _choosers(host, handlers, blocks)
        with gr.Accordion("Options", open=False, elem_id="lorax_options"):
            options = _controls(Options, preset)
            with gr.Column(visible=runs_models(preset.get("method") or Options.method), elem_id="lorax_running") as running:
                gr.HTML(words.heading("For bridge and refine, which run the checkpoints", words.RUNNING))
                options |= _controls(Running, preset, row=2)
            subfolder = _line("Subfolder", "Inside the LoRA folder; empty: beside the LoRA", "lorax_subfolder")
            saving = _controls(Saving, preset)
        choice = Form(**choices, **options)
        _noting(handlers, choice, choices["source"], [loaded, notes, running])
        task = gr.Textbox(visible=False)  # the browser puts the id of the host's task here
        with gr.Row():
            analyse = gr.Button("Analyse", elem_id="lorax_analyse")
            transfer = gr.Button("Transfer", variant="primary", elem_id="lorax_transfer")
            interrupt = gr.Button("Interrupt", elem_id="lorax_interrupt")
        status = gr.HTML(elem_id="lorax_status")

        with gr.Column(visible=False) as analysis:
            gr.HTML(words.heading("What a transfer would do"))
            summary = gr.HTML(elem_id="lorax_summary")
            gr.HTML(words.heading("How alike the checkpoints are", words.MAP))
            plot = gr.Plot(show_label=False, elem_id="lorax_heatmap")
            gr.HTML(words.heading("Layer by layer") + words.columns())
            table = gr.Dataframe(headers=list(words.COLUMNS), interactive=False, wrap=True, height=400, elem_id="lorax_table")
        shown = [analysis, summary, plot, table, status]
        analyse.click(handlers.job(handlers.analyse, choice, Choice.of, len(shown)), **_job(task, choice, shown))

        with gr.Column(visible=False) as result:
            gr.HTML(words.heading("Result"))
            written = gr.HTML(elem_id="lorax_written")
            with gr.Row():
                tag = gr.Textbox(label="For the prompt", info="Tag and trigger words", interactive=False, elem_id="lorax_tag")
                copy = gr.Button("Copy", scale=0, elem_id="lorax_copy")
                copy.click(None, [tag], None, **js("(text) => lorax.copy(text)"))
                send = gr.Button("Send to txt2img", scale=0, visible=host.has_prompt, elem_id="lorax_send")
                send.click(None, [tag], None, **js("(text) => lorax.send(text)"))
            state, which = _comparison(host, handlers, task, status)
        outcome = [result, written, tag, state, which, choices["adapters"], status]
        asked = Form(**choices, **options, subfolder=subfolder, **saving)
        done = transfer.click(handlers.job(handlers.transfer, asked, Transfer.of, len(outcome)), **_job(task, asked, outcome))
        done.then(None, None, None, **js("() => lorax.transferred()"))
        interrupt.click(host.interrupt, None, None, queue=False)
    return blocks


def _choosers(host: Host, handlers: Handlers, blocks: gr.Blocks) -> tuple[dict[str, Any], Any, Any]:
    """Make the lists of source, target and LoRAs, the line about the loaded checkpoint, and the notes."""
    loaded = gr.HTML(elem_id="lorax_loaded")
    with gr.Row():
        source = _list("Source checkpoint", "The one that the LoRA was trained on", "lorax_source")
        target = _list("Target checkpoint", "The one that you want to use the LoRA with", "lorax_target")
    with gr.Row():
        source_loaded = gr.Button("Source: the loaded one", size="sm", visible=host.has_prompt)
        target_loaded = gr.Button("Target: the loaded one", size="sm", visible=host.has_prompt, elem_id="lorax_target_loaded")
        refresh = gr.Button("Refresh lists", size="sm", elem_id="lorax_refresh")
    adapters = _list("LoRAs", "One or many; type to search by name, rank, family or base", "lorax_adapters", multiselect=True)
    card = _wire("lorax_card")
    notes = gr.HTML(elem_id="lorax_notes")
    chosen, lists = [source, target, adapters], [source, target, adapters, loaded]
    blocks.load(handlers.lists, chosen, lists)
    refresh.click(handlers.refresh, chosen, lists)
    source_loaded.click(handlers.use_loaded, None, [source])
    target_loaded.click(handlers.use_loaded, None, [target])
    card.input(handlers.add_card, [card, adapters], [adapters, card])
    return {"source": source, "target": target, "adapters": adapters}, loaded, notes


def _noting(handlers: Handlers, choice: Form, source: Any, shown: list[Any]) -> None:
    """Update the notes after each choice, when the browser asks."""

    def noted(question: str, before: list[Any], *values: Any) -> list[Any]:
        return handlers.noted(question, before, Choice.of(choice.read(values)))

    question = _wire("lorax_question")
    before = gr.State([[], None])  # the LoRAs for which a source was proposed, and the loaded base
    question.input(noted, [question, before, *choice.components], [before, source, *shown], show_progress="hidden")
    for component in choice.components:
        changed = component.blur if isinstance(component, gr.Textbox) else component.change  # not at every letter
        changed(None, None, None, **js("() => lorax.ask()"))


def _comparison(host: Host, handlers: Handlers, task: Any, status: Any) -> tuple[Any, Any]:
    state = gr.State({})
    with gr.Accordion("Compare", open=True, elem_id="lorax_comparison"):
        with gr.Row():
            prompt = gr.Textbox(label="Prompt", info="The same for all pictures", scale=4, elem_id="lorax_prompt")
            which = _list("LoRA", "Which of those moved", "lorax_which", scale=2)
        with gr.Row():
            seed = gr.Number(7, label="Seed", precision=0)
            steps = gr.Slider(1, 50, 20, step=1, label="Steps", elem_id="lorax_compare_steps")
            sized = host.picture_size is not None
            size = gr.Number(host.picture_size, label="Size", precision=0, visible=sized, elem_id="lorax_size")
            compare = gr.Button("Compare", scale=0, elem_id="lorax_compare")
        gallery = gr.Gallery(label="Pictures", columns=4, visible=False, elem_id="lorax_gallery")
    form = Form(moved=state, which=which, prompt=prompt, seed=seed, steps=steps, size=size)
    compare.click(handlers.job(handlers.compare, form, Comparison.of, 2), **_job(task, form, [gallery, status]))
    return state, which


def _list(label: str, info: str, elem_id: str, **shown: Any) -> Any:
    """Make a list that ``Handlers.lists`` or a transfer fills."""
    return gr.Dropdown([], label=label, info=info, elem_id=elem_id, **shown)


def _wire(elem_id: str) -> Any:
    """Make a hidden line that the script in the browser writes into, to call a handler."""
    return gr.Textbox(elem_id=elem_id, elem_classes="lorax-hidden", show_label=False, container=False)


def _line(label: str, info: str, elem_id: str) -> Any:
    return gr.Textbox(label=label, info=info, max_lines=1, elem_id=elem_id)


def _controls(declaration: type, preset: Any, row: int = 3) -> dict[str, Any]:
    """Make the components of a declaration's options, ``row`` of them in a row; return them by option name."""
    made: dict[str, Any] = {}
    options = declared(declaration)
    for start in range(0, len(options), row):
        with gr.Row():
            for option in options[start : start + row]:
                made[option.name] = control(option, preset.get(option.name, option.default))
    return made


def _job(task: Any, form: Form, outputs: list[Any]) -> dict[str, Any]:
    """Return the arguments of a listener that runs a job. Its script shows the host's progress, and sends the task's id."""
    inputs = [task, *form.components]
    return {"inputs": inputs, "outputs": outputs} | js(f"(...values) => lorax.submit(values.slice(0, {len(inputs)}))")
