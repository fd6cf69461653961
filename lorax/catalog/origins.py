"""Finds the bases that adapters were trained on, and files that the metadata of others name."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from lorax.catalog.known import record, sha256
from lorax.catalog.record import ListedFile, Named, Record, stem

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


class Sure(Enum):
    """How sure it is on which base an adapter was trained."""

    FOUND = "found"  # the adapter names it by its hash or its file's name, or the user has confirmed it
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


class Origins:
    """The origins of many adapters among the same bases. What is asked of the bases is found once, when it is needed."""

    def __init__(self, bases: Iterable[ListedFile]) -> None:
        self._bases = list(bases)
        self._could_be: dict[tuple[str, str], tuple[ListedFile, ...]] = {}

    def of(self, adapter: Record) -> Origin:
        """Return the base on which the adapter was trained, and how sure that is.

        The headers of the bases are read only if nothing but the adapter's family is known.
        """
        if found := self.named(adapter) or self._by_path.get(adapter.confirmed):
            return Origin(Sure.FOUND, found)
        if any(adapter.named_by):
            sha256, name, legacy = adapter.named_by
            return Origin(Sure.MISSING, name=name, hash=sha256 or legacy)
        key = adapter.base_kind, adapter.family
        if key not in self._could_be:
            self._could_be[key] = self._guessed(*key)
        could_be = self._could_be[key]
        return Origin(Sure.GUESS, could_be[0], could_be=could_be) if could_be else Origin(Sure.UNKNOWN)

    def named(self, adapter: Record) -> ListedFile | None:
        """Return the base that the adapter's metadata names by hash or by name; None if it is not listed."""
        sha256, name, legacy = adapter.named_by
        if sha256 and (found := self._by_hash.get(sha256)):
            return found
        if name and (found := self._by_name.get(_name(name))):
            return found
        return self._by_legacy.get(legacy) if legacy else None

    def _guessed(self, kind: str, family: str) -> tuple[ListedFile, ...]:
        usual = [base for one in (kind, *USUAL.get(family, ())) for base in self._bases if _is_of_kind(base, one)]
        related = [base for base in self._bases if family and record(base.path).family == family]
        return tuple(dict.fromkeys((*usual, *related)))

    @cached_property
    def _by_path(self) -> dict[str, ListedFile]:
        return {str(base.path.absolute()): base for base in self._bases}

    @cached_property
    def _by_hash(self) -> dict[str, ListedFile]:
        return {base.sha256: base for base in reversed(self._bases) if base.sha256}

    @cached_property
    def _by_name(self) -> dict[str, ListedFile]:
        return {_name(base.path.name): base for base in reversed(self._bases)}

    @cached_property
    def _by_legacy(self) -> dict[str, ListedFile]:
        return {found: base for base in reversed(self._bases) if (found := record(base.path).legacy_hash)}


def base_of(named: Named, bases: Iterable[ListedFile]) -> ListedFile | None:
    """Return the listed base that the metadata of a transfer names; None if it is not listed, or is another file by now."""
    bases = list(bases)
    if found := next((base for base in bases if base.sha256 == named.sha256), None):
        return found
    return next((base for base in bases if base.sha256 is None and _name(base.path.name) == _name(named.name)), None)


def adapter_of(named: Named, adapters: Iterable[ListedFile]) -> ListedFile | None:
    """Return the listed adapter that the metadata of a transfer names; None if it is not listed, or is another file by now."""
    candidates = (one for one in adapters if one.path.name == named.name and one.path.is_file())
    return next((one for one in candidates if sha256(one.path) == named.sha256), None)


def _is_of_kind(base: ListedFile, kind: str) -> bool:
    usual = CIVITAI_BASES.get(kind)
    return usual is not None and re.fullmatch(usual, re.sub(r"[^a-z0-9]", "", _name(base.path.name))) is not None


def _name(file: str) -> str:
    """Return the name of a model's file in lower case, without folders and suffix."""
    return stem(file.replace("\\", "/").rpartition("/")[2]).lower()
