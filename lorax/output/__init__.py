"""Writes adapters: plain LoRAs and LoRA-X files with their headers, and the files beside them."""

from lorax.output.card import previews, store_preview, store_weight
from lorax.output.naming import Naming, holds_moved
from lorax.output.plain_lora import DTYPES
from lorax.output.writing import note, stage

__all__ = ["DTYPES", "Naming", "holds_moved", "note", "previews", "stage", "store_preview", "store_weight"]
