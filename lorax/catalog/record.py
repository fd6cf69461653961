"""What is known of a file, as data."""

import dataclasses
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

NamedBy = tuple[str, str, str]  # a base by the hash of its file, by its name and by the WebUI's old hash; empty if not told


@dataclass(frozen=True)
class ListedFile:
    """A base or an adapter in a host's library. ``sha256``: that of the file's content, if the host knows it."""

    name: str
    path: Path
    sha256: str | None = None


@dataclass(frozen=True)
class Named:
    """A file as the metadata of another one names it. It may have been renamed or removed since."""

    name: str
    sha256: str

    @property
    def title(self) -> str:
        """The name without the suffix."""
        return stem(self.name)


@dataclass(frozen=True)
class Provenance:
    """What a transfer made a file of. ``target``: None for a LoRA-X file, which is fitted to whatever is loaded."""

    lora: Named
    source: Named
    target: Named | None
    method: str


@dataclass(frozen=True)
class Facts:
    """An adapter in a few words. ``problem``: the reason why it cannot be moved, or empty."""

    rank: str = ""
    format: str = ""
    family: str = ""
    trained_on: str = ""  # file name of the base according to the metadata, or else its kind according to Civitai
    trigger_words: str = ""
    weight: float | None = None  # that the card prefers
    problem: str = ""
    origin: Provenance | None = None  # of a file that a transfer wrote

    @property
    def is_moved(self) -> bool:
        """Whether a transfer made the file for one base."""
        return self.origin is not None and self.origin.target is not None

    def __str__(self) -> str:
        if self.problem:
            return "cannot be moved"
        where = self.trained_on and f"trained on {self.trained_on}"
        if self.origin and self.origin.target:
            where = f"made from {self.origin.lora.title} for {self.origin.target.title}"
        words = [f"rank {self.rank}", self.format, self.family, where]
        return ", ".join(filter(None, words))


class FileKind(str, Enum):
    """What a file of tensors is."""

    BASE = "base"
    ADAPTER = "adapter"  # also one that cannot be read
    OTHER = "other"  # a readable file that is neither
    GONE = "gone"


@dataclass(frozen=True)
class Record:
    """All that is known of a model's file by its header and the files beside it.

    ``structure``: alike for adapters whose tensors have the same names, types and shapes, and that are for a base which predicts
    the same; empty if more than that decides where the adapter's layers go.
    """

    kind: FileKind
    facts: Facts = Facts()
    named_by: NamedBy = ("", "", "")  # of an adapter
    family: str = ""  # its name, if known
    base_kind: str = ""  # on which an adapter was trained, in Civitai's words
    structure: str = ""
    unsupported: str = ""  # what a base of an unsupported family is, or an adapter is for
    legacy_hash: str = ""  # of a base's file, by which older metadata names it
    sha256: str = ""  # of the file's content, once somebody wanted to know it
    confirmed: str = ""  # the path of the base that the user says an adapter was trained on

    @property
    def is_lasting(self) -> bool:
        """Whether it stays true of the file: what could not be read for want of memory or permission may be read later."""
        return not self.facts.problem or bool(self.unsupported) or self.kind in (FileKind.BASE, FileKind.OTHER)

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> "Record":
        """Return what ``as_json`` has made. Raises ValueError, TypeError, KeyError or AttributeError for anything else."""
        facts = found["facts"]
        facts["origin"] = facts["origin"] and _provenance(**facts["origin"])
        sha256, name, legacy = found["named_by"]
        return cls(**found | {"kind": FileKind(found["kind"]), "facts": Facts(**facts), "named_by": (sha256, name, legacy)})


def stem(name: str) -> str:
    """Return a model's file name without its suffix."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.lower() in ("safetensors", "ckpt", "pt") else name


def _provenance(lora: Any, source: Any, target: Any, method: str) -> Provenance:
    return Provenance(Named(**lora), Named(**source), target and Named(**target), method)
