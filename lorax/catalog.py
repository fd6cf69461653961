"""Finds facts about the adapters in a library, and the bases that they were trained on."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path

from lorax.checkpoint import Family, families, open_checkpoint
from lorax.errors import LoraxError
from lorax.files import hashes, legacy_hash
from lorax.formats import AdapterFile, kind, open_adapter, ranks, sidecars, trigger_words

log = logging.getLogger(__name__)

# Metadata that names the base: by the hash of its file, by its name and by the WebUI's old hash.
NAMING = ("ss_new_sd_model_hash", "ss_sd_model_name", "ss_sd_model_hash")
NamedBy = tuple[str, str, str]  # what these say; empty if they do not
# Civitai's name of a kind of base -> pattern of the usual names of the base itself, in letters and digits only.
CIVITAI_BASES = {
    "SD 1.4": r"(sd|stablediffusion)?v?14(full|ema|pruned|fp16|fp32)*",
    "SD 1.5": r"(sd|stablediffusion)?v?15(pruned|ema|only|no|fp16|fp32)*",
    "SDXL 1.0": r"(sd|stablediffusion)?xlbase(v?10?)?(09vae|vaefix|fp16|fp32)*",
    "Pony": r"ponydiffusionv6(xl)?(v6startwiththisone)?",
    "Illustrious": r"illustriousxl(v?\d+)?",
    "NoobAI": r"noobaixl(n|v)?.*",
}
USUAL = {"sd1": ("SD 1.5", "SD 1.4"), "sdxl": ("SDXL 1.0",)}  # the kinds on which most adapters of a family were trained


@dataclass(frozen=True)
class ListedFile:
    """A base or an adapter in a host's library. ``sha256``: that of the file's content, if the host knows it."""

    name: str
    path: Path
    sha256: str | None = None


class Sure(Enum):
    """How sure it is on which base an adapter was trained."""

    FOUND = "found"  # the adapter names it by its hash or its file's name
    GUESS = "guess"  # only its kind or family is known, so the user must confirm it
    MISSING = "missing"  # the adapter names one that is not listed
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Origin:
    """The base on which an adapter was trained, and how sure that is. ``could_be``: for a guess, the likeliest first."""

    sure: Sure
    base: ListedFile | None = None
    name: str = ""  # as the adapter has it, if the base is not listed
    hash: str = ""
    could_be: tuple[ListedFile, ...] = ()


@dataclass(frozen=True)
class Named:
    """A file as the metadata of another one names it. It may have been renamed or removed since."""

    name: str
    sha256: str

    @property
    def title(self) -> str:
        """The name without the suffix."""
        return _stem(self.name)


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

    def __str__(self) -> str:
        if self.problem:
            return "cannot be moved"
        words = [f"rank {self.rank}", self.format, self.family, self.trained_on and f"trained on {self.trained_on}"]
        return ", ".join(filter(None, words))


def facts(adapter: Path) -> Facts:
    """Return the facts in an adapter's header and sidecars. Each state of these files is read once."""
    return _facts(adapter, _changed(adapter), sidecars.changes(adapter))


def origin(adapter: Path, bases: Iterable[ListedFile]) -> Origin:
    """Return the base on which the adapter was trained, and how sure that is.

    The headers of the bases are read only if nothing but the adapter's family is known.
    """
    bases = list(bases)
    named_by, family = _named_by(adapter, _changed(adapter), sidecars.changes(adapter))
    if any(named_by):
        if found := _listed(named_by, bases):
            return Origin(Sure.FOUND, found)
        sha256, name, legacy = named_by
        return Origin(Sure.MISSING, name=name, hash=sha256 or legacy)
    kinds = (sidecars.read(adapter).base, *USUAL.get(family.name if family else "", ()))
    usual = [base for kind in kinds for base in bases if _is_of_kind(base, kind)]
    related = [base for base in bases if family and _family_of(base.path, _changed(base.path)) == family.name]
    could_be = tuple(dict.fromkeys((*usual, *related)))
    return Origin(Sure.GUESS, could_be[0], could_be=could_be) if could_be else Origin(Sure.UNKNOWN)


def named(adapter: Path, bases: Iterable[ListedFile]) -> ListedFile | None:
    """Return the base that the adapter's metadata names by hash or by name; None if it is not listed."""
    return _listed(_named_by(adapter, _changed(adapter), sidecars.changes(adapter))[0], list(bases))


def _listed(named_by: NamedBy, bases: list[ListedFile]) -> ListedFile | None:
    sha256, name, legacy = named_by
    if found := next((base for base in bases if sha256 and base.sha256 == sha256), None):
        return found
    if found := next((base for base in bases if name and _name(base.path.name) == _name(name)), None):
        return found
    return next((base for base in bases if legacy and base.path.is_file() and legacy_hash(base.path) == legacy), None)


def base_of(named: Named, bases: Iterable[ListedFile]) -> ListedFile | None:
    """Return the listed base that the metadata of a transfer names; None if it is not listed, or is another file by now."""
    bases = list(bases)
    if found := next((base for base in bases if base.sha256 == named.sha256), None):
        return found
    return next((base for base in bases if base.sha256 is None and _name(base.path.name) == _name(named.name)), None)


def adapter_of(named: Named, adapters: Iterable[ListedFile]) -> ListedFile | None:
    """Return the listed adapter that the metadata of a transfer names; None if it is not listed, or is another file by now."""
    candidates = (one for one in adapters if one.path.name == named.name and one.path.is_file())
    return next((one for one in candidates if _sha256(one.path, one.path.stat().st_mtime_ns) == named.sha256), None)


@lru_cache(maxsize=64)
def _sha256(path: Path, changed: int) -> str:
    return hashes(path).sha256


@lru_cache(maxsize=16384)
def _named_by(adapter: Path, changed: int, beside: tuple[int, ...]) -> tuple[NamedBy, Family | None]:
    """Return how an adapter's metadata names its base, and the adapter's family."""
    if isinstance(opened := _opened(adapter), str):
        return ("", "", ""), None
    sha256, name, legacy = (opened.metadata.get(key, "") for key in NAMING)
    return (sha256, name, legacy), opened.family or families.named_in(opened.metadata) or sidecars.read(adapter).family


@lru_cache(maxsize=4096)
def _family_of(base: Path, changed: int) -> str:
    """Return the name of a base's family; empty if it cannot be read."""
    try:
        return open_checkpoint(base).family.name
    except (LoraxError, OSError):
        return ""


def _is_of_kind(base: ListedFile, kind: str) -> bool:
    usual = CIVITAI_BASES.get(kind)
    return usual is not None and re.fullmatch(usual, re.sub(r"[^a-z0-9]", "", _name(base.path.name))) is not None


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


@lru_cache(maxsize=4096)
def _facts(path: Path, changed: int, beside: tuple[int, ...]) -> Facts:
    if isinstance(adapter := _opened(path), str):
        return Facts(problem=adapter)
    found, hints = sorted(ranks(adapter)), sidecars.read(path)
    family = adapter.family or hints.family or families.named_in(adapter.metadata)
    return Facts(
        rank=" to ".join(str(rank) for rank in dict.fromkeys((*found[:1], *found[-1:]))),
        format=kind(adapter),
        family=family.title if family else "",
        trained_on=adapter.metadata.get("ss_sd_model_name") or hints.base,
        trigger_words=trigger_words(adapter),
        weight=hints.weight,
        origin=_origin(adapter.metadata),
    )


def _origin(metadata: Mapping[str, str]) -> Provenance | None:
    def named(key: str) -> Named | None:
        return Named(metadata[key], metadata.get(f"{key}_hash", "")) if metadata.get(key) else None

    lora, made_on = named("lorax_source_lora"), named("lorax_source_model")
    if lora is None or made_on is None:  # a LoRA-X adapter that was trained names no LoRA
        return None
    if moved_from := named("lorax_moved_from_model"):  # a LoRA-X file with moved layers: its own source is the target
        return Provenance(lora, moved_from, made_on, metadata.get("lorax_moved_by", ""))
    return Provenance(lora, made_on, named("lorax_target_model"), metadata.get("lorax_method", ""))


def _opened(adapter: Path) -> AdapterFile | str:
    """Return the adapter, or the reason why it cannot be read. Whatever one file holds, the others must be listed."""
    try:
        return open_adapter(adapter)
    except (LoraxError, OSError) as error:
        return str(error)
    except Exception as error:
        log.exception("reading %s", adapter)
        return f"{adapter}: cannot be read, because of an unexpected {type(error).__name__}."


def _name(file: str) -> str:
    """Return the name of a model's file in lower case, without folders and suffix."""
    return _stem(file.replace("\\", "/").rpartition("/")[2]).lower()


def _stem(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.lower() in ("safetensors", "ckpt", "pt") else name
