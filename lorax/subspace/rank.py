"""Rules for the number of leading singular directions that are kept."""

import re
from dataclasses import dataclass

import torch

from lorax.errors import LoraxError


@dataclass(frozen=True)
class RankRule:
    """A rank: a number (``64``), a share of min(m, n) (``25%``) or of the squared singular values (``energy:0.95``)."""

    text: str

    def __post_init__(self) -> None:
        self.of(torch.ones(4))

    def of_size(self, p: int) -> int | None:
        """Return the rank for p singular values, between 1 and p; None if it depends on their values."""
        if found := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,99})?)%", self.text):
            share = float(found[1]) / 100
            if 0 < share <= 1:
                return max(1, min(p, round(share * p)))
        elif re.fullmatch(r"[0-9]{1,9}", self.text) and int(self.text) > 0:
            return min(p, int(self.text))
        return None

    def of(self, S: torch.Tensor) -> int:
        """Return the rank, between 1 and p, for singular values S (p,) in descending order."""
        p = len(S)
        if (rank := self.of_size(p)) is not None:
            return rank
        found = re.fullmatch(r"energy:(0?\.[0-9]{1,99}|1(?:\.0{0,99})?)", self.text)
        if found is None or float(found[1]) == 0:
            raise LoraxError(f"rank {self.text!r}: expected a number such as 64, a share such as 25%, or energy:0.95.")
        energy = S.double().square().cumsum(0)
        reached = energy >= float(found[1]) * energy[-1] * (1 - 1e-12)
        return p - int(reached.sum().item()) + 1


QUARTER = RankRule("25%")
