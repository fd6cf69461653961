"""The requests of the tab to its handlers. gradio passes the components' values by position; here they are read by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lorax.options import Options, Running, Saving, declared

T = TypeVar("T", Options, Running, Saving)
Values = Mapping[str, Any]


class Form:
    """Components of the page by name. Components of options have the options' names."""

    def __init__(self, **components: Any) -> None:
        self._names, self.components = list(components), list(components.values())

    def read(self, values: Sequence[Any]) -> Values:
        """Return the components' values by name."""
        return dict(zip(self._names, values, strict=True))


@dataclass(frozen=True)
class Choice:
    """The selected checkpoints and LoRAs, as the lists show them, and the values of all options."""

    source: str | None
    target: str | None
    adapters: list[str]
    values: Values

    @classmethod
    def of(cls, values: Values) -> "Choice":
        return cls(values["source"], values["target"], values["adapters"] or [], values)

    @property
    def method(self) -> str:
        return self.values["method"]

    def of_options(self, declaration: type[T]) -> T:
        """Return the options of a declaration. Raises LoraxError if an option does not accept its value."""
        return declaration(**{option.name: option.parse(self.values[option.name]) for option in declared(declaration)})


@dataclass(frozen=True)
class Transfer:
    """A choice, with the folder of the output."""

    choice: Choice
    subfolder: str

    @classmethod
    def of(cls, values: Values) -> "Transfer":
        return cls(Choice.of(values), values["subfolder"].strip())


@dataclass(frozen=True)
class Comparison:
    """The result of the last transfer, the LoRA of it that is compared, and how pictures are drawn."""

    moved: dict[str, Any]
    which: str | None
    prompt: str
    seed: int
    steps: int
    size: int | None

    @classmethod
    def of(cls, values: Values) -> "Comparison":
        size = values["size"]
        seed, steps = int(values["seed"]), int(values["steps"])
        return cls(values["moved"], values["which"], values["prompt"], seed, steps, int(size) if size else None)
