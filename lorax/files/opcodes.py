"""Follows the opcodes of a pickle, without doing what they say, to tell what loading it would call and allocate.

torch unpickles only a few opcodes and calls only a list of functions, but some of these take any amount of time or memory: a
``bytearray(2**31)`` is written in 60 bytes. What is followed here is what ``torch.save`` writes for plain and for sparse tensors.
"""

import math
import pickletools
from collections import Counter
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import torch

MOST = 1_000_000  # opcodes, which take some seconds. A tensor takes about 40 of them
MOST_IN_TUPLE = 1000  # values, with those of tuples in it; tuples of tuples can take longer to hash than anybody waits
MOST_GIVEN = 200  # values that a function is called with, with those of tuples in it; a tensor has up to 64 axes
MOST_ATTRIBUTES = 100  # of a tensor
CONSTANTS = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
ORDERED, SIZE, ENCODE = "collections OrderedDict", "torch Size", "_codecs encode"
OF_STORAGE = {f"torch._utils _rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3")}
SPARSE, META, PARAMETER, WITH_STATE = (
    f"torch._utils _rebuild_{kind}" for kind in ("sparse_tensor", "meta_tensor_no_storage", "parameter", "parameter_with_state")
)
REBUILD = OF_STORAGE | {SPARSE, META, PARAMETER, WITH_STATE}
OF_CONSTANTS = {"torch device", "torch.serialization _get_layout"}
REBUILD_TYPE = "torch._tensor _rebuild_from_type_v2"  # of a tensor with attributes; calls its first argument
ENCODINGS = ("latin1", "latin-1")  # of bytes; others take time that grows with the square of the length
T = TypeVar("T")


@dataclass(frozen=True)
class _Name:
    """A global, by its module and name."""

    name: str


class _Tuple(tuple[Any, ...]):
    """A tuple that knows how many values it holds, those of tuples in it counted."""

    weight: int


@dataclass(frozen=True)
class _Storage:
    """The values of a tensor, by their number."""

    count: int


@dataclass(frozen=True)
class _Tensor:
    """A tensor, by the number of its values, and of those in its storage."""

    count: int
    stored: int


class _List:
    """A list."""


class _Dict:
    """A dict, by its keys."""

    def __init__(self, is_ordered: bool = False) -> None:
        self.is_ordered = is_ordered
        self.keys: set[object] = set()

    def add(self, items: list[Any]) -> None:
        """Take keys and values in turn. Raises ValueError if hashing the keys, or finding them, could take long."""
        for key in items[::2]:
            if not isinstance(key, str | bytes | int | None):
                raise ValueError(f"a {type(key).__name__.strip('_').lower()} as a key")
            if isinstance(key, int) and not 0 <= key < 1 << 31:  # one can choose many large ones that have one hash
                raise ValueError("a key that is too large")
            self.keys.add(key)


@dataclass(frozen=True)
class _Called:
    """The result of a call."""

    name: str


class _Unknown:
    """A value that does not matter."""


UNKNOWN = _Unknown()
CONTAINERS: dict[str, type] = {"EMPTY_DICT": _Dict, "EMPTY_LIST": _List, "EMPTY_SET": _Unknown}


def follow(stream: IO[bytes], size: int) -> Any:
    """Read a pickle from ``stream``, which is a part of a file of ``size`` bytes; return its result, if that is a constant.

    Raises ValueError if it has other opcodes than torch loads, or would call or allocate what no file of tensors needs.
    """
    machine = _Machine(size)
    for _ in range(MOST):
        code = stream.read(1).decode("latin-1")
        if (opcode := KNOWN.get(code)) is None:
            raise ValueError("not a pickle, or one with opcodes that torch does not load")
        argument = opcode.arg.reader(stream) if opcode.arg else None
        if opcode.name == "STOP":
            return machine.pop()
        machine.do(opcode.name, argument)
    raise ValueError(f"more than {MOST} opcodes")


class _Machine:
    """The stack and the memory of an unpickler."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken: Counter[str] = Counter()  # of each kind, of which the file must have as much
        self._storages: dict[object, int] = {}
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self._stack:
            raise ValueError("an opcode without its operands")
        return self._stack.pop()

    def do(self, name: str, argument: Any) -> None:
        """Do what the opcode does to the stack."""
        if name in CONSTANTS:
            self._stack.append(argument)
        elif name in CONTAINERS:
            self._stack.append(CONTAINERS[name]())
        elif name == "EMPTY_TUPLE":
            self._push_tuple([])
        elif name in TUPLES:
            self._push_tuple([self.pop() for _ in range(TUPLES[name])][::-1])
        elif name == "TUPLE":
            self._push_tuple(self._pop_mark())
        elif name == "GLOBAL":
            self._stack.append(_Name(argument))
        elif name == "MARK":
            self._outer.append(self._stack)
            self._stack = []
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._stack.append(self.pop())
            self._memo[argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo.get(argument, UNKNOWN))
        elif name in ("APPEND", "APPENDS"):
            self.pop() if name == "APPEND" else self._pop_mark()
            self._target(_List)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self._pop_mark()
            self._target(_Dict).add(items)
        elif name == "BUILD":
            state = self.pop()
            if not (self._target(_Dict).is_ordered and isinstance(state, _Dict) and state.keys <= {"_metadata"}):
                raise ValueError("a state that is not a module's")
        elif name in ("REDUCE", "NEWOBJ"):
            self._stack.append(self._call(self.pop(), self.pop()))
        elif name == "BINPERSID":
            self._check_storage(self.pop())

    def _push_tuple(self, values: list[Any]) -> None:
        found = _Tuple(values)
        found.weight = 1 + sum(value.weight if isinstance(value, _Tuple) else 1 for value in values)
        if found.weight > MOST_IN_TUPLE:
            raise ValueError(f"a tuple of more than {MOST_IN_TUPLE} values")
        self._stack.append(found)

    def _pop_mark(self) -> list[Any]:
        if not self._outer:
            raise ValueError("an opcode without its mark")
        values, self._stack = self._stack, self._outer.pop()
        return values

    def _target(self, kind: type[T]) -> T:
        """Return the container to which items are added."""
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise ValueError("items of something that is no container")
        return self._stack[-1]

    def _call(self, arguments: Any, function: Any) -> Any:
        name = function.name if isinstance(function, _Name) else "what is no function"
        is_small = isinstance(arguments, _Tuple) and arguments.weight <= MOST_GIVEN
        if not (is_small and self._is_harmless(name, arguments)):
            raise ValueError(f"a call of {name[:80]}")
        if name in OF_STORAGE:
            return _tensor(*arguments[:4])
        return _Dict(is_ordered=True) if name == ORDERED else _Called(name)

    def _is_harmless(self, name: str, given: tuple[Any, ...]) -> bool:
        """Tell whether calling the function costs no more than the file is large."""
        if name == REBUILD_TYPE:
            if len(given) != 4 or given[0] not in (_Name(rebuild) for rebuild in REBUILD):
                return False
            self._call(given[2], given[0])
            return _are_attributes(given[3])
        if name == WITH_STATE:
            return len(given) == 4 and _are_attributes(given[3])
        if name == SPARSE:
            return len(given) == 2 and isinstance(given[1], _Tuple) and self._is_sparse(given[1])
        if name == ENCODE:
            is_text = len(given) == 2 and isinstance(given[0], str) and given[1] in ENCODINGS
            return is_text and self._take(name, len(given[0]))
        if name == SIZE:
            return len(given) == 1 and isinstance(given[0], _Tuple) and all(isinstance(number, int) for number in given[0])
        if name == ORDERED:
            return not given
        if name in OF_CONSTANTS:
            return all(isinstance(one, str | int | None) for one in given)
        return name in {META, PARAMETER, *OF_STORAGE}

    def _is_sparse(self, parts: _Tuple) -> bool:
        """Tell whether these make a sparse tensor, of which torch before 2.6 looks at all places and values."""
        tensors = [part for part in parts if isinstance(part, _Tensor)]
        rest = (part for part in parts if not isinstance(part, _Tensor))
        is_plain = all(isinstance(part, int | None | _Tuple) or part == _Called(SIZE) for part in rest)
        is_stored = all(tensor.count <= tensor.stored for tensor in tensors)
        return is_plain and is_stored and self._take(SPARSE, sum(tensor.count for tensor in tensors))

    def _take(self, what: str, count: int) -> bool:
        """Tell whether the file is large enough for all that was taken of this kind so far."""
        self._taken[what] += count
        return self._taken[what] <= self._size

    def _check_storage(self, named: Any) -> None:
        """Raise ValueError if the storages so far would be larger than the file. Each is named as often as tensors use it."""
        if not (isinstance(named, _Tuple) and len(named) >= 5 and named[0] in ("storage", b"storage")):
            raise ValueError("a reference to something else than a tensor's values")
        key, count = named[2], named[4]
        if not isinstance(key, str | int) or not str(key).isascii() or not isinstance(count, int) or count < 0:
            raise ValueError("a damaged reference to a tensor's values")
        if key not in self._storages and not self._take("stored", count):
            raise ValueError("tensors that are larger than the file")
        if self._storages.setdefault(key, count) != count:
            raise ValueError("a damaged reference to a tensor's values")
        self._stack.append(_Storage(count))


def _tensor(storage: Any = None, offset: Any = None, size: Any = None, stride: Any = None, /) -> _Tensor:
    """Return the tensor. Raises ValueError if it does not lie within its storage, which torch would enlarge."""
    numbers = [offset, *size, *stride] if isinstance(size, _Tuple) and isinstance(stride, _Tuple) else [None]
    if not isinstance(storage, _Storage) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a damaged tensor")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.count:
        raise ValueError("a tensor that is larger than its values")
    return _Tensor(math.prod(size), storage.count)


def _are_attributes(state: Any) -> bool:
    """Tell whether what torch would set as attributes of a tensor hides none of its own, which can be setters."""
    if not isinstance(state, _Dict) or len(state.keys) > MOST_ATTRIBUTES:
        return False
    return all(isinstance(key, str) and not hasattr(torch.Tensor, key) for key in state.keys)


NAMES = {
    *CONSTANTS,
    *CONTAINERS,
    *TUPLES,
    *("PROTO", "STOP", "EMPTY_TUPLE", "TUPLE", "GLOBAL", "MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("APPEND", "APPENDS", "BUILD", "SETITEM", "SETITEMS", "REDUCE", "NEWOBJ", "BINPERSID"),
}
KNOWN = {opcode.code: opcode for opcode in pickletools.opcodes if opcode.name in NAMES}
