"""A pair of layers."""

from __future__ import annotations

from dataclasses import dataclass

from lorax.pairing.shared_inputs import Columns
from lorax.reasons import Reason


@dataclass(frozen=True)
class Pair:
    """A source layer, its target layer or None, and the reason. ``columns``: the shared inputs, if not all are shared."""

    source: str
    target: str | None
    reason: Reason
    columns: Columns | None = None
