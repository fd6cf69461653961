"""A property that is computed when it is first asked for, by threads that do not wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class once(Generic[T]):
    """``functools.cached_property`` without its lock.

    Before Python 3.12 that lock is one for all instances, so that workers, each with a layer of its own, would decompose one
    after the other. An instance that two threads ask at the same time may compute twice; here each belongs to one.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute, self._name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        if instance is None:
            return self  # type: ignore[return-value]  # for what reads the class, as its documentation
        value = instance.__dict__[self._name] = self._compute(instance)
        return value
