"""PEFT's configuration, which holds the scales of an adapter's layers."""

import json
import re
from pathlib import Path
from typing import Any

from lorax.checkpoint import families
from lorax.errors import LoraxError

LARGEST = 2.0**60  # the product of two such values is finite in float32, with room for the sum


class Configuration:
    """The settings of an ``adapter_config.json``, or of a header that diffusers wrote. ``path`` is the adapter's file."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings

    def scale(self, name: str, rank: int | None) -> float | None:
        """Return alpha / rank, or rsLoRA's alpha / sqrt(rank), of the layer with this name in the file; None without alpha.

        ``rank`` is that of the layer's factors; if None, the configuration's is used. Raises LoraxError if a value or a pattern
        is damaged.
        """
        head = name.partition(".")[0] + "."  # diffusers has one configuration per component: unet.lora_alpha, ...
        settings = self._settings | {k.removeprefix(head): v for k, v in self._settings.items() if k.startswith(head)}
        key = next((key for key in ("lora_alpha", "alpha") if key in settings), None)  # LoRA's; LoHa's and LoKr's
        if key is None:
            return None
        alpha = self._number(name, "alpha", self._matching(settings, "alpha_pattern", name, settings[key]))
        if rank is None:
            rank = int(self._number(name, "rank", self._matching(settings, "rank_pattern", name, settings.get("r"))))
        return alpha / (rank**0.5 if settings.get("use_rslora") else rank)

    def _number(self, name: str, what: str, value: object) -> float:
        least = 1 if what == "rank" else -LARGEST
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= LARGEST:
            return float(value)
        raise LoraxError(
            f"{self._path}: {name}: its configuration gives the {what} {str(value)[:40]!r}; "
            f"expected a number up to {LARGEST:.0e}."
        )

    def _matching(self, settings: dict[str, Any], which: str, name: str, default: object) -> object:
        """Return a layer's value in a table of patterns, of which the first that matches the end of the module's name counts."""
        patterns = settings.get(which) or {}
        module = next((name.removeprefix(p) for p in families.PEFT_PREFIXES if name.startswith(p)), name)
        try:
            if isinstance(patterns, dict):
                return next((value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", module)), default)
        except re.error as error:
            raise LoraxError(f"{self._path}: its configuration's {which}: {error}; expected regular expressions.") from error
        raise LoraxError(f"{self._path}: its configuration's {which} is no table; expected patterns with their values.")


def parse(path: Path, text: str | bytes) -> dict[str, Any]:
    """Return the settings in ``text``, which comes from ``path``. Raises LoraxError if it is not a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:  # of JSON or of UTF-8
        raise LoraxError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise LoraxError(f"{path}: expected a JSON object.")
    return value
