"""Follows the opcodes of a pickle, without doing what they say, to tell what loading it would call and allocate.

torch unpickles only a few opcodes and calls only a list of functions, but some of these take any amount of time or memory: a
``bytearray(2**31)`` is written in 60 bytes. What is followed here is what ``torch.save`` writes for plain and for sparse tensors.
"""

import pickletools
from dataclasses import dataclass
from typing import IO, Any

MOST = 1_000_000  # opcodes, which take some seconds. A tensor takes about 40 of them
MOST_IN_TUPLE = 1000  # values, with those of tuples in it; tuples of tuples can take longer to hash than anybody waits
CONSTANTS = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
CONTAINERS = {"EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
ORDERED = "collections OrderedDict"
OF_STORAGE = {f"torch._utils _rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3")}
OF_OTHERS = {
    f"torch._utils _rebuild_{kind}" for kind in ("parameter", "parameter_with_state", "sparse_tensor", "meta_tensor_no_storage")
}
REBUILD = OF_STORAGE | OF_OTHERS
CALLED = {ORDERED, "torch Size", "torch device", "torch.serialization _get_layout", *OF_OTHERS}
REBUILD_TYPE = "torch._tensor _rebuild_from_type_v2"  # of a tensor with attributes; calls its first argument
ENCODE = "_codecs encode"  # of bytes; other encodings than this one take time that grows with the square of the length
ENCODINGS = ("latin1", "latin-1")


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
class _Called:
    """The result of a call."""

    name: str


class _Unknown:
    """A value that does not matter."""


UNKNOWN = _Unknown()


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
        self._size, self._stored = size, 0
        self._keys: set[object] = set()
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
            self._stack.append(UNKNOWN)
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
        elif name == "APPEND":
            self.pop()
        elif name == "BUILD":
            self.pop()
            if self._stack[-1:] != [_Called(ORDERED)]:
                raise ValueError("a state of something else than a dict")
        elif name == "APPENDS":
            self._pop_mark()
        elif name == "SETITEM":
            self._check_keys([self.pop(), self.pop()][::-1])
        elif name == "SETITEMS":
            self._check_keys(self._pop_mark())
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

    def _check_keys(self, items: list[Any]) -> None:
        if odd := next((key for key in items[::2] if not isinstance(key, str | bytes | int | float | None)), None):
            raise ValueError(f"a {type(odd).__name__.strip('_').lower()} as a key")

    def _call(self, arguments: Any, function: Any) -> _Called:
        name = function.name if isinstance(function, _Name) else "what is no function"
        given = arguments if isinstance(arguments, _Tuple) else ()
        if name in OF_STORAGE:
            _check_extent(*given[:4])
        elif name == REBUILD_TYPE and len(given) > 2 and given[0] in (_Name(rebuild) for rebuild in REBUILD):
            self._call(given[2], given[0])
        elif not ((name in CALLED and arguments is given) or (name == ENCODE and len(given) == 2 and given[1] in ENCODINGS)):
            raise ValueError(f"a call of {name[:80]}")
        return _Called(name)

    def _check_storage(self, named: Any) -> None:
        """Raise ValueError if the storages so far would be larger than the file. Each is named as often as tensors use it."""
        if not (isinstance(named, _Tuple) and len(named) >= 5 and named[0] in ("storage", b"storage")):
            raise ValueError("a reference to something else than a tensor's values")
        key, count = named[2], named[4]
        if not isinstance(key, str | bytes | int) or not isinstance(count, int) or count < 0:
            raise ValueError("a damaged reference to a tensor's values")
        self._stored += 0 if key in self._keys else count
        self._keys.add(key)
        if max(count, self._stored) > self._size:
            raise ValueError("tensors that are larger than the file")
        self._stack.append(_Storage(count))


def _check_extent(storage: Any = None, offset: Any = None, size: Any = None, stride: Any = None, /) -> None:
    """Raise ValueError if the tensor does not lie within its storage, which torch would enlarge."""
    numbers = [offset, *size, *stride] if isinstance(size, _Tuple) and isinstance(stride, _Tuple) else [None]
    if not isinstance(storage, _Storage) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a damaged tensor")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.count:
        raise ValueError("a tensor that is larger than its values")


NAMES = {
    *CONSTANTS,
    *CONTAINERS,
    *TUPLES,
    *("PROTO", "STOP", "EMPTY_TUPLE", "TUPLE", "GLOBAL", "MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("APPEND", "APPENDS", "BUILD", "SETITEM", "SETITEMS", "REDUCE", "NEWOBJ", "BINPERSID"),
}
KNOWN = {opcode.code: opcode for opcode in pickletools.opcodes if opcode.name in NAMES}
