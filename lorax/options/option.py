"""Describes an option: how it is declared, shown and read."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lorax.errors import LoraxError


@dataclass(frozen=True)
class Option:
    """An option: a declaration's field, with its label, help and limits. ``name``, ``kind`` and ``default`` are the field's."""

    label: str
    help: str  # for artists
    offered: Callable[[], Mapping[str, str]] | None = None  # returns meanings by value
    example: str | None = None
    placeholder: str = ""  # in an empty text field; none: the example
    bounds: tuple[float, float] | None = None
    lines: bool = False  # whether the value is a list of texts, one per line
    name: str = ""
    kind: type = str
    default: Any = None

    @property
    def choices(self) -> Mapping[str, str] | None:
        """The meanings of the values by value; None if values are free, like ``example`` or within ``bounds``."""
        return self.offered() if self.offered else None

    @property
    def slider(self) -> tuple[float, float] | None:
        """The bounds of a slider; None if the option is shown as something else, since no slider can be empty."""
        return None if self.default is None else self.bounds

    @property
    def step(self) -> float:
        """The step of a slider between the bounds."""
        return 1 if self.kind is int else 0.01

    @property
    def described(self) -> str:
        """The help with the meanings of the choices."""
        listed = "; ".join(f"{value}: {meaning}" for value, meaning in (self.choices or {}).items())
        return self.help + (f" ({listed})" if listed else "")

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def parse(self, value: Any) -> Any:
        """Convert the value of a text field, a slider or a settings page. Raises LoraxError if the option does not accept it."""
        if value is None or (isinstance(value, str) and not value.strip()):
            return self.default
        if self.lines:
            return texts(value.splitlines())
        try:
            return self.kind(value.strip() if isinstance(value, str) else value)
        except (ValueError, OverflowError, TypeError):
            raise LoraxError(f"{self.label} {str(value)[:40]!r}: expected a number.") from None


def texts(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the lines that are not empty, without the spaces around them."""
    return tuple(text for line in lines if (text := line.strip()))


def declared(declaration: type) -> list[Option]:
    """Return the options of a declaration, in their order."""
    options = []
    for field in dataclasses.fields(declaration):
        kind = int if field.type == (int | None) else field.type
        options.append(dataclasses.replace(field.metadata["option"], name=field.name, kind=kind, default=field.default))
    return options


def option(default: Any, label: str, help: str, **shown: Any) -> Any:
    """Declare an option, as a field of a dataclass; ``shown`` are further fields of ``Option``."""
    return dataclasses.field(default=default, metadata={"option": Option(label, help, **shown)})
