"""Puts verdicts into words for artists: one or two sentences."""

import re

from lorax.errors import AGAIN
from lorax.progress import in_words
from lorax.transfer.expected import CROSSED, STRANGERS
from lorax.transfer.forecast import measured
from lorax.transfer.verdict import Action, Do, Kind, Verdict
from lorax.transfer.wording import FAINT

SOON = 20  # seconds, below which no number is said: on a busy machine they are three times as many
QUIET = "if nothing else runs"  # of the machine, for which all times are told
UNSURE = "The two checkpoints do not predict the same, so the effect may be weaker or another one: compare."
# Below this strength the target may know the style. LoRAs for two styles that the lab's fine-tune was trained on had 0.63 there,
# and did harm at 0.25 to 1; those for others, of rank 4, had 0.71 to 0.83. That was measured once, by hand, and a sample of the
# layers tells the strength to 0.05, so it is told as a possibility.
KNOWN = 0.67
SHARES = {
    1 / 10: "a tenth",
    1 / 5: "a fifth",
    1 / 4: "a quarter",
    1 / 3: "a third",
    1 / 2: "half",
    2 / 3: "two thirds",
    3 / 4: "three quarters",
    9 / 10: "nine tenths",
}


def words(verdict: Verdict) -> str:
    """Say what is true of an adapter on a target, and what can be done."""
    said = SENTENCES[verdict.kind](verdict)
    if verdict.mismatch:
        said = f"{said} {UNSURE}"
    if verdict.made_of and any(action.do.method for action in verdict.actions):
        said = f"{said} It is a moved copy of {verdict.made_of}: better move that one itself, if you have it."
    return said


def duration(seconds: float) -> str:
    """Say how long an action takes."""
    return "less than a minute" if seconds < SOON else f"about {in_words(seconds)}"


def _cost(action: Action, joint: str = ",") -> str:
    """Say how long an action that runs the models takes, and how much memory."""
    memory = "memory" if action.device == "cpu" else "the graphics card's memory"
    return f"{duration(action.seconds)}{joint} {action.bytes / 1e9:.1f} GB of {memory}"


def _works(verdict: Verdict) -> str:
    lost = verdict.layers - verdict.moved
    where = f", but for {_share(lost, verdict)} of it, which has no place here" if lost else ""
    said = f"Close relatives: the original already works here as well as a moved LoRA would{where}."
    return f"{said}{_weaker(verdict)}{_refining(verdict)}"


def _gains(verdict: Verdict) -> str:
    lost = verdict.layers - verdict.moved
    if not lost:
        said = "Relatives that are built differently: all of the LoRA fits, but it must be moved."
    else:
        who = "A slimmed-down relative" if verdict.is_pruned else "A relative that is built differently"
        most = "most" if 2 * lost < verdict.layers else "a part"
        said = f"{who}: {most} of the LoRA fits, {_share(lost, verdict)} has no place here."
    return f"{said} Moving takes {_takes(verdict, Do.MOVE)}.{_refining(verdict)}"


def _changes(verdict: Verdict) -> str:
    said = f"Close relatives: the original works here too. Moving changes {_share(verdict.changed, verdict)} of it"
    return f"{said}, in {_takes(verdict, Do.MOVE)}; compare the two.{_refining(verdict)}"


def _unrelated(verdict: Verdict) -> str:
    return f"Not related: Move cannot help.{_by_running(verdict, STRANGERS)}"


def _crossed(verdict: Verdict) -> str:
    return f"Another family of checkpoints: Move cannot help.{_by_running(verdict, CROSSED)}"


def _by_running(verdict: Verdict, kind: str) -> str:
    """Tell of the methods that run the models what they take, and what they were worth."""
    worth = measured(kind)
    told = [
        f"{action.do.value.capitalize()} ({_cost(action)}) showed {_range(one.low, one.high)} of a style"
        for action in verdict.actions
        if action.do.method and (one := worth.get(action.do.method))
    ]
    if told:
        faint = f" {FAINT}" if kind == CROSSED else ""
        whole = "100 % is what a LoRA shows that was trained here, with as many subjects kept."
        at_one = "Bridge shows little at weight 1, and costs subjects above that."
        return f" In our tests, with small models, {', '.join(told)}. {whole} {at_one}{faint} The times hold {QUIET}."
    return f" Refine and Bridge could, but they cannot run here: {verdict.reason}" if verdict.reason else ""


def _other_architecture(verdict: Verdict) -> str:
    if verdict.base_is:
        why = f"{verdict.base} is {verdict.base_is}"
    else:
        why = f"it is for {verdict.is_for}" if verdict.is_for else "nothing of it has a counterpart here"
    return f"Other architecture: cannot be moved, because {why}."


def _wrong_source(verdict: Verdict) -> str:
    if verdict.base_is:
        why = f"that is {verdict.base_is}, which is not supported"
    else:
        why = f"it is for {verdict.is_for}" if verdict.is_for else "its parts do not fit that one"
    return f"It cannot have been trained on {verdict.base}: {why}. Choose the checkpoint that it was trained on."


def _unreadable(verdict: Verdict) -> str:
    if not verdict.reason.endswith(AGAIN):
        return f"Cannot be read. {verdict.reason}"
    file = re.split(r"[\\/]", verdict.reason.partition(": ")[0])[-1]
    return f"{file} is damaged or incomplete. Download it again."


def _source_unknown(verdict: Verdict) -> str:
    if not verdict.could_be:
        return "Not known on which checkpoint it was trained. Choose that one."
    return f"Not known on which checkpoint it was trained. Is it {_or(verdict.could_be)}?"


def _source_missing(verdict: Verdict) -> str:
    was = "made for" if verdict.made_of else "trained on"
    advice = f"Move {verdict.made_of} itself, if you have it." if verdict.made_of else "Choose one that is close to it."
    return f"It was {was} {verdict.base}, which is not on this disk. {advice}"


def _refining(verdict: Verdict) -> str:
    refine = next((action for action in verdict.actions if action.do is Do.REFINE), None)
    if not refine:
        return ""
    cost = f"{_cost(refine, ' and')}, {QUIET}"
    if verdict.kind is Kind.GAINS and not verdict.is_pruned:  # of these the lab has none
        return f" Refine may add to it: {cost}."
    return f" Refine takes {cost}. In our tests, with small models, it showed more of the style than the original, on average."


def _weaker(verdict: Verdict) -> str:
    if verdict.advised_strength == 1:
        return ""
    said = f" Use it at about {verdict.advised_strength:.2f}, since the checkpoint has a part of it already"
    return f"{said}. It may draw this style without the LoRA: try that first." if verdict.strength < KNOWN else f"{said}."


def _takes(verdict: Verdict, do: Do) -> str:
    return duration(next(action.seconds for action in verdict.actions if action.do is do))


def _share(count: int, verdict: Verdict) -> str:
    """Say which share of the adapter's layers these are."""
    share = count / verdict.layers
    if share == 1:
        return "all"
    if share < 0.075:
        return "a small part"
    return f"about {SHARES[min(SHARES, key=lambda known: abs(known - share))]}"


def _range(low: float, high: float) -> str:
    """Say between what something was measured, to 5 %: more would be a claim."""
    least, most = (5 * round(20 * one) for one in (low, high))
    return f"{least} to {most} %"


def _or(names: tuple[str, ...]) -> str:
    shown = list(names if len(names) <= 4 else names[:3])
    listed = shown if len(shown) == len(names) else [*shown, f"one of {len(names) - 3} others"]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"


SENTENCES = {
    Kind.SAME: lambda verdict: "It was trained on this checkpoint: use it as it is.",
    Kind.MADE: lambda verdict: f"It was made for this checkpoint, from {verdict.made_of}: use it as it is.",
    Kind.PRESENT: lambda verdict: "It is in this checkpoint already: use the checkpoint without it.",
    Kind.WORKS: _works,
    Kind.GAINS: _gains,
    Kind.CHANGES: _changes,
    Kind.UNRELATED: _unrelated,
    Kind.CROSSED: _crossed,
    Kind.FITS_ITSELF: lambda verdict: "A LoRA-X file: it fits itself to this checkpoint when the WebUI draws with it.",
    Kind.OTHER_ARCHITECTURE: _other_architecture,
    Kind.WRONG_SOURCE: _wrong_source,
    Kind.UNREADABLE: _unreadable,
    Kind.SOURCE_UNKNOWN: _source_unknown,
    Kind.SOURCE_MISSING: _source_missing,
}
