"""A pytest plugin: modules of tests that need a package of the extras are skipped in an environment that lacks it.

The WebUI's own environments have few of them. ``tests/conftest.py`` takes its hook from here.
"""

from __future__ import annotations

import re
from collections.abc import Generator

import pytest

OPTIONAL = ("diffusers", "hypothesis", "jinja2", "lycoris", "peft", "resvg_py", "rich", "tokenizers", "transformers")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    missing = re.search(r"^E +ModuleNotFoundError: No module named '(\w+)", str(report.longrepr), re.MULTILINE)
    if report.outcome == "failed" and missing and missing[1] in OPTIONAL:
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"needs {missing[1]}")
    return report
