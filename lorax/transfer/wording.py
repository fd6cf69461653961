"""Puts a report into words: sections, which the terminal and the tab lay out in their own ways."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path

from lorax.checkpoint import Mismatch
from lorax.progress import in_words
from lorax.reasons import Why
from lorax.transfer.expected import CROSSED, RELATIVES, STRANGERS, Cost, Forecast, Measured, Proposal
from lorax.transfer.report import LayerRecord, Report, Status, Unrelated

KINDS = {RELATIVES: "close relatives", STRANGERS: "unrelated", CROSSED: "of different families"}
AHEAD = {
    Status.TRANSFERRED: "would be moved",
    Status.SKIPPED: "would be left out",
    Status.UNMATCHED: "without a counterpart",
}
ENDS = {Status.TRANSFERRED: "moved", Status.SKIPPED: "left out", Status.UNMATCHED: "without a counterpart"}
FAINT = "That was from SD 1.x to SDXL, where even a LoRA trained there shows two thirds of what it shows elsewhere."
PARTS = {"unet": "UNet", "te": "text encoder", "te1": "first text encoder", "te2": "second text encoder"}
EXPECT = "Moved so, expect little or nothing of the LoRA's effect there, or harm."


class Topic(Enum):
    """The topic of a section."""

    ORIGINAL = auto()
    LAYERS = auto()
    SIMILARITY = auto()
    STRENGTH = auto()
    COMPRESSION = auto()
    VECTORS = auto()
    EMBEDDINGS = auto()
    EXTRA_LAYERS = auto()
    UNRELATED = auto()
    MISMATCH = auto()
    EXPECTED = auto()
    COST = auto()


@dataclass(frozen=True)
class Item:
    """A line below a section's text; ``why`` is the kind of its reason."""

    text: str
    why: Why


@dataclass(frozen=True)
class Section:
    """A sentence or two about one topic."""

    topic: Topic
    text: str
    items: tuple[Item, ...] = ()


def sections(report: Report, *, ahead: bool = False) -> list[Section]:
    """Return the sections; ``ahead``: of a transfer that was not made.

    If the original draws the same, that is first. Layers by status and reason follow, with their share of the changes, then
    measurements and forecasts.
    """
    of_layers = partial(_of_layers, ends=AHEAD if ahead else ENDS)
    parts = _of_the_original, of_layers, _of_measurements, _of_the_rest, _of_the_bases
    return [section for part in parts for section in part(report)]


def summary(report: Report) -> str:
    """Return the sections as lines for a terminal."""
    lines = []
    for section in sections(report):
        lines += [section.text, *(f"  {item.text}" for item in section.items)]
    return "\n".join(lines)


def table(report: Report) -> str:
    """Return a line per layer, in columns for a terminal."""
    rows = [("layer", "from", "pairing", "status", "similarity", "kept", "reason")]
    for r in report.records:
        names = r.target or "-", r.source or r.name, r.pairing.text if r.pairing else "-"
        rows.append((*names, r.status.value, _number(r.similarity), _number(r.kept), r.reason.text))
    return columns(rows)


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Return the rows as lines for a terminal, with each column but the last as wide as its longest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows)


def unrelated(found: Unrelated) -> str:
    """Say why two bases are no relatives."""
    judgement = (
        "no layers are comparable"
        if found.similarity is None
        else f"layers are typically alike by {found.similarity:.2f}, where 1 is the same and 0 is chance"
    )
    return f"{found.source} and {found.target} are not related: in the {PARTS[found.component]}, {judgement}."


def declined(report: Report) -> str | None:
    """Say why nothing is moved; None if the transfer is not declined."""
    why = report.declined
    if why is None:
        return None
    if isinstance(why, Unrelated):
        return f"{unrelated(why)} A copy would do nothing there, or harm."
    return f"{why.target} already has {why.overlap:.0%} of what {why.adapter} adds. Use it without the LoRA."


def refusal(report: Report) -> str | None:
    """Say why nothing is moved, and what can be done about it."""
    if not isinstance(report.declined, Unrelated):
        return declined(report)
    others = [proposal.method.capitalize() for proposal in report.proposals]
    can = f" {' and '.join(others)} can carry it over, by running both checkpoints." if others else ""
    faint = [FAINT] if any(proposal.worth.kind == CROSSED for proposal in report.proposals) else []
    told = "".join(f" {one}" for one in (*map(proposal_words, report.proposals), *faint))
    return f"{declined(report)}{can}{told} To move it all the same, choose a method by name, such as copy."


def refusal_in_terminal(report: Report) -> str | None:
    """Say what ``refusal`` says, and by which options its methods are asked for, since a terminal has no buttons."""
    if not isinstance(report.declined, Unrelated):
        return refusal(report)
    flags = " or ".join(f"--method {method}" for method in (*(proposal.method for proposal in report.proposals), "copy"))
    return f"{refusal(report)} Here that is {flags}."


def nothing_moved(adapter: Path, report: Report) -> str:
    """Say that no layer of an adapter's file could be moved, and why."""
    return f"{adapter}: no layer could be moved, so nothing was written.\n{summary(report)}"


def proposal_words(proposal: Proposal) -> str:
    """Say what another method takes, and what it was worth. It is called by its button's name."""
    return f"{proposal.method.capitalize()} takes {cost_words(proposal.cost)}; {_measured(proposal.worth)}."


def cost_words(cost: Cost) -> str:
    """Say how much time and memory something takes."""
    where = "the CPU" if cost.device == "cpu" else "the graphics card"
    return f"about {in_words(cost.seconds)} on {where}, and about {cost.bytes / 1e9:.1f} GB of its memory"


def expected_words(expected: Forecast | Measured) -> str:
    """Say what a transfer is worth, for an artist."""
    if isinstance(expected, Measured):
        amount = _measured(expected)
        return f"Forecast: {KINDS[expected.kind]}. {amount[0].upper()}{amount[1:]}. Large models can differ."
    who = "close relatives" if expected.related else "unrelated"
    return (
        f"Forecast: {who}. Nine of ten such transfers between the lab's small models had "
        f"{between(expected.low, expected.high)} of the effect of a LoRA trained on the target; nothing known beforehand told "
        "these apart reliably. Large models can differ."
    )


def mismatch_words(found: Mismatch) -> str:
    """Warn of a move between bases that do not predict the same."""
    made = (
        f"The LoRA is for a base that predicts {found.of_source}"
        if found.of_source
        else f"{found.source} does not say what it predicts"
    )
    goes = f"{found.target} predicts {found.of_target}" if found.of_target else f"{found.target} does not say what it predicts"
    return f"{made}, but {goes}. Weights are moved all the same; the effect may be weaker or another one there, so compare."


def _is_weaker(report: Report) -> bool:
    """Tell whether the result is weaker than a copy, as far as two decimals tell."""
    return round(report.strength, 2) != 1


def _of_the_original(report: Report) -> Iterator[Section]:
    """Tell that the file is a copy, which no figure below says."""
    if report.draws_as_original:
        strength = f", used at {report.strength:.2f}," if _is_weaker(report) else ""
        text = f"Moving gains nothing here: the original LoRA{strength} draws the same on the target. Use that one."
        yield Section(Topic.ORIGINAL, text)


def _of_layers(report: Report, ends: Mapping[Status, str]) -> Iterator[Section]:
    for status in Status:
        records = [record for record in report.records if record.status is status]
        if not records and status is not Status.TRANSFERRED:
            continue
        alike: dict[str, list[LayerRecord]] = defaultdict(list)
        for record in records:
            alike[record.reason.general].append(record)
        items = tuple(
            Item(f"{len(group)} ({report.share(group):.1%}): {reason}.", group[0].reason.kind)
            for reason, group in sorted(alike.items(), key=lambda item: -len(item[1]))
        )
        share = report.share(records)
        text = f"{len(records)} of {len(report.records)} layers {ends[status]}, {share:.1%} of what the LoRA changes."
        yield Section(Topic.LAYERS, text, items)


def _of_measurements(report: Report) -> Iterator[Section]:
    if similar := [record.similarity for record in report.records if record.similarity is not None]:
        text = f"The paired layers are typically alike by {statistics.median(similar):.2f}, and at least by {min(similar):.2f}."
        yield Section(Topic.SIMILARITY, text)
    if _is_weaker(report):
        what = "That" if math.isclose(report.strength, 1 - report.overlap) else "A part of that"
        text = (
            f"The target already has {report.overlap:.0%} of what the LoRA adds. {what} is left out: the result is as strong as "
            f"a copy at {report.strength:.2f}."
        )
        yield Section(Topic.STRENGTH, text)
    if report.saved_strength != 1:
        text = f"Written at strength {report.saved_strength:g}: all that is moved was multiplied by it."
        yield Section(Topic.STRENGTH, text)
    if lost := report.compression_error:
        yield Section(Topic.COMPRESSION, f"Cutting the LoRA to its largest rank lost {lost:.1%} of its strength.")


def _of_the_rest(report: Report) -> Iterator[Section]:
    """Tell of norms, biases, embeddings and layers that the adapter leaves alone."""
    if report.vectors:
        left = Counter(vector.reason for vector in report.vectors if vector.reason is not None)
        carried = len(report.vectors) - left.total()
        items = tuple(Item(f"{count} left out: {reason}.", reason.kind) for reason, count in left.most_common())
        yield Section(Topic.VECTORS, f"{carried} of {len(report.vectors)} norms and biases carried over as they are.", items)
    if report.embeddings:
        names = ", ".join(report.embeddings)
        yield Section(Topic.EMBEDDINGS, f"Carried over as they are: the embeddings {names}.")
    if report.extra_layers:
        text = (
            f"Changed as well, beside the LoRA's own layers: {report.extra_layers}, which make up for those that have no "
            "counterpart."
        )
        yield Section(Topic.EXTRA_LAYERS, text)


def _of_the_bases(report: Report) -> Iterator[Section]:
    """Tell how the bases go together, what to expect, and what it takes."""
    if report.unrelated and not report.declined:
        text = unrelated(report.unrelated)
        yield Section(Topic.UNRELATED, text if report.kind else f"{text} {EXPECT}")
    if report.mismatch:
        yield Section(Topic.MISMATCH, mismatch_words(report.mismatch))
    if report.expected:
        yield Section(Topic.EXPECTED, expected_words(report.expected))
    if report.cost:
        yield Section(Topic.COST, f"No model was run for this. A transfer takes {cost_words(report.cost)}.")


def _measured(worth: Measured) -> str:
    pairs = "one pair" if worth.pairs == 1 else f"{worth.pairs} pairs"
    return (
        f"in pictures, {worth.transfers} LoRAs moved so between {pairs} of the lab's small models showed "
        f"{between(worth.low, worth.high)} of what a LoRA shows that was trained on the target, with as many subjects kept"
    )


def between(low: float, high: float) -> str:
    least, most = _percent(low), _percent(high)
    return f"about {least}" if least == most else f"between {least} and {most}"


def _percent(share: float) -> str:
    """Round to 5 %: more would be a claim."""
    return f"{5 * round(20 * share)} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
