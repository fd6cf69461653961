"""Where the lab keeps what it makes. ``lab/models`` and ``lab/headline`` are committed; ``lab/.cache`` can be made again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LAB = Path(__file__).parent
ROOT = LAB.parent
DOCS = ROOT / "docs"
MODELS = LAB / "models"  # what the demo needs
LORAS = MODELS / "loras"
HEADLINE = LAB / "headline"  # what the headline table needs besides
CACHE = LAB / ".cache"
RUNS = CACHE / "runs"
CHECKPOINTS = CACHE / "checkpoints"  # the models of both, unpacked
EXTRA_LORAS = CACHE / "loras"  # trained here, or unpacked
RESULTS = LAB / "results"  # what was measured
RERUN = CACHE / "headline"  # the headline's part of it, measured anew
CLASSIFIER = HEADLINE / "judge" / "classifier.safetensors.xz"


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Where to write a file for the length of the block. It appears at ``path`` whole, or not at all if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / path.name
        yield written
        written.replace(path)
