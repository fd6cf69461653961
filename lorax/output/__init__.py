"""Writes adapters: plain LoRAs and LoRA-X files with their headers, and the files beside them."""

from lorax.output.card import previews, store_preview, store_weight
from lorax.output.plain_lora import DTYPES
from lorax.output.writing import holds_moved, note, path_of, stage

__all__ = ["DTYPES", "holds_moved", "note", "path_of", "previews", "stage", "store_preview", "store_weight"]
