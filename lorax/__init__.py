"""LoRA-X: move a LoRA from one base checkpoint to another, without training and without data (arXiv 2501.16559)."""

__version__ = "0.1.3"  # what is cached is kept by it, so it changes whenever a method gives another result
