"""A cached property without a lock."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class once(Generic[T]):
    """A ``functools.cached_property`` without its lock, which all instances share before Python 3.12: workers would wait."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute, self._name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        if instance is None:
            return self  # type: ignore[return-value]  # for documentation tools
        value = instance.__dict__[self._name] = self._compute(instance)
        return value
