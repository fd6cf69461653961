"""Declares the options of what is written: the adapter, a batch of them, and the cache."""

import re
from dataclasses import dataclass

from lorax.errors import LoraxError, printable
from lorax.options.option import option

LORA, LORAX = "lora", "lora-x"
KINDS = {
    LORA: "a plain LoRA for the target, which works everywhere",
    LORAX: "a LoRA-X file, which fits itself to the checkpoint that is loaded; needs this extension to be used",
}
NAME_FIELDS = ("lora", "target", "source", "method")  # of the name of a written file
LONGEST_FOLDER = 255  # bytes
NO_FILE_NAME = '<>:"/\\|?*'  # characters that one of the systems has in no file name
DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d¹²³]) *(\.|$)", re.IGNORECASE
)  # names that Windows keeps for devices
DTYPES = {"fp16": "half precision, the usual size", "bf16": "half precision, wider range", "fp32": "full precision, large"}


@dataclass(frozen=True)
class Saving:
    """The options of the written adapter. Raises LoraxError if a value is not valid."""

    save_as: str = option(LORA, "Save as", "What kind of file is written", offered=lambda: KINDS)
    dtype: str = option("fp16", "Precision", "How the numbers are stored", offered=lambda: DTYPES)
    overwrite: bool = option(False, "Replace", "Replace the output and the report if they exist")
    strength: float = option(
        1.0,
        "Strength",
        "What is written is multiplied by this, so that the LoRA is weaker or stronger at weight 1; for a plain LoRA only",
        bounds=(0.05, 2),
    )
    name: str = option(
        "",
        "Output name",
        "May hold {lora}, {target}, {source} and {method}; empty: {lora}-{target}; for a LoRA-X file {lora}-lorax, "
        "after Refine or Bridge {lora}-{target}-lorax",
        example="{lora}-{target}",
    )

    def __post_init__(self) -> None:
        if self.save_as not in KINDS:
            raise LoraxError(f"save as {self.save_as!r}: expected one of {', '.join(KINDS)}.")
        if self.dtype not in DTYPES:
            raise LoraxError(f"dtype {self.dtype!r}: expected one of {', '.join(DTYPES)}.")
        if not 0.05 <= self.strength <= 2:
            raise LoraxError(f"strength {self.strength}: expected a number from 0.05 to 2.")
        if self.strength != 1 and self.save_as == LORAX:
            raise LoraxError(
                f"strength {self.strength}: a LoRA-X file keeps its full strength, since what a checkpoint has of it already is "
                "measured when it is fitted. Give the strength as the weight in the prompt, or save a plain LoRA."
            )
        _check_name(self.name)

    def file_name(self, usual: str, **fields: str) -> str:
        """Return the name of a file, without its ending, from the values of ``NAME_FIELDS``; ``usual`` if no name is given."""
        pattern = self.name.strip().removesuffix(".safetensors") or usual
        found = re.sub(r"\{(\w+)\}", lambda found: fields[found[1]], pattern)
        _check_is_free_name(found)
        return found


@dataclass(frozen=True)
class Batching:
    """The options of a batch."""

    skip_existing: bool = option(
        False, "Skip existing", "Leave the files that are there already as they are, and make those that are missing"
    )


def check_folder_name(name: str) -> None:
    """Raise LoraxError if a system can have no folder of this name."""
    if set(name) & set(NO_FILE_NAME) or len(name.encode()) > LONGEST_FOLDER:
        raise LoraxError(
            f"subfolder {name!r}: expected a name of at most {LONGEST_FOLDER} bytes without {NO_FILE_NAME}, as every system can "
            "have it."
        )
    _check_is_free_name(name)


def _check_name(name: str) -> None:
    """Raise LoraxError if a name has fields that are not known, or is no name of a file on every system."""
    fixed = re.sub(r"\{(" + "|".join(NAME_FIELDS) + r")\}", "", name)
    known = ", ".join(f"{{{field}}}" for field in NAME_FIELDS)
    if unknown := re.search(r"\{[^{}]*\}|[{}]", fixed):
        raise LoraxError(f"name {name!r}: {unknown[0]} is not known. Use {known}, and no other braces.")
    if set(fixed) & set(NO_FILE_NAME) or printable(fixed) != fixed or "\n" in fixed:
        raise LoraxError(
            f"name {name!r}: expected a file name without folders, without control characters and without {NO_FILE_NAME}, as "
            "every system can have it. Name the folder as the subfolder, or as --output."
        )
    if name:
        _check_is_free_name(name.strip())


def _check_is_free_name(name: str) -> None:
    """Raise LoraxError if a system keeps the name for itself."""
    if DEVICES.match(name):
        raise LoraxError(f"name {name!r}: Windows keeps it for a device. Choose another name.")
    if not name.strip(". "):
        raise LoraxError(f"name {name!r}: holds dots and spaces alone. Choose another name.")


@dataclass(frozen=True)
class Caching:
    """The options of a host's cache, which holds fitted LoRA-X files and intermediate results of the methods."""

    cache_folder: str = option(
        "",
        "Cache folder",
        "Where fitted LoRA-X files are kept, what is found of checkpoints, what Bridge and Refine have drawn, and what a Refine "
        "that was stopped goes on from; empty: lorax in the WebUI's own cache folder",
        example="a folder",
    )
    cache_size: int = option(
        4,
        "Cache size in GB",
        "What was used longest ago goes first, and what is larger by itself is not kept; 0 keeps nothing on the disk",
        bounds=(0, 64),
    )
    cache_memory: int = option(
        256, "Memory limit in MB", "Fitted LoRA-X files that are kept in memory beside; 0 keeps none there", bounds=(0, 4096)
    )
