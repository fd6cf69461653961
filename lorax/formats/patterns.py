r"""Patterns of module names in PEFT's configurations, matched in bounded time.

PEFT matches them as regular expressions. A file of a stranger must not have that: ``((.+)+)+!`` keeps such an engine busy for
ever. What is understood is what PEFT writes and documents, and a little more: letters and other literal characters, ``.``,
``\d``, ``\w``, escaped characters, sets such as ``[0-9a-f]``, groups, ``|``, ``*``, ``+``, ``?``, ``^`` and ``$``. All of it
means what it means to PEFT. A pattern is compiled to a program, of which all states that the name may be in are kept at a time
(Thompson, 1968).
"""

import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

LONGEST, DEEPEST = 500, 20  # characters of a pattern, groups in groups
MANY, TOGETHER = 20_000, 5_000  # patterns of a table; characters of those in it that are more than a name
LONGEST_NAME = 1000  # characters of a module's name that patterns are tried on
UNDERSTOOD = r"module names, ., \d, \w, [sets], (groups|of|these), *, +, ?, ^ and $"
PLAIN = frozenset(string.ascii_letters + string.digits + "_-.")
CLASSES = {"d": str.isdecimal, "w": lambda char: char.isalnum() or char == "_"}
Test = Callable[[str], bool]
MATCH, TEST, SPLIT, START, END = range(5)


class Step(NamedTuple):
    """One step of a program. ``to``: where it goes on, two places for a split; ``test``: which character it takes."""

    kind: int
    to: tuple[int, ...] = ()
    test: Test | None = None


class Table:
    """The patterns of a table by the order in which they are tried. Raises ValueError if one of them is not understood."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._plain: dict[int, list[tuple[int, str]]] = {}  # length -> places in the order, patterns
        self._others: list[tuple[int, Pattern]] = []
        self._length = 0
        for place, pattern in enumerate(patterns):
            if place >= MANY:
                raise ValueError(f"more than {MANY} patterns")
            anchored = pattern.removeprefix("^").removesuffix("$")
            if not PLAIN.issuperset(anchored):
                self._add(place, pattern)
            else:
                self._plain.setdefault(len(anchored), []).append((place, ("^" if pattern[:1] == "^" else "") + anchored))

    def first(self, name: str) -> int | None:
        """Return the place of the first pattern that matches the module's name or its end behind a dot; None if none does."""
        if len(name) > LONGEST_NAME:
            return None
        starts = [0, *(place + 1 for place, char in enumerate(name) if char == ".")]
        found = [place for start in starts for place in self._plain_at(name, start)]
        best = min(found, default=None)
        for place, pattern in self._others:
            if best is not None and place > best:
                break
            if pattern.matches(name, starts):
                return place
        return best

    def _plain_at(self, name: str, start: int) -> Iterable[int]:
        """Yield the first plain pattern that is the end of the name from ``start`` on, of which a dot may be any character."""
        end = name[start:]
        for place, pattern in self._plain.get(len(end), ()):
            literal = pattern.removeprefix("^")
            whole = len(literal) == len(pattern) or start == 0
            if whole and (literal == end or all(p in (".", c) for p, c in zip(literal, end, strict=True))):
                yield place
                return

    def _add(self, place: int, pattern: str) -> None:
        self._length += len(pattern)
        if len(pattern) > LONGEST or self._length > TOGETHER:
            raise ValueError(
                f"patterns of more than {LONGEST} characters, or of more than {TOGETHER} together that are no plain module names"
            )
        self._others.append((place, Pattern(pattern)))


class Pattern:
    """One compiled pattern. Raises ValueError if it is not understood."""

    def __init__(self, text: str) -> None:
        self._program, self._begin = _Compiler(text).compiled()
        self._known: dict[tuple[frozenset[int], str, bool], frozenset[int]] = {}

    def matches(self, name: str, starts: Iterable[int]) -> bool:
        """Tell whether the pattern is all of the name, or all of it from one of the ``starts`` on."""
        begins, states = set(starts), frozenset[int]()
        for place in range(len(name) + 1):
            last = place == len(name)
            if place in begins:
                states |= self._closed([self._begin], place == 0, last)
            if last:
                return any(self._program[state].kind == MATCH for state in states)
            states = self._after(states, name[place], place + 1 == len(name))
        return False

    def _after(self, states: frozenset[int], char: str, last: bool) -> frozenset[int]:
        key = states, char, last
        if (found := self._known.get(key)) is None:
            if len(self._known) > 10_000:
                self._known.clear()
            steps = (self._program[state] for state in states)
            found = self._closed([step.to[0] for step in steps if step.test and step.test(char)], False, last)
            self._known[key] = found
        return found

    def _closed(self, states: list[int], first: bool, last: bool) -> frozenset[int]:
        """Return the states that are reached from these without taking a character."""
        found, waiting = set(states), list(states)
        while waiting:
            step = self._program[waiting.pop()]
            free = step.kind == SPLIT or (step.kind == START and first) or (step.kind == END and last)
            for state in step.to if free else ():
                if state not in found:
                    found.add(state)
                    waiting.append(state)
        return frozenset(found)


@dataclass
class _Compiler:
    """A parser by recursive descent, which builds the program from the end: each piece is given where it goes on."""

    text: str
    at: int = 0
    depth: int = 0
    program: list[Step] = field(default_factory=lambda: [Step(MATCH)])

    def compiled(self) -> tuple[list[Step], int]:
        tree = self._alternatives()
        if self.at < len(self.text):
            raise self._misunderstood()
        return self.program, self._build(tree, 0)

    def _misunderstood(self) -> ValueError:
        return ValueError(f"{self.text!r} is not understood at character {self.at + 1}")

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, chars: str) -> bool:
        if (found := self._next()) and found in chars:
            self.at += 1
            return True
        return False

    def _alternatives(self) -> tuple:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        return ("either", branches)

    def _sequence(self) -> tuple:
        pieces = []
        while (char := self._next()) and char not in "|)":
            piece = self._atom()
            for kind in "*+?":
                if self._take(kind):
                    if piece[0] == "place":
                        raise self._misunderstood()
                    piece = (kind, piece)
                    self._take("?")  # as few as possible: the same where all must match
                    break
            pieces.append(piece)
        return ("row", pieces)

    def _atom(self) -> tuple:
        if self._take("("):
            return self._group()
        if self._take("["):
            return ("take", self._set())
        if self._take("."):
            return ("take", lambda char: char != "\n")
        if self._take("^"):
            return ("place", START)
        if self._take("$"):
            return ("place", END)
        if self._take("*+?{}]"):
            self.at -= 1
            raise self._misunderstood()
        return ("take", self._char())

    def _group(self) -> tuple:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._misunderstood()
        if self._take("?") and not self._take(":"):
            raise self._misunderstood()
        inside = self._alternatives()
        if not self._take(")"):
            raise self._misunderstood()
        self.depth -= 1
        return inside

    def _char(self) -> Test:
        """Return the test of a literal or an escaped character."""
        if not self._take("\\"):
            self.at += 1
            return self.text[self.at - 1].__eq__
        char = self._next()
        self.at += 1
        if char in CLASSES and char:
            return CLASSES[char]
        if not char or char.isalnum():  # of these each has a meaning of its own
            self.at -= 1
            raise self._misunderstood()
        return char.__eq__

    def _set(self) -> Test:
        """Return the test of what follows a bracket."""
        other, tests = self._take("^"), list[Test]()
        while not (tests and self._take("]")):
            low = self._next()
            if not low or low in "[]":
                raise self._misunderstood()
            test = self._char()
            if low != "\\" and self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                high = self.text[self.at + 1]
                self.at += 2
                if high == "\\" or high < low:
                    raise self._misunderstood()
                test = _within(low, high)
            tests.append(test)
        return lambda char: any(test(char) for test in tests) is not other

    def _build(self, tree: tuple, to: int) -> int:
        """Append the steps of a piece that goes on at ``to``; return where it begins."""
        kind, inside = tree
        if kind == "row":
            for piece in reversed(inside):
                to = self._build(piece, to)
            return to
        if kind == "take":
            return self._append(Step(TEST, (to,), inside))
        if kind == "place":
            return self._append(Step(inside, (to,)))
        if kind == "either":
            return self._append(Step(SPLIT, tuple(self._build(branch, to) for branch in inside)))
        if kind == "?":
            return self._append(Step(SPLIT, (self._build(inside, to), to)))
        loop = self._append(Step(SPLIT))
        begin = self._build(inside, loop)
        self.program[loop] = Step(SPLIT, (begin, to))
        return loop if kind == "*" else begin

    def _append(self, step: Step) -> int:
        self.program.append(step)
        return len(self.program) - 1


def _within(low: str, high: str) -> Test:
    return lambda char: low <= char <= high
