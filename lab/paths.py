"""Where the lab keeps what it makes. ``lab/models`` is committed; ``lab/.cache`` can be made again."""

from pathlib import Path

from lorax.demo.bundle import STYLE

LAB = Path(__file__).parent
MODELS = LAB / "models"
LORAS = MODELS / "loras"
CACHE = LAB / ".cache"
RUNS = CACHE / "runs"
CHECKPOINTS = CACHE / "checkpoints"  # the bundle, unpacked
CLASSIFIER = LAB / "headline" / "classifier.safetensors"
EXTRA_LORAS = CACHE / "loras"  # trained, but not needed by the demo and so not committed


def lora_path(style: str, target: str) -> Path:
    """Of a style's LoRA trained on ``target``: in ``lab/models`` if the demo draws it."""
    return (LORAS if style == STYLE else EXTRA_LORAS) / f"{style}-{target}.safetensors"
