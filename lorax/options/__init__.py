"""Declares every option once. The command line, the tab, the API and the settings page are made from these classes."""

from lorax.options.moving import DENSE_RANK, Options, Running, without_effect
from lorax.options.option import Option, declared, texts
from lorax.options.saving import LORA, LORAX, Batching, Caching, Saving, check_folder_name

__all__ = [
    "DENSE_RANK",
    "LORA",
    "LORAX",
    "Batching",
    "Caching",
    "Option",
    "Options",
    "Running",
    "Saving",
    "check_folder_name",
    "declared",
    "texts",
    "without_effect",
]
