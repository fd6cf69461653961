"""PEFT's configuration, which holds the scales of an adapter's layers."""

import itertools
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorax.checkpoint import families
from lorax.errors import LoraxError
from lorax.formats.patterns import UNDERSTOOD, Table

LARGEST = 2.0**60  # the product of two such values is finite in float32, with room for the sum


class Configuration:
    """The settings of an ``adapter_config.json``, or of a header that diffusers wrote. ``path`` is the adapter's file."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings
        self._by_head: dict[str, dict[str, Any]] = {}  # diffusers keeps one configuration per component: unet.lora_alpha, ...
        for key, value in settings.items():
            head, _, rest = key.partition(".")
            self._by_head.setdefault(head, {})[rest] = value
        self._tables: dict[int, Table] = {}  # by the identity of the settings' own tables, which stay

    def scale(self, name: str, rank: int | None) -> float | None:
        """Return alpha / rank, or rsLoRA's alpha / sqrt(rank), of the layer with this name in the file; None without alpha.

        ``rank`` is that of the layer's factors; if None, the configuration's is used. Raises LoraxError if a value or a pattern
        is damaged.
        """
        settings = ChainMap(self._by_head.get(name.partition(".")[0], {}), self._settings)
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

    def _matching(self, settings: Mapping[str, Any], which: str, name: str, default: object) -> object:
        """Return a layer's value in a table of patterns, of which the first that matches the end of the module's name counts."""
        patterns = settings.get(which) or {}
        if not isinstance(patterns, dict):
            raise LoraxError(f"{self._path}: its configuration's {which} is no table; expected patterns with their values.")
        module = next((name.removeprefix(p) for p in families.PEFT_PREFIXES if name.startswith(p)), name)
        place = self._table(which, patterns).first(module)
        return default if place is None else next(itertools.islice(patterns.values(), place, None))

    def _table(self, which: str, patterns: dict[str, Any]) -> Table:
        """Return the compiled table, which is compiled once: many layers ask for it."""
        if id(patterns) not in self._tables:
            try:
                self._tables[id(patterns)] = Table(patterns)
            except ValueError as error:
                raise LoraxError(f"{self._path}: its configuration's {which}: {error}; expected {UNDERSTOOD}.") from error
        return self._tables[id(patterns)]
