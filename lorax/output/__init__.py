"""What is written: a plain LoRA or a LoRA-X file, with its header, and the files beside it."""

from lorax.output.plain_lora import DTYPES
from lorax.output.writing import holds_moved, note, path_of, stage

__all__ = ["DTYPES", "holds_moved", "note", "path_of", "stage"]
