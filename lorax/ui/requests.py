"""The requests of the tab to its handlers. gradio passes the components' values by position; here they are read by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lorax.options import Batching, Options, Running, Saving, declared

T = TypeVar("T", Options, Running, Saving, Batching)
Values = Mapping[str, Any]
Reply = dict[str, Any]  # updates of components by name


class Form:
    """Components of the page by name. Components of options have the options' names."""

    def __init__(self, **components: Any) -> None:
        self._names, self.components = list(components), list(components.values())

    def read(self, values: Sequence[Any]) -> Values:
        """Return the components' values by name."""
        return dict(zip(self._names, values, strict=True))

    def named(self, name: Callable[[str], str]) -> dict[str, Any]:
        """Return the components by other names."""
        return {name(one): component for one, component in zip(self._names, self.components, strict=True)}

    def fill(self, reply: Reply, otherwise: Any) -> list[Any]:
        """Return a value for each component, ``otherwise`` for those that are not in the reply.

        Updates are copied: gradio takes the value out of those that it gets, and what came of a job is shown again after F5.
        """
        found = (reply.get(name, otherwise) for name in self._names)
        return [dict(one) if isinstance(one, dict) else one for one in found]


@dataclass(frozen=True)
class Choice:
    """The selected checkpoints and LoRAs, as the lists show them, and the values of all options."""

    source: str | None  # None: for each LoRA the one that its file names
    target: str | None
    also: list[str]  # further targets
    adapters: list[str]
    values: Values

    @classmethod
    def of(cls, values: Values) -> "Choice":
        return cls(values["source"], values["target"], values["also"] or [], values["adapters"] or [], values)

    @property
    def method(self) -> str:
        return self.values["method"]

    def of_options(self, declaration: type[T]) -> T:
        """Return the options of a declaration. Raises LoraxError if an option does not accept its value."""
        return declaration(**{option.name: option.parse(self.values[option.name]) for option in declared(declaration)})
