"""Makes the tab's texts: HTML in which every technical term has an explanation."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from lorax.catalog import Facts
from lorax.options import Option
from lorax.reasons import Why
from lorax.transfer import Report, Status
from lorax.transfer.wording import Section, Topic, refusal, sections
from lorax.workflow import Result

ALIKE = "How alike the two checkpoints are in a layer: 1 means the same directions matter, 0 means no more than by chance"
MAP = f"{ALIKE}. Columns are the blocks of the network in the order in which they work, rows the kinds of layers in them"
RANK = "The rank is the number of directions"
PROJECTED = "Only what lies in the directions that matter most in the target's layer was kept"
PARTS = "What lies in the directions that matter most, and what lies outside of them, each carried over by itself"
MEANINGS: dict[Topic | Why, str] = {  # explanations for lines of the report
    Topic.LAYERS: "Layers are the parts of the network that the LoRA changes. Those that it changes much count for more",
    Topic.SIMILARITY: ALIKE,
    Topic.COMPRESSION: f"{RANK} that a LoRA can change in a layer. With a higher Largest rank less is lost, in a larger file",
    Topic.EXPECTED: "What transfers between checkpoints as alike as these were worth when they were measured",
    Why.PROJECTED: PROJECTED,
    Why.PROJECTED_INSIDE: PROJECTED,
    Why.COPIED_NOT_PROJECTED: "A projection keeps only what lies in the directions that matter most in the target's layer",
    Why.CARRIED: "The least-squares map is the best fit between two layers of different sizes",
    Why.TWO_PARTS: PARTS,
    Why.FOUR_PARTS: f"{PARTS}; and what leads from one to the other",
    Why.BELOW_THRESHOLD: ALIKE,
    Why.BIAS_BESIDE_FACTORS: RANK,
}
COLUMNS = {
    "LoRA": "",
    "Layer": "A part of the target's network, by its name there",
    "What happens": "",
    "Why": "",
    "Similarity": ALIKE,
    "Strength kept": "How much of what the LoRA does in this layer arrives: 1 is all of it",
    "Fed from": "The layer of the source whose part of the LoRA it gets",
}
ENDS = {Status.TRANSFERRED: "moved", Status.SKIPPED: "left out", Status.UNMATCHED: "no counterpart"}


def message(text: str, kind: str = "note") -> str:
    """Return a message of a ``kind``: note, warning, error or done."""
    return f"<div class='lorax-{kind}'>{escape(text)}</div>"


def answers(question: str) -> str:
    """Return a hidden mark with the number of the browser's question that a text answers."""
    return f"<div data-answers='{escape(question)}' hidden></div>"


def heading(text: str, tip: str = "") -> str:
    return f"<h3>{explained(text, tip) if tip else escape(text)}</h3>"


def explained(word: str, meaning: str) -> str:
    return f"<abbr title='{escape(meaning, quote=True)}'>{escape(word)}</abbr>"


def facts_lines(adapters: Iterable[tuple[str, Facts]]) -> str:
    """Tell in a line each what the files of the LoRAs say."""
    lines = []
    for name, facts in adapters:
        if not facts.problem:
            triggers = f"; trigger words: {facts.trigger_words}" if facts.trigger_words else ""
            lines.append(f"<div class='lorax-facts'><b>{escape(name)}</b> {escape(f'{facts}{triggers}')}</div>")
    return "".join(lines)


def meaning(option: Option, value: Any) -> str:
    """Say what the value that is chosen means."""
    return f"<div class='lorax-meaning'>{escape((option.choices or {}).get(value, ''))}</div>"


def summary(results: Sequence[Result], *, ahead: bool = False) -> str:
    """Return the reports in words; ``ahead``: of transfers that were not made."""
    return "".join(f"<h4>{escape(result.adapter.name)}</h4>{_summary(result.report, ahead)}" for result in results)


def columns() -> str:
    """Return the line above the table of layers."""
    tips = ", ".join(explained(title, tip) for title, tip in COLUMNS.items() if tip)
    return f"<div class='lorax-note'>Click a column's head to sort by it. What the columns say: {tips}</div>"


def rows(results: Sequence[Result]) -> list[list[str | float]]:
    """Return the rows of the table of layers. Numbers are not formatted, so that they sort as numbers."""
    table: list[list[str | float]] = []
    for result in results:
        for r in result.report.records:
            numbers = [round(value, 3) if value is not None else "" for value in (r.similarity, r.kept)]
            table.append([result.adapter.name, r.target or r.name, ENDS[r.status], r.reason.text, *numbers, r.source or ""])
    return table


def short(checkpoint: str) -> str:
    """Return the checkpoint's name without the file's suffix, for captions."""
    return re.sub(r"\.(safetensors|ckpt|pt)$", "", checkpoint)


def tag(host_tag: str, facts: Facts) -> str:
    return f"{host_tag} {facts.trigger_words}".strip()


def _summary(report: Report, ahead: bool) -> str:
    declined = f"<p>{escape(f'A transfer is declined: {refusal(report)}')}</p>" if report.declined else ""
    return f"<div class='lorax-summary'>{declined}{''.join(map(_section, sections(report, ahead=ahead)))}</div>"


def _section(section: Section) -> str:
    items = "".join(f"<li>{escape(item.text)}{_help(item.why)}</li>" for item in section.items)
    return f"<p>{escape(section.text)}{_help(section.topic)}</p>" + (f"<ul>{items}</ul>" if items else "")


def _help(about: Topic | Why) -> str:
    """Return a mark with the explanation of a line, if there is one."""
    return f" {explained('?', MEANINGS[about])}" if about in MEANINGS else ""
