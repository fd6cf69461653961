"""Puts verdicts into words for artists: one or two sentences."""

from lorax.progress import in_words
from lorax.transfer.expected import CROSSED, STRANGERS
from lorax.transfer.forecast import measured
from lorax.transfer.verdict import Action, Do, Kind, Verdict
from lorax.transfer.wording import between

FEW = 10  # seconds, below which no number is said
UNSURE = "The two checkpoints do not predict the same, so the effect may be weaker or another one: compare."


def words(verdict: Verdict) -> str:
    """Say what is true of an adapter on a target, and what can be done."""
    said = SENTENCES[verdict.kind](verdict)
    return f"{said} {UNSURE}" if verdict.mismatch else said


def duration(seconds: float) -> str:
    """Say how long an action takes."""
    return "a few seconds" if seconds < FEW else f"about {in_words(seconds)}"


def _cost(action: Action) -> str:
    """Say how long an action takes, and how much memory if it runs the models."""
    return duration(action.seconds) + (f" and {action.bytes / 1e9:.1f} GB of memory" if action.bytes else "")


def _works(verdict: Verdict) -> str:
    where = "" if verdict.moved == verdict.layers else f", in the {verdict.moved} of its {verdict.layers} layers that exist here"
    said = f"Close relatives: the original already works here as well as a copy can{where}."
    return f"{said}{_weaker(verdict)}{_refining(verdict)}"


def _gains(verdict: Verdict) -> str:
    who = "Pruned sibling" if verdict.is_pruned else "Close relatives"
    lost = verdict.layers - verdict.moved
    left = f", {lost} {'has' if lost == 1 else 'have'} none" if lost else ""
    said = f"{who}: {_of_layers(verdict.placed, verdict)} find{'s' if verdict.placed == 1 else ''} a new place{left}."
    return f"{said} Moving takes {_takes(verdict, Do.MOVE)}.{_refining(verdict)}"


def _changes(verdict: Verdict) -> str:
    said = f"Close relatives: the original works here too. Moving changes {_of_layers(verdict.changed, verdict)}"
    return f"{said}, in {_takes(verdict, Do.MOVE)}; compare the two.{_refining(verdict)}"


def _unrelated(verdict: Verdict) -> str:
    return f"Not related: weights cannot carry it.{_by_running(verdict, STRANGERS)}"


def _crossed(verdict: Verdict) -> str:
    return f"Another family of checkpoints: weights cannot carry it.{_by_running(verdict, CROSSED)}"


def _by_running(verdict: Verdict, kind: str) -> str:
    """Tell of the methods that run the models what they take, and what they were worth."""
    worth = measured(kind)
    told = [
        f"{action.do.value.capitalize()}, {_cost(action)}, had {between(one.low, one.high)}"
        for action in verdict.actions
        if action.do.method and (one := worth.get(action.do.method))
    ]
    if told:
        return f" {'; '.join(told)} of the effect of a LoRA trained here, between the lab's small models."
    return f" Refine and bridge could, but they cannot run here: {verdict.reason}" if verdict.reason else ""


def _other_architecture(verdict: Verdict) -> str:
    if not verdict.names:
        why = "none of its layers has a counterpart here"
    elif len(verdict.names) == 1:
        why = f"it is for {verdict.names[0]}"
    else:
        why = " is ".join(verdict.names)
    return f"Other architecture: cannot be moved, because {why}."


def _source_unknown(verdict: Verdict) -> str:
    if not verdict.names:
        return "Not known on which checkpoint it was trained. Choose the source."
    return f"Not known on which checkpoint it was trained. Is it {_or(verdict.names)}?"


def _source_missing(verdict: Verdict) -> str:
    return f"It was trained on {' '.join(verdict.names)}, which is not on this disk. Choose a source that is close to it."


def _refining(verdict: Verdict) -> str:
    refine = next((action for action in verdict.actions if action.do is Do.REFINE), None)
    return f" Refining may add to it, {_cost(refine)}." if refine else ""


def _weaker(verdict: Verdict) -> str:
    if verdict.strength == 1:
        return ""
    at = round(20 * verdict.strength) / 20  # a sample of the layers does not tell it more exactly
    return f" Use it at about {at:.2f}, since the checkpoint has a part of it already."


def _takes(verdict: Verdict, do: Do) -> str:
    return duration(next(action.seconds for action in verdict.actions if action.do is do))


def _of_layers(count: int, verdict: Verdict) -> str:
    return f"{count} of {verdict.layers} layers"


def _or(names: tuple[str, ...]) -> str:
    shown = list(names if len(names) <= 4 else names[:3])
    listed = shown if len(shown) == len(names) else [*shown, f"one of {len(names) - 3} others"]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"


SENTENCES = {
    Kind.SAME: lambda verdict: "It was trained on this checkpoint: use it as it is.",
    Kind.PRESENT: lambda verdict: "It is in this checkpoint already: use the checkpoint without it.",
    Kind.WORKS: _works,
    Kind.GAINS: _gains,
    Kind.CHANGES: _changes,
    Kind.UNRELATED: _unrelated,
    Kind.CROSSED: _crossed,
    Kind.FITS_ITSELF: lambda verdict: "A LoRA-X file: it fits itself to this checkpoint when the WebUI draws with it.",
    Kind.OTHER_ARCHITECTURE: _other_architecture,
    Kind.WRONG_SOURCE: lambda verdict: f"That is not its source. {verdict.reason}",
    Kind.UNREADABLE: lambda verdict: f"Cannot be read. {verdict.reason}",
    Kind.SOURCE_UNKNOWN: _source_unknown,
    Kind.SOURCE_MISSING: _source_missing,
}
