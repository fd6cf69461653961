"""Stores what a user found out about a written adapter beside it: the weight that suits it, and a preview."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lorax.errors import LoraxError
from lorax.files import Staging, read_json
from lorax.formats import sidecars
from lorax.output.cards import WEIGHT, encoded, without_weight_note

PREVIEW = ".preview.png"


def store_weight(adapter: Path, weight: float) -> Path:
    """Store the weight on the adapter's card, which is made if there is none; return the card. All else on it is kept,
    but for the line that says that the weight is the original's.

    Raises LoraxError if the card cannot be read, which is not replaced then.
    """
    path = adapter.with_suffix(sidecars.CARD)
    there = path.exists()
    content: dict[str, Any] = read_json(path, "a card", "utf-8-sig") if there else {}
    if isinstance(described := content.get("description"), str):
        content["description"] = without_weight_note(described)
    _write({path: encoded(content | {WEIGHT: round(weight, 4)})}, overwrite=there)
    return path


def previews(adapter: Path) -> Sequence[Path]:
    """Return the previews beside the adapter that can be drawn anew, so none that move."""
    return [path for suffix in sidecars.PICTURES if (path := adapter.with_suffix(suffix)).is_file()]


def store_preview(adapter: Path, encode: Callable[[str], bytes], overwrite: bool = False) -> Sequence[Path]:
    """Write the adapter's preview; return its files. ``encode`` makes a picture for a file's suffix, such as ``.png``.

    Raises LoraxError if there is a preview, unless ``overwrite``. Then each one there becomes the new picture, since it is
    up to the host which of them it shows.
    """
    there = previews(adapter)
    if there and not overwrite:
        raise LoraxError(f"{there[0]}: exists already. Nothing was replaced.")
    _write({path: encode(path.suffix.lower()) for path in there or [adapter.with_suffix(PREVIEW)]}, overwrite)
    return there or [adapter.with_suffix(PREVIEW)]


def _write(contents: dict[Path, bytes], overwrite: bool) -> None:
    def save(content: bytes) -> Callable[[Path], object]:
        return lambda temporary: temporary.write_bytes(content)

    with Staging() as staging:
        for path, content in contents.items():
            staging.write(path, save(content), overwrite)
