"""The headline, a process for each target: what is run, with how many threads, and what is said if one fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab import __main__ as lab
from lab import data, side_by_side
from lab.__main__ import parser
from lab.eye.again import TARGETS
from lab.zoo import HEADLINE_PAIRS

ON = [target for _, target in HEADLINE_PAIRS]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """Commands with their threads, in place of processes that take minutes. The one on the last target fails."""
    found: list[tuple[list[str], str]] = []

    def stand_in(command: list[str], env: dict[str, str]) -> SimpleNamespace:
        found.append((command, env["OMP_NUM_THREADS"]))
        return SimpleNamespace(returncode=int(ON[-1] in command))

    monkeypatch.setattr(subprocess, "run", stand_in)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    return found


def test_each_target_of_the_headline_has_a_process(
    run: list[tuple[list[str], str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sorted(ON) == sorted({*ON})
    assert {*ON[: len(TARGETS)]} == {*TARGETS}, "what takes longest comes first"
    monkeypatch.setattr(data, "load", lambda *sets: None)
    with pytest.raises(SystemExit, match=f"lab headline failed on {ON[-1]}; "):
        lab.headline(parser().parse_args(["headline", "--results", str(tmp_path)]))
    asked = [parser().parse_args(command[3:]) for command, _ in run]
    assert [one.target for one in asked] == ON
    assert {(one.step, one.results) for one in asked} == {("headline", tmp_path)}
    assert {(command[0], threads) for command, threads in run} == {(sys.executable, "1")}, "six cores for four processes"


def test_a_process_has_its_share_of_the_cores(run: list[tuple[list[str], str]], tmp_path: Path) -> None:
    side_by_side.side_by_side("headline", ON[:2], tmp_path)
    assert {threads for _, threads in run} == {"3"}
