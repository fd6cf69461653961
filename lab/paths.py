"""Where the lab keeps what it makes. ``lab/models`` is committed; ``lab/.cache`` can be made again."""

from pathlib import Path

LAB = Path(__file__).parent
MODELS = LAB / "models"
LORAS = MODELS / "loras"
CACHE = LAB / ".cache"
RUNS = CACHE / "runs"
CHECKPOINTS = CACHE / "checkpoints"  # the bundle, unpacked


def lora_path(style: str, target: str) -> Path:
    return LORAS / f"{style}-{target}.safetensors"
