"""A share of the campaign of damaged files, with fixed seeds; ``python -m tests.attack`` runs all of it."""

from __future__ import annotations

import logging
import time
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


def test_damaged_files_are_an_error_that_names_them_or_a_right_result(kept: Kept, tmp_path: Path) -> None:
    logging.disable()
    ends = []
    try:
        for number in range(FILES):
            seed, given, done = readers.prepare(kept, number, "tests", tmp_path / "work")
            began = time.process_time()
            end, broken = readers.attempt(kept, seed, given, number)
            assert not broken, f"{number} {seed.name}: {broken} [{done}]"
            assert time.process_time() - began < 10, f"{number} {seed.name}: [{done}]"
            ends.append(end)
    finally:
        logging.disable(logging.NOTSET)
    assert {"error", "result"} == set(ends)
