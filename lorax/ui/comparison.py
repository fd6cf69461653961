"""Plans the pictures of a comparison: which ones, in which order, and how long they take."""

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, TypeVar

from lorax.catalog import ListedFile, Named, Provenance, adapter_of, base_of, facts, seen
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.hosts.base import Drawing, Host, Shot
from lorax.ui import words

MOST = 36  # pictures of one comparison
WIDEST = 6  # pictures in a row
ON_SOURCE, ALONE, COPIED = (
    "the LoRA on its own checkpoint",
    "your checkpoint alone",
    "the LoRA on yours, as it is",
)
OTHERS = (ON_SOURCE, ALONE, COPIED)
SEEDS = 1 << 32
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Comparison:
    """What to compare: moved LoRAs at strengths and seeds, beside pictures of ``OTHERS``, all drawn alike.

    ``target``: the base for LoRA-X files, which fit any; None if no transfer told it.
    """

    which: list[str]  # as ``moved_loras`` names them
    strengths: list[float]
    seeds: list[int]
    others: list[str]
    drawing: Drawing
    target: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Comparison":
        """Read the values of the page. Raises LoraxError if one of them cannot be used."""
        size = [min(2048, max(64, 8 * round(values[name] / 8))) if values[name] else None for name in ("width", "height")]
        given = {name: values[name] or "" for name in ("prompt", "negative", "sampler", "schedule")}
        drawing = Drawing(**given, steps=int(values["steps"]), cfg=float(values["cfg"]), width=size[0], height=size[1])
        seeds = [
            secrets.randbelow(SEEDS) if seed == -1 else seed for seed in _numbers("Seeds", values["seeds"], int, -1, SEEDS - 1)
        ]
        strengths = _numbers("Strengths", values["strengths"], float, -10, 10)
        return cls(values["which"] or [], strengths, seeds, values["others"] or [], drawing, (values["last"] or {}).get("target"))

    @property
    def work(self) -> float:
        """The work of one picture, in steps times megapixels."""
        return self.drawing.steps * (self.drawing.width or 512) * (self.drawing.height or 512) / 1e6


@dataclass(frozen=True)
class Sheet:
    """The pictures of a comparison, row by row."""

    shots: list[Shot]
    columns: int
    warnings: list[str]

    @property
    def order(self) -> list[int]:
        """The pictures' numbers in the order in which they are drawn, so that each base is loaded once."""
        bases = list(dict.fromkeys(shot.base for shot in self.shots))

        def key(number: int) -> tuple[int, str, float]:
            shot = self.shots[number]
            return bases.index(shot.base), str(shot.adapter.path) if shot.adapter else "", shot.strength

        return sorted(range(len(self.shots)), key=key)


def moved_loras(host: Host, read: bool = False) -> dict[str, tuple[ListedFile, Provenance]]:
    """Return the LoRAs that transfers wrote, as their metadata tells, by their names in the list; the newest first.

    Files that nobody has looked at yet are left out, unless they are to be ``read``.
    """
    found = []
    for name, model in host.adapters().items():
        if not read and not ((known := seen(model.path)) and known.facts.origin):
            continue
        if model.path.is_file() and (origin := facts(model.path).origin):
            goal = f"for {origin.target.title}" if origin.target else "LoRA-X file"
            found.append((model.path.stat().st_mtime, f"{name}  ({origin.method}, {goal})", (model, origin)))
    return {label: moved for _, label, moved in sorted(found, key=lambda one: -one[0])}


def sheet(asked: Comparison, host: Host) -> Sheet:
    """Plan the pictures. Raises LoraxError if there are none or too many, or if a file is not there any more."""
    listed, warnings = moved_loras(host), list[str]()
    if any(label not in listed for label in asked.which):  # a page of before a restart, say
        listed = moved_loras(host, read=True)
    if gone := [label for label in asked.which if label not in listed]:
        name = gone[0].partition("  (")[0]
        there = host.adapters().get(name)
        problem = facts(there.path).problem if there and there.path.is_file() else ""
        raise LoraxError(problem or f"{name}: not there any more. Choose another moved LoRA.")
    if not asked.which:
        raise LoraxError("No moved LoRA is chosen. Move a LoRA, or choose one that was moved before.")
    others, moved = list[Shot](), list[Shot]()
    for label in asked.which:
        model, origin = listed[label]
        target = _target(model, origin, asked, host)
        several = f"{model.name} ({origin.method})" if len(asked.which) > 1 else "the moved LoRA"
        moved.append(Shot(f"{words.short(target.name)} with {several}", target, model))
        others += _others(model, origin, target, asked.others, host, warnings)
    strongest = max(asked.strengths)
    others = [replace(shot, strength=strongest if shot.adapter else 1.0) for shot in _told_apart(list(dict.fromkeys(others)))]
    if (count := len(asked.seeds) * (len(others) + len(moved) * len(asked.strengths))) > MOST:
        raise LoraxError(
            f"That would be {count} pictures; at most {MOST} are drawn at once. Choose fewer strengths, seeds or LoRAs."
        )
    return _laid_out(asked, others, moved, list(dict.fromkeys(warnings)))


def _laid_out(asked: Comparison, others: list[Shot], moved: list[Shot], warnings: list[str]) -> Sheet:
    """Make a row for each seed; or with several strengths, rows of one LoRA and seed with the strengths side by side."""

    def seeded(shot: Shot, seed: int) -> Shot:
        return replace(shot, seed=seed, title=f"{shot.title}, seed {seed}" if len(asked.seeds) > 1 else shot.title)

    def at(shot: Shot, strength: float) -> Shot:
        return replace(shot, strength=strength, title=f"{shot.title} at {strength:g}")

    if len(asked.strengths) == 1:
        row = [*others, *(replace(shot, strength=asked.strengths[0]) for shot in moved)]
        shots = [seeded(shot, seed) for seed in asked.seeds for shot in row]
        return Sheet(shots, len(row) if len(row) <= WIDEST else 4, warnings)
    shots = [seeded(at(shot, one), seed) for shot in moved for seed in asked.seeds for one in asked.strengths]
    shots += [seeded(at(shot, shot.strength) if shot.adapter else shot, seed) for shot in others for seed in asked.seeds]
    return Sheet(shots, min(WIDEST, len(asked.strengths)), warnings)


def _target(model: ListedFile, origin: Provenance, asked: Comparison, host: Host) -> ListedFile:
    bases = host.bases()
    if origin.target:
        return _there(model, origin.target, "moved to", base_of(origin.target, bases.values()))
    name = asked.target or host.loaded() or ""
    if name not in bases:
        raise LoraxError(
            f"{model.name}: a LoRA-X file, which fits many checkpoints. Load the one to draw with, or choose it as the target."
        )
    return bases[name]


def _there(model: ListedFile, named: Named, role: str, found: ListedFile | None) -> ListedFile:
    if found is None or not found.path.exists():
        raise LoraxError(f"{model.name}: it was {role} {named.name}, which is not in the list, or is another file by now.")
    return found


def _others(
    model: ListedFile, origin: Provenance, target: ListedFile, wanted: Sequence[str], host: Host, warnings: list[str]
) -> Iterable[Shot]:
    """Yield the pictures to compare with. Those of what is not there any more are left out with a warning."""
    lora = adapter_of(origin.lora, host.adapters().values()) if {ON_SOURCE, COPIED} & set(wanted) else None
    if lora is None and {ON_SOURCE, COPIED} & set(wanted):
        warnings.append(f"{model.name}: {origin.lora.name}, which it was made of, is not in the list, so it is not drawn.")
    source = base_of(origin.source, host.bases().values())
    if ON_SOURCE in wanted and lora:
        if source and source.path.exists():
            yield Shot(f"{words.short(source.name)} with the LoRA", source, lora)
        else:
            warnings.append(f"{model.name}: {origin.source.name}, its own checkpoint, is not in the list, so it is not drawn.")
    if ALONE in wanted:
        yield Shot(f"{words.short(target.name)} alone", target, None)
    if COPIED in wanted and lora and open_adapter(lora.path).header is None:  # a LoRA-X file is fitted, never copied
        yield Shot(f"{words.short(target.name)} with the LoRA as it is", target, lora)


def _told_apart(others: list[Shot]) -> list[Shot]:
    """Name the LoRA in the titles if there are several."""
    if len({shot.adapter for shot in others if shot.adapter}) < 2:
        return others
    return [replace(shot, title=f"{shot.title} ({shot.adapter.name})") if shot.adapter else shot for shot in others]


def _numbers(title: str, text: Any, kind: Callable[[str], Number], least: float, most: float) -> list[Number]:
    """Read the numbers in a line, each of them once."""
    try:
        found = [kind(part) for part in re.split(r"[\s,;]+", str(text).strip()) if part]
    except ValueError:
        found = []
    if not found or not all(least <= one <= most for one in found):
        example = "0.4, 0.6, 0.8, 1" if kind is float else "7, 8, 9"
        raise LoraxError(f"{title}: {text!r} cannot be used. Write numbers with commas between them, such as {example}.")
    return list(dict.fromkeys(found))


class Pace:
    """How long pictures took on each base, to tell how long further ones will take."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float]] = {}  # seconds to begin, and seconds for a unit of work

    def learn(self, took: Mapping[str, list[float]], work: float) -> None:
        """Learn from the seconds of each picture on each base; the first of them includes loading the base."""
        for base, (first, *more) in took.items():
            each = median(more) if more else first
            self._known[base] = max(0.0, first - each), each / work

    def expected(self, shots: Sequence[Shot], work: float) -> float | None:
        """Return the seconds that the shots take, or None if nothing was drawn on one of their bases yet."""
        bases = {shot.base.name for shot in shots}
        if not bases <= self._known.keys():
            return None
        return sum(self._known[base][0] for base in bases) + sum(work * self._known[shot.base.name][1] for shot in shots)
