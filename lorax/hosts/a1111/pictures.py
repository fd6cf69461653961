"""Draws the pictures of a comparison with the WebUI."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from modules import processing, scripts, sd_samplers, ui_tempdir

from lorax.errors import LoraxError
from lorax.hosts.a1111 import chosen, tags
from lorax.hosts.a1111.network import SCRIPT
from lorax.hosts.base import Drawing, Drawn, Shot
from lorax.progress import Progress


def samplers() -> Sequence[str]:
    """Return the samplers that txt2img offers."""
    return [sampler.name for sampler in sd_samplers.visible_samplers()]


def schedules() -> Sequence[str]:
    """Return the schedule types that txt2img offers; none in a WebUI where they are a part of the sampler."""
    return [schedule.label for schedule in getattr(sys.modules.get("modules.sd_schedulers"), "schedulers", ())]


def draw(shots: Sequence[Shot], drawing: Drawing, progress: Progress) -> Iterator[Drawn]:
    """Draw the shots; see ``Host.pictures``."""
    if tags.loras() is None:
        raise LoraxError("Pictures need the built-in extension Lora, which is disabled. Enable it under Extensions.")
    prompt = tags.without(drawing.prompt, {shot.adapter.path for shot in shots if shot.adapter})  # as one from txt2img may be
    selected = chosen.selected()
    ui_tempdir.on_tmpdir_changed()  # makes the folder into which gradio puts pictures; Neo has one by default and never makes it
    try:
        for done, shot in enumerate(shots):
            progress(done, len(shots), shot.title)
            tag = tags.tag(shot.adapter.path, shot.strength) if shot.adapter else ""
            job, before = _job(shot, drawing, f"{prompt} {tag}"), chosen.selected()
            try:
                processed = processing.process_images(job)
            finally:
                job.close()
                if chosen.selected() != before and not chosen.is_selected(shot.base.name):
                    selected = chosen.selected()  # by the user, meanwhile
            _check(processed, shot)
            progress(done + 1, len(shots), "")  # raises if the user stopped this picture, which is not whole then
            yield Drawn(processed.images[0], processed.comments.splitlines())
    finally:
        chosen.select(selected)
        chosen.load()


def _check(processed: Any, shot: Shot) -> None:
    """Raise LoraxError if the picture is of another checkpoint: a WebUI draws so if its list is read anew just then."""
    if (drawn := getattr(processed, "sd_model_name", None)) not in (None, shot.base.path.stem):
        raise LoraxError(f"The WebUI drew with {drawn}, not with {shot.base.path.stem}. Refresh the lists, and compare again.")


def _job(shot: Shot, drawing: Drawing, prompt: str) -> Any:
    given = {
        "sampler_name": drawing.sampler,
        "scheduler": drawing.schedule,
        "width": drawing.width,
        "height": drawing.height,
    }
    job = processing.StableDiffusionProcessingTxt2Img(
        prompt=prompt,
        negative_prompt=drawing.negative,
        seed=shot.seed,
        steps=drawing.steps,
        cfg_scale=drawing.cfg,
        do_not_save_samples=True,
        do_not_save_grid=True,
        override_settings={chosen.SELECTED: shot.base.name},
        override_settings_restore_afterwards=chosen.is_lazy(),  # else it would take back what the user selects meanwhile
        **{name: value for name, value in given.items() if value},
    )
    job.scripts, job.script_args = _script_runner(), ()
    return job


def _script_runner() -> Any:
    """Make a runner with our script alone: it fits LoRA-X files to the checkpoint. Scripts of other extensions do not run."""
    runner = scripts.ScriptRunner()
    always_on = scripts.scripts_txt2img.alwayson_scripts if scripts.scripts_txt2img else ()
    runner.alwayson_scripts = [script for script in always_on if type(script).__name__ == SCRIPT]
    return runner
