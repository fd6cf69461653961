"""Keeps the pictures of the last comparisons in the server, so that one can become a preview."""

import io
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from lorax.errors import LoraxError

MOST = 6  # comparisons
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF"}


class Kept:
    """The pictures of the last comparisons."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, list[Any]] = OrderedDict()

    def keep(self, pictures: list[Any]) -> str:
        """Keep the PIL images of a comparison; return a token for it."""
        token = secrets.token_hex(8)
        self._pictures[token] = pictures
        while len(self._pictures) > MOST:
            self._pictures.popitem(last=False)
        return token

    def encoder(self, token: str, number: int) -> Callable[[str], bytes]:
        """Return what makes a file of a picture for a suffix. Raises LoraxError if the comparison is not kept any more."""
        if token not in self._pictures:
            raise LoraxError("The pictures of this comparison are not kept any more. Draw them again.")
        picture = self._pictures[token][number]

        def encode(suffix: str) -> bytes:
            content = io.BytesIO()
            picture.convert("RGB").save(content, FORMATS[suffix], **_described(picture, suffix))
            return content.getvalue()

        return encode


def _described(picture: Any, suffix: str) -> dict[str, Any]:
    """Return the arguments by which a PNG keeps how the picture was drawn, if the host told it."""
    if suffix != ".png" or "parameters" not in picture.info:
        return {}
    from PIL.PngImagePlugin import PngInfo

    described = PngInfo()
    described.add_text("parameters", picture.info["parameters"])
    return {"pnginfo": described}
