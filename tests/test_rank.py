"""How a rank rule is read and what it keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorax.errors import LoraxError
from lorax.subspace import RankRule

S = torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0])  # squares 9, 4, 1, 1, 1: shares .5625, .8125, .875, .9375, 1


@pytest.mark.parametrize(
    ("rule", "rank"),
    [
        ("1", 1),
        ("4", 4),
        ("400", 5),
        ("20%", 1),
        ("40%", 2),
        ("1%", 1),
        ("100%", 5),
        ("62.5%", 3),
        ("energy:0.5", 1),
        ("energy:0.5625", 1),
        ("energy:0.6", 2),
        ("energy:.9", 4),
        ("energy:1", 5),
        ("energy:1.0", 5),
    ],
)
def test_rules(rule: str, rank: int) -> None:
    assert RankRule(rule).of(S) == rank


BAD = ["", "0", "-1", "0%", "101%", "energy:0", "energy:0.0", "energy:1.1", "energy", "1.5", "x", "5 %"]


@pytest.mark.parametrize("rule", BAD)
def test_refused_when_made(rule: str) -> None:
    with pytest.raises(LoraxError, match="expected a number"):
        RankRule(rule)


@given(
    rule=st.one_of(
        st.integers(1, 50).map(str),
        st.integers(1, 100).map(lambda n: f"{n}%"),
        st.floats(0.01, 1).map(lambda share: f"energy:{share:.3f}"),
    ),
    values=st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
)
def test_between_one_and_all(rule: str, values: list[float]) -> None:
    spectrum = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    assert 1 <= RankRule(rule).of(spectrum) <= len(spectrum)


def test_energy_ignores_directions_of_no_size() -> None:
    assert RankRule("energy:1").of(torch.tensor([2.0, 1.0, 0.0, 0.0])) == 2
