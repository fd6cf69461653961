"""A folder with what a kohya user has: a base, a tokenizer, pictures with captions. And sd-scripts' trainers to run on it.

Needs ``LORAX_SD_SCRIPTS_DIR``, a checkout of sd-scripts, and its requirements in the Python that runs the tests.
"""

from __future__ import annotations

import pytest

from tests.kohya.trainers import SCRIPTS, Folder

if not SCRIPTS:
    collect_ignore_glob = ["models.py"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("kohya"))
