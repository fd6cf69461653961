"""Runs bases by our own runner, in WebUIs that manage the memory of their models by themselves: Forge, Neo and reForge.

Nothing can be trained through the models that these have loaded. They ship all that the runner needs, tokenizer included.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from modules import devices

from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError
from lorax.models import Model

# The WebUI's module that manages memory, and CLIP's tokenizer in a folder beside it.
MANAGERS = {
    "backend.memory_management": "huggingface/runwayml/stable-diffusion-v1-5/tokenizer",
    "ldm_patched.modules.model_management": "sd1_tokenizer",
}


def manages_memory() -> bool:
    """Tell whether the WebUI manages the memory of its models by itself."""
    return _manager() is not None


class HostRunners:
    """Bases run by ``lorax.runner``, once the WebUI has made room; implements ``lorax.models.Models``."""

    @contextmanager
    def opened(self, base: Checkpoint) -> Iterator[Model]:
        """Run the base in the WebUI's queue. The WebUI loads its own models again when it needs them."""
        found = _manager()
        assert found is not None
        memory, tokenizer = found
        try:
            from lorax.runner import Runners  # diffusers is slow to import, and may be missing
        except ModuleNotFoundError as error:
            raise LoraxError(
                f"{base.path}: cannot be run, since {error.name} is not installed in the WebUI's environment. Install it there, "
                "or choose a method that needs the weights alone."
            ) from error
        memory.unload_all_models()
        memory.soft_empty_cache()
        device = devices.device if devices.device.type == "cuda" else torch.device("cpu")
        with torch.inference_mode(False), Runners(device, tokenizer=tokenizer).opened(base) as runner:
            yield runner


def _manager() -> tuple[ModuleType, Path] | None:
    """Return the WebUI's module that manages memory, and the folder of its tokenizer."""
    for name, tokenizer in MANAGERS.items():
        module = sys.modules.get(name)
        if module is not None and module.__file__ and hasattr(module, "unload_all_models"):
            return module, Path(module.__file__).parent / tokenizer
    return None
