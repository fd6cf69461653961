"""LoRA-X adapters (arXiv 2501.16559): trained in the base's own leading subspaces, and so made to be moved."""

from lorax.training.files import save
from lorax.training.network import ATTENTION, CONVOLUTION, TEXT, Network, Settings, extract, inject

__all__ = ["ATTENTION", "CONVOLUTION", "TEXT", "Network", "Settings", "extract", "inject", "save"]
