"""Decides which kind of file a transfer writes."""

from pathlib import Path

from lorax.files import Staging
from lorax.options import LORAX, Saving
from lorax.output import lorax_file, plain_lora
from lorax.output.naming import holds_moved
from lorax.transfer import Moved, Plan, wording


def stage(plan: Plan, moved: Moved, path: Path, staging: Staging, saving: Saving) -> list[Path]:
    """Stage the adapter, unless it has no layers, with its preview and card at ``path``; return the files, the adapter first."""
    if holds_moved(plan.options.method, saving) and not moved.layers:
        return []
    if not holds_moved(plan.options.method, saving):
        return lorax_file.stage_lorax(plan, path, staging, saving)
    if saving.save_as == LORAX:
        return lorax_file.stage_moved(plan, moved, path, staging, saving)
    return plain_lora.stage(plan, moved, path, staging, saving)


def note(plan: Plan, moved: Moved, saving: Saving) -> str:
    """Return a note about a LoRA-X file, which is written whatever it does on the target; empty for a plain LoRA."""
    if saving.save_as != LORAX:
        return ""
    left = " Its norms and biases are left out, which only a plain LoRA carries." if plan.adapter.vectors else ""
    if holds_moved(plan.options.method, saving):
        fits = f"fits itself to whatever {plan.target.family.title} checkpoint is loaded"
        return f"This LoRA-X file is for {plan.target.title} now, and from there {fits}.{left}" if moved.layers else ""
    fits = f"This LoRA-X file fits itself to whatever {plan.source.family.title} checkpoint is loaded.{left}"
    if moved.layers:
        return f"{fits} The summary says what it does on {plan.target.title}."
    why = wording.declined(moved.report) or "no layer can be moved."
    return f"{fits} On {plan.target.title} it will not be applied: {why}"
