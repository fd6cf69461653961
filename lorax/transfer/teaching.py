"""Chooses the prompts of the pictures from which a target learns an adapter."""

from lorax.errors import LoraxError
from lorax.files import json_object
from lorax.formats import AdapterFile, trigger_words
from lorax.models import captions, with_triggers
from lorax.transfer.planning import Plan


def prompts_of(plan: Plan, count: int) -> list[str]:
    """Return ``count`` captions, with the adapter's trigger words in every second one."""
    return with_triggers(captions(count, plan.running.captions), trigger_of(plan))


def trigger_of(plan: Plan) -> str | None:
    """Return the trigger words that the user gives, else those that the adapter names; None if there are none."""
    return plan.running.trigger or trigger(plan.adapter)


def trigger(adapter: AdapterFile) -> str | None:
    """Return the words of the card or the metadata, else the commonest tag in kohya's ``ss_tag_frequency``, else None."""
    if words := trigger_words(adapter):
        return words
    try:
        folders = json_object(adapter.path, adapter.metadata.get("ss_tag_frequency", "{}"), "tags").values()
        counts = {tag.strip(): int(count) for folder in folders for tag, count in folder.items()}
    except (LoraxError, ValueError, AttributeError, TypeError, OverflowError):  # another tool's format
        return None
    return max(counts, key=counts.__getitem__, default=None)
