"""Looks over a whole library: what each of its adapters is worth on one target, and which were moved there already."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from lorax.catalog import FileKind, ListedFile, Named, Origin, Origins, Record, Sure, base_of, flush, record, sha256
from lorax.progress import Progress, silent
from lorax.transfer import Kind, Verdict
from lorax.transfer.verdict_words import words
from lorax.workflow.verdicts import Asked, Verdicts


class Group(str, Enum):
    """What can be said of an adapter in a word or two; the value is what it is called in options."""

    GAINS = "gains"
    WORKS = "works"
    RUNS = "refine"
    PRESENT = "present"
    UNKNOWN = "unknown"
    MISSING = "missing"
    OTHER = "other"
    UNREADABLE = "unreadable"

    @property
    def words(self) -> str:
        return TITLES[self]


class State(str, Enum):
    """Whether an adapter was moved to the target already."""

    NOT = ""
    DONE = "done"
    CHANGED = "changed"  # it was, and it is another file by now

    @property
    def words(self) -> str:
        return STATES[self]


TITLES = {
    Group.GAINS: "Gains by moving",
    Group.WORKS: "Works as it is",
    Group.RUNS: "Needs Refine or Bridge",
    Group.PRESENT: "In it already",
    Group.UNKNOWN: "Source not known",
    Group.MISSING: "Source not on this disk",
    Group.OTHER: "Other architecture",
    Group.UNREADABLE: "Cannot be read",
}
STATES = {State.NOT: "", State.DONE: "Moved already", State.CHANGED: "Moved, and changed since"}
GROUPS = {
    Kind.SAME: Group.WORKS,
    Kind.MADE: Group.WORKS,
    Kind.PRESENT: Group.PRESENT,
    Kind.WORKS: Group.WORKS,
    Kind.GAINS: Group.GAINS,
    Kind.CHANGES: Group.WORKS,
    Kind.UNRELATED: Group.RUNS,
    Kind.CROSSED: Group.RUNS,
    Kind.FITS_ITSELF: Group.WORKS,
    Kind.OTHER_ARCHITECTURE: Group.OTHER,
    Kind.WRONG_SOURCE: Group.UNKNOWN,
    Kind.UNREADABLE: Group.UNREADABLE,
    Kind.SOURCE_UNKNOWN: Group.UNKNOWN,
    Kind.SOURCE_MISSING: Group.MISSING,
}
FILTERS = {one.value: one.words for one in (*Group, State.DONE, State.CHANGED)}
COARSE = (
    "Told by the headers and the checkpoints alone. Whether a checkpoint has a part of a LoRA already, and at which strength it "
    "is best used then, is told once the LoRA itself is looked at."
)


@dataclass(frozen=True)
class Row:
    """What is known of one adapter for the target. ``moved``: the files that were made of it for the target."""

    adapter: ListedFile
    record: Record
    origin: Origin
    verdict: Verdict
    state: State = State.NOT
    moved: tuple[ListedFile, ...] = ()

    @property
    def group(self) -> Group:
        return GROUPS[self.verdict.kind]

    @property
    def source(self) -> ListedFile | None:
        """The base that the adapter was trained on, if it is listed for sure."""
        return self.origin.base if self.origin.sure is Sure.FOUND else None

    @property
    def can_move(self) -> bool:
        """Whether the adapter can be moved from the source that it names."""
        return (
            self.source is not None
            and self.group in (Group.GAINS, Group.WORKS, Group.RUNS)
            and self.verdict.kind not in (Kind.SAME, Kind.MADE)
        )

    @property
    def can_be_told(self) -> bool:
        """Whether the user can tell on which base the adapter was trained."""
        return self.group in (Group.UNKNOWN, Group.MISSING)

    @property
    def is_copy(self) -> bool:
        """Whether a transfer made it. Moving its original loses less."""
        return self.record.facts.is_moved

    @cached_property
    def words(self) -> str:
        """What the tab says of the adapter, and whether it was moved."""
        return " ".join(filter(None, [words(self.verdict), self.state.words and f"{self.state.words}."]))

    @cached_property
    def searched(self) -> str:
        """The texts in which a search looks, in lower case."""
        source = self.source.name if self.source else ""
        return " ".join([self.adapter.name, str(self.record.facts), self.record.facts.trigger_words, source]).casefold()


class Overview:
    """The rows of a library, one after the other as they are found.

    The adapters of one source follow each other, since what is known of two bases is large. ``closely``: whether a sample of each
    adapter's layers is read, which takes seconds for each; else what the headers tell must do, unless the adapter was looked at
    before.
    """

    def __init__(
        self,
        verdicts: Verdicts,
        adapters: Iterable[ListedFile],
        target: ListedFile,
        bases: Iterable[ListedFile],
        closely: bool = False,
    ) -> None:
        self.target, self._verdicts, self._origins = target, verdicts, Origins(bases)
        self._adapters, self._closely = list(adapters), closely

    def rows(self, progress: Progress = silent) -> Iterator[Row]:
        """Yield a row for each adapter that is there. ``progress`` may raise to stop."""
        found = []
        for number, adapter in enumerate(self._adapters):
            progress(number, 2 * len(self._adapters), "Reading the LoRAs")
            known = record(adapter.path)
            if known.kind is not FileKind.GONE:
                found.append((adapter, known, self._origins.of(known)))
        flush()
        found.sort(key=lambda one: str(one[2].base.path) if one[2].base else "")
        moved = _Moved([(adapter, known) for adapter, known, _ in found], self.target)
        asked = Asked(self.target, None, self._origins, by_structure=not self._closely)

        def half(done: int, total: int, text: str) -> None:
            progress(total + done, 2 * total, "Looking at the checkpoints")

        judged = self._verdicts.each([adapter for adapter, _, _ in found], asked, half)
        for (adapter, known, origin), verdict in zip(found, judged, strict=True):
            yield Row(adapter, known, origin, verdict, *moved.of(adapter))


class _Moved:
    """The files among the adapters that were made for the target, by what is written in them."""

    def __init__(self, adapters: Sequence[tuple[ListedFile, Record]], target: ListedFile) -> None:
        self._made: dict[str, list[tuple[ListedFile, Named]]] = defaultdict(list)  # by the name of the original's file
        self._namesakes = Counter(adapter.path.name for adapter, _ in adapters)
        for adapter, known in adapters:
            if (origin := known.facts.origin) and origin.target and base_of(origin.target, [target]):
                self._made[origin.lora.name].append((adapter, origin.lora))

    def of(self, adapter: ListedFile) -> tuple[State, tuple[ListedFile, ...]]:
        """Return whether the adapter was moved, and the files that were made of it."""
        made = [(file, original) for file, original in self._made.get(adapter.path.name, ()) if file.path != adapter.path]
        whole = tuple(file for file, original in made if self._is_original(adapter, file, original))
        if whole:
            return State.DONE, whole
        if made and self._namesakes[adapter.path.name] == 1:
            return State.CHANGED, tuple(file for file, _ in made)
        return State.NOT, ()

    def _is_original(self, adapter: ListedFile, file: ListedFile, original: Named) -> bool:
        """Tell whether the file was made of the adapter as it is now. It is hashed only if it is newer, or not the only one."""
        is_only = self._namesakes[adapter.path.name] == 1
        try:
            if is_only and adapter.path.stat().st_mtime_ns <= file.path.stat().st_mtime_ns:
                return True
            return sha256(adapter.path) == original.sha256
        except OSError:  # one of them has gone, which must not take away all others
            return False


SORTS = {
    "verdict": lambda row: (list(Group).index(row.group), row.adapter.name.casefold()),
    "name": lambda row: row.adapter.name.casefold(),
    "source": lambda row: (row.source.name.casefold() if row.source else "\uffff", row.adapter.name.casefold()),
}


def selected(rows: Iterable[Row], only: str = "", search: str = "", sort: str = "verdict") -> list[Row]:
    """Return the rows of a group or a state, one of FILTERS, whose texts have all words of the search; sorted as SORTS says."""
    wanted = search.casefold().split()
    found = [row for row in rows if only in ("", row.group.value, row.state.value) and all(one in row.searched for one in wanted)]
    return sorted(found, key=SORTS[sort])


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """Count the rows of each group and state."""
    rows = list(rows)
    found = Counter([row.group.value for row in rows] + [row.state.value for row in rows if row.state is not State.NOT])
    return {name: found[name] for name in FILTERS if found[name]}


def counted(rows: Iterable[Row]) -> str:
    """Say how many rows there are of each group and state."""
    return "; ".join(f"{FILTERS[name]}: {count}" for name, count in counts(rows).items())


def row_as_json(row: Row) -> Mapping[str, Any]:
    """Return the row as values of JSON, with the names of files in the lists."""
    verdict, facts, origin = row.verdict, row.record.facts, row.origin
    return {
        "adapter": row.adapter.name,
        "group": row.group.value,
        "kind": verdict.kind.value,
        "words": row.words,
        "strength": verdict.strength,
        "actions": [
            {"do": one.do.value, "method": one.do.method, "seconds": one.seconds, "bytes": one.bytes, "device": one.device}
            for one in verdict.actions
        ],
        "source": row.source.name if row.source else None,
        "could_be": [base.name for base in origin.could_be],
        "missing": [origin.name, origin.hash] if verdict.kind is Kind.SOURCE_MISSING else [],
        "state": row.state.value,
        "moved": [file.name for file in row.moved],
        "rank": facts.rank,
        "format": facts.format,
        "family": facts.family,
        "trained_on": facts.trained_on,
    }
