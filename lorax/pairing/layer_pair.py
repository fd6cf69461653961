"""A layer of one base and the layer of another that it feeds."""

from __future__ import annotations

from dataclasses import dataclass

from lorax.pairing.shared_inputs import Columns
from lorax.reasons import Reason


@dataclass(frozen=True)
class Pair:
    """A source layer, the target layer that it feeds (None: there is none) and the reason.

    ``columns``: the inputs that mean the same to both layers, if only some do. Only the delta on these is moved.
    """

    source: str
    target: str | None
    reason: Reason
    columns: Columns | None = None
