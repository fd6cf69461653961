"""A cached property without a lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class once(Generic[T]):
    """``functools.cached_property`` without its lock, so that threads do not wait for each other.

    Before Python 3.12 all instances share one lock, and workers that each have a layer would decompose one after the other. An
    instance that two threads ask at the same time may compute twice; here each instance belongs to one thread.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute, self._name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        if instance is None:
            return self  # type: ignore[return-value]  # for tools that read the class, as those for documentation
        value = instance.__dict__[self._name] = self._compute(instance)
        return value
