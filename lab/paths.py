"""Where the lab keeps what it makes. ``lab/models`` is committed; ``lab/.cache`` can be made again."""

from pathlib import Path

LAB = Path(__file__).parent
MODELS = LAB / "models"
LORAS = MODELS / "loras"
CACHE = LAB / ".cache"
RUNS = CACHE / "runs"
CHECKPOINTS = CACHE / "checkpoints"  # the bundle, unpacked
EXTRA_LORAS = CACHE / "loras"  # trained, but not needed by the demo and so not committed
