"""Declares every option once. The command line, the tab, the API and the settings page are made from these classes."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lorax.errors import LoraxError, printable
from lorax.methods import METHODS, described
from lorax.pairing import PAIRINGS
from lorax.subspace import RankRule

AUTO_RANK = "energy:0.95"
DENSE_RANK = 128  # largest rank of a delta that is not low-rank in its file, unless the user gives one
LARGEST = 10_000_000  # of a rank and of steps: more is a slip
PAIRING_WORDS = ("by name where the structures agree, else by weights", "by name", "by how alike the weights are")
SHARED = ("method", "pairing", "device", "max_rank")  # options that every method has
LORA, LORAX = "lora", "lora-x"
KINDS = {
    LORA: "a plain LoRA for the target, which works everywhere",
    LORAX: "a LoRA-X file, which fits itself to the checkpoint that is loaded; needs this extension to be used",
}
NAME_FIELDS = ("lora", "target", "source", "method")  # of the name of a written file
NO_FILE_NAME = '<>:"/\\|?*'  # characters that one of the systems has in no file name
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # names that Windows keeps for devices
DTYPES = {"fp16": "half precision, the usual size", "bf16": "half precision, wider range", "fp32": "full precision, large"}


@dataclass(frozen=True)
class Option:
    """An option: a declaration's field, with its label, help and limits. ``name``, ``kind`` and ``default`` are the field's."""

    label: str
    help: str  # for artists
    offered: Callable[[], Mapping[str, str]] | None = None  # returns meanings by value
    example: str | None = None
    placeholder: str = ""  # in an empty text field; none: the example
    bounds: tuple[float, float] | None = None
    lines: bool = False  # whether the value is a list of texts, one per line
    name: str = ""
    kind: type = str
    default: Any = None

    @property
    def choices(self) -> Mapping[str, str] | None:
        """The meanings of the values by value; None if values are free, like ``example`` or within ``bounds``."""
        return self.offered() if self.offered else None

    @property
    def step(self) -> float:
        """The step of a slider between the bounds."""
        return 1 if self.kind is int else 0.01

    @property
    def described(self) -> str:
        """The help with the meanings of the choices."""
        listed = "; ".join(f"{value}: {meaning}" for value, meaning in (self.choices or {}).items())
        return self.help + (f" ({listed})" if listed else "")

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def parse(self, value: Any) -> Any:
        """Convert the value of a text field, a slider or a settings page. Raises LoraxError if the option does not accept it."""
        if value is None or (isinstance(value, str) and not value.strip()):
            return self.default
        if self.lines:
            return texts(value.splitlines())
        try:
            return self.kind(value.strip() if isinstance(value, str) else value)
        except (ValueError, OverflowError, TypeError):
            raise LoraxError(f"{self.label} {str(value)[:40]!r}: expected a number.") from None


def texts(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the lines that are not empty, without the spaces around them."""
    return tuple(text for line in lines if (text := line.strip()))


def declared(declaration: type) -> list[Option]:
    """Return the options of a declaration, in their order."""
    options = []
    for field in dataclasses.fields(declaration):
        kind = int if field.type == (int | None) else field.type
        options.append(dataclasses.replace(field.metadata["option"], name=field.name, kind=kind, default=field.default))
    return options


def _option(default: Any, label: str, help: str, **shown: Any) -> Any:
    return dataclasses.field(default=default, metadata={"option": Option(label, help, **shown)})


@dataclass(frozen=True)
class Options:
    """The options of a transfer. Raises LoraxError if a value is not valid."""

    method: str = _option("auto", "Method", "How each layer is carried over", offered=described)
    rank: str = _option(
        "auto",
        "Kept rank",
        "How many of a checkpoint's leading directions count as its style; methods that project keep only those",
        example="auto|N|25%|energy:0.95",
        placeholder="auto; or a number, or a share such as 25%",
    )
    threshold: float = _option(
        0.8,
        "Similarity threshold",
        "For lorax and prolora: layers that are less alike than this in the two checkpoints are left out; 0 moves all of them",
        bounds=(0, 1),
    )
    pairing: str = _option(
        "auto",
        "Pairing",
        "Which layer of the source feeds which layer of the target",
        offered=lambda: dict(zip(PAIRINGS, PAIRING_WORDS, strict=True)),
    )
    device: str = _option(
        "auto",
        "Device",
        "What computes; auto is the graphics card where there is one, and mps uses the CPU, as Apple's cards lack the precision",
        example="auto|cpu|cuda|mps",
    )
    max_rank: int | None = _option(
        None,
        "Largest rank",
        f"Rank of the written LoRA at most, for a smaller file; empty: as the method gives, and {DENSE_RANK} for formats other "
        "than LoRA, whose layers can be of any rank",
        example="N",
        placeholder="no limit",
    )

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise LoraxError(f"method {self.method!r}: expected one of {', '.join(METHODS)}.")
        _ = self.rule  # raises LoraxError if ``rank`` is not valid
        if not 0 <= self.threshold <= 1:
            raise LoraxError(f"threshold {self.threshold}: expected a similarity between 0 and 1.")
        _check_number("max rank", self.max_rank)

    @cached_property
    def rule(self) -> RankRule:
        return RankRule(AUTO_RANK if self.rank == "auto" else self.rank)


@dataclass(frozen=True)
class Running:
    """The options of methods that run the models. Raises LoraxError if a value is not valid."""

    pictures: int = _option(
        384,
        "Pictures",
        "How many pictures are drawn with the LoRA, to learn from: more take longer, and show more of it. Bridge takes fewer of "
        "large pictures, at least 8",
        bounds=(16, 4096),
    )
    steps: int | None = _option(
        None,
        "Training steps",
        "For Refine alone: how many it trains at most; empty: what served best, few between close relatives, else many",
        example="N",
        placeholder="what served best",
    )
    lora_rank: int | None = _option(
        None,
        "Rank of the new LoRA",
        "How much each layer of it can hold, within the largest rank; empty: as much as in the original LoRA",
        example="N",
        placeholder="as in the LoRA",
    )
    trigger: str = _option(
        "",
        "Trigger words",
        "They lead every second caption, so that what hides behind them is drawn; empty: those that the LoRA's card or metadata "
        "names, else the tag that it was trained on most",
        example="words",
        placeholder="those that the LoRA names",
    )
    captions: tuple[str, ...] = _option(
        (),
        "Captions",
        "What the source draws, a caption a line; empty: plain captions of our own. Name what the LoRA is for, if that is narrow",
        example="FILE",
        placeholder="one a line",
        lines=True,
    )

    def __post_init__(self) -> None:
        for option in declared(Running):
            if option.bounds and not option.bounds[0] <= (given := getattr(self, option.name)) <= option.bounds[1]:
                low, high = option.bounds
                raise LoraxError(f"{option.name} {_in_digits(given)}: expected a whole number from {low} to {high}.")
        for name in ("steps", "lora_rank"):
            _check_number(name, getattr(self, name))
        if blank := [number for number, caption in enumerate(self.captions, 1) if not caption.strip()]:
            raise LoraxError(f"captions: number {blank[0]} of {len(self.captions)} is empty. Leave it out, or give it words.")


def _check_number(name: str, number: int | None) -> None:
    if number is not None and not (isinstance(number, int) and 1 <= number <= LARGEST):
        raise LoraxError(f"{name} {_in_digits(number)}: expected a whole number of at least 1, and of at most {LARGEST}.")


def _in_digits(number: float) -> str:
    """The number, unless it has so many digits that Python does not print it."""
    return str(number) if isinstance(number, float) or abs(number) < 10**20 else "of many digits"


def without_effect(options: Options, running: Running) -> list[Option]:
    """Return the options that were changed and that the method does not have."""
    changed = [one for given in (options, running) for one in declared(type(given)) if getattr(given, one.name) != one.default]
    return [one for one in changed if one.name not in (*SHARED, *METHODS[options.method].options)]


@dataclass(frozen=True)
class Saving:
    """The options of the written adapter. Raises LoraxError if a value is not valid."""

    save_as: str = _option(LORA, "Save as", "What kind of file is written", offered=lambda: KINDS)
    dtype: str = _option("fp16", "Precision", "How the numbers are stored", offered=lambda: DTYPES)
    overwrite: bool = _option(False, "Replace", "Replace the output and the report if they exist")
    strength: float = _option(
        1.0,
        "Strength",
        "What is written is multiplied by this, so that the LoRA is weaker or stronger at weight 1; for a plain LoRA only",
        bounds=(0.05, 2),
    )
    name: str = _option(
        "",
        "Output name",
        "May hold {lora}, {target}, {source} and {method}; empty: {lora}-{target}, and {lora}-lorax for a LoRA-X file",
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
        return re.sub(r"\{(\w+)\}", lambda found: fields[found[1]], pattern)


@dataclass(frozen=True)
class Batching:
    """The options of a batch."""

    skip_existing: bool = _option(
        False, "Skip existing", "Leave the files that are there already as they are, and make those that are missing"
    )


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
    if DEVICES.match(name):
        raise LoraxError(f"name {name!r}: Windows keeps it for a device. Choose another name.")


@dataclass(frozen=True)
class Caching:
    """The options of a host's cache, which holds fitted LoRA-X files and intermediate results of the methods."""

    cache_folder: str = _option(
        "",
        "Cache folder",
        "Where fitted LoRA-X files are kept, what is found of checkpoints, what Bridge and Refine have drawn, and what a Refine "
        "that was stopped goes on from; empty: lorax in the WebUI's own cache folder",
        example="a folder",
    )
    cache_size: int = _option(
        4,
        "Cache size in GB",
        "What was used longest ago goes first, and what is larger by itself is not kept; 0 keeps nothing on the disk",
        bounds=(0, 64),
    )
    cache_memory: int = _option(
        256, "Memory limit in MB", "Fitted LoRA-X files that are kept in memory beside; 0 keeps none there", bounds=(0, 4096)
    )
