"""Exceptions with a message for the user, an interruption by the user, and how other errors become one of them."""

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

WORD, TEXT = 400, 4000  # characters of a message at most: of a run without a blank, which a name in a file can be, and in all
AGAIN = "download or copy it again."  # by which all messages about a damaged file end
DAMAGED = f"It is damaged, or not what its name says: {AGAIN}"
SPECIAL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class LoraxError(Exception):
    """A problem with the input. The message names the file and the key, what was expected and what to do.

    It may quote a file, so it is made ``printable`` and long words in it are shortened.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(printable(message)))


class UnsupportedFamily(LoraxError):
    """A base of an unsupported family, or an adapter for one. ``title`` names the family."""

    def __init__(self, message: str, title: str) -> None:
        super().__init__(message)
        self.title = title


class NotAnAdapter(LoraxError):
    """A readable file or folder that holds nothing like an adapter."""


class NotEnoughMemory(LoraxError):
    """The memory is too small for a step. A smaller working set may do."""


class Interrupted(Exception):
    """A stop by the user. No partial output remains."""


@contextmanager
def reading(path: object, kind: str, advice: str = DAMAGED) -> Iterator[None]:
    """Turn whatever goes wrong while ``path`` is read as ``kind`` into a LoraxError that names it.

    Files come from strangers, and the libraries that read them raise nearly everything. So this is the one place where every
    exception is taken for the file's fault; the cause stays with the error. Stops and LoraxErrors pass as they are.
    """
    try:
        yield
    except (LoraxError, Interrupted):
        raise
    except OSError as error:
        raise LoraxError(f"{path}: {_refused(error)}") from error
    except UnicodeEncodeError as error:
        raise LoraxError(f"{path}: cannot be opened, since its name is not valid UTF-8. Rename it.") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise NotEnoughMemory(f"{path}: not enough memory to read it as {kind}. Close other programs.") from error
        raise LoraxError(f"{path}: cannot be read as {kind} ({_reason(error)}). {advice}") from error


def in_words(error: Exception, about: str = "") -> str:
    """Return what a user reads about an error of whatever kind, such as one that has ended a job.

    ``about`` goes before it, such as a file's name, unless the error is a LoraxError, which names what it is about itself.
    """
    if isinstance(error, LoraxError):
        return str(error)
    return about + _in_words(error)


def _in_words(error: Exception) -> str:
    if _is_of_card(error):
        return "The graphics card has not enough memory. Close other programs that use it, and try again."
    if is_out_of_memory(error):
        return "Not enough memory. Close other programs, and try again."
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return shortened(printable(f"{where}{error.strerror}. Check the space on the disk, and the permissions of the folder."))
    kind, why = type(error).__name__, _reason(error)
    why = why if why.startswith(kind) else f"{kind}: {why}"
    return shortened(printable(f"An unexpected error ({why}). Please report it, with what the console says."))


def is_expected(error: Exception) -> bool:
    """Tell whether an error is nobody's mistake here, so that nothing need be logged for a report."""
    return isinstance(error, LoraxError | OSError) or is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out. Python and CUDA have classes for it; others say it in words."""
    named = isinstance(error, MemoryError | NotEnoughMemory) or _is_of_card(error)
    words = ("not enough memory", "can't allocate memory", "Cannot allocate memory", "Storage size calculation overflowed")
    return named or (isinstance(error, Exception) and any(word in str(error) for word in words))


def release(error: BaseException) -> None:
    """Release what the frames of an error, and of those that led to it, still hold, such as tensors on a graphics card."""
    led: BaseException | None = error
    while led is not None:
        traceback.clear_frames(led.__traceback__)
        led = led.__cause__ or led.__context__


def _is_of_card(error: BaseException) -> bool:
    """Tell whether a graphics card's memory ran out. A handle that cannot be made is the first sign of it in cuSOLVER."""
    words = ("out of memory", "_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "cusolverDnCreate")
    named = type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))


def printable(text: str) -> str:
    """Escape what a terminal or a page would obey or could not show: control characters, and names that are not UTF-8."""
    return SPECIAL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shortened(text: str) -> str:
    """Cut the middle out of long words, then out of a long text."""
    words = re.sub(rf"\S{{{WORD + 1},}}", lambda found: _cut(found[0], WORD), text)
    return _cut(words, TEXT)


def _cut(text: str, most: int) -> str:
    left = f"[... {len(text) - most} characters ...]"
    return text if len(text) <= most else text[: most * 3 // 4] + left + text[-most // 4 :]


def _refused(error: OSError) -> str:
    """Say in words why the system does not let a file be read."""
    if isinstance(error, PermissionError):
        return "there is no permission to read it. Change its permissions, or copy it to where you may read it."
    if isinstance(error, FileNotFoundError):
        return "no such file. Check the path."
    return f"cannot be read ({error.strerror or os.strerror(error.errno) if error.errno else _reason(error)}). Check the path."


def _reason(error: BaseException) -> str:
    """Return the first line of what an error says, with its kind where that is all or the words are a bare key."""
    kind = type(error).__name__
    words = next(iter(str(error).strip().splitlines()), "")[:TEXT]
    if isinstance(error, RecursionError):
        return "its values are nested too deep"
    if not words or isinstance(error, LookupError):
        return f"{kind}: {words}".removesuffix(": ")
    return shortened(words)
