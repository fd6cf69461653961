"""A share of the campaign of damaged files, with fixed seeds; ``python -m tests.attack`` runs all of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.attack import readers
from tests.attack.seeds import Kept

FILES = 200


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("attack") / "seeds")


def test_good_files_are_read(kept: Kept) -> None:
    """Else the campaign would prove nothing."""
    for seed in kept.seeds:
        assert readers.attempt(kept, seed, seed.folder / seed.given, 0) == ("result", ""), seed.name


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is bounded and measured as Linux does it")
def test_damaged_files_are_an_error_that_names_them_or_a_right_result_in_bounded_time_and_memory(
    kept: Kept, tmp_path: Path
) -> None:
    from tests.attack.pool import Pool

    pool = Pool(kept, "tests", tmp_path, iter(range(FILES)))
    pool.start()
    ends = dict(pool.ends())
    assert len(ends) == FILES
    assert [f"{number} {end.reader}: {end.what}" for number, end in ends.items() if end.kind == "violation"] == []
    assert {end.kind for end in ends.values()} == {"error", "result"}
