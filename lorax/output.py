"""The file that a transfer writes: its kind and its place."""

from __future__ import annotations

from pathlib import Path

from lorax.errors import LoraxError
from lorax.formats import lorax_writer, writer
from lorax.methods import BEHAVIOURAL
from lorax.options import LORAX, Saving
from lorax.staging import Staging
from lorax.transfer import Moved, Plan


def path_of(plan: Plan, output: Path | None, saving: Saving) -> Path:
    """Where the adapter goes, unless told: beside the source's file or PEFT folder.

    A plain LoRA is called ``<adapter>-<target>.safetensors``; a LoRA-X file, in which the target plays no part,
    ``<adapter>-lorax.safetensors``. Raises LoraxError for a LoRA-X file that would have to run the models to fit itself.
    """
    if saving.save_as == LORAX and plan.options.method in BEHAVIOURAL:
        raise LoraxError(
            f"method {plan.options.method}: a LoRA-X file fits itself by weights alone, and this method runs the models. "
            "Save as a plain LoRA, or choose another method."
        )
    name = f"{plan.adapter.title}-{'lorax' if saving.save_as == LORAX else plan.target.title}.safetensors"
    if output is None:
        return plan.adapter.given.with_name(name)
    if output.is_dir():
        return output / name
    return output if output.suffix.lower() == ".safetensors" else output.with_name(output.name + ".safetensors")


def stage(plan: Plan, moved: Moved, path: Path, staging: Staging, saving: Saving) -> list[Path]:
    """Stage the adapter with its preview and card at ``path``, which was found free; return the files, the adapter first.

    No files where no layer could be moved and a plain LoRA is asked for. A missing folder is made.
    """
    if saving.save_as != LORAX and not moved.layers:
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    if saving.save_as == LORAX:
        return lorax_writer.stage_lorax(plan, path, staging, dtype=saving.dtype)
    return writer.stage(plan, moved, path, staging, dtype=saving.dtype)


def note(plan: Plan, moved: Moved, saving: Saving) -> str:
    """What is to be known of a LoRA-X file: it is written whatever becomes of it on the target. Empty for a plain LoRA."""
    if saving.save_as != LORAX:
        return ""
    left = " Its norms and biases are left out, which only a plain LoRA carries." if plan.adapter.vectors else ""
    fits = f"This LoRA-X file fits itself to whatever {plan.source.family.title} checkpoint is loaded.{left}"
    if moved.layers:
        return f"{fits} The summary says what it does on {plan.target.title}."
    why = moved.report.declined or "no layer can be moved."
    return f"{fits} On {plan.target.title} it will not be applied: {why}"
