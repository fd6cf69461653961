"""What is known of an adapter before it is moved: its facts, its trigger words, and the base that it says it was trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lorax.checkpoint import families
from lorax.errors import LoraxError
from lorax.files.hashing import legacy_hash
from lorax.formats import kind, open_adapter, ranks, sidecars, trigger_words

# Metadata that names the base: by the file's hash, by its name, by the WebUI's old hash.
NAMING = ("ss_new_sd_model_hash", "ss_sd_model_name", "ss_sd_model_hash")
# What Civitai calls a kind of base -> the usual names of the base itself, letters and digits only; its fine-tunes are not meant.
CIVITAI_BASES = {
    "SD 1.4": r"(sd|stablediffusion)?v?14(full|ema|pruned|fp16|fp32)*",
    "SD 1.5": r"(sd|stablediffusion)?v?15(pruned|ema|only|no|fp16|fp32)*",
    "SDXL 1.0": r"(sd|stablediffusion)?xlbase(v?10?)?(09vae|vaefix|fp16|fp32)*",
    "Pony": r"ponydiffusionv6(xl)?(v6startwiththisone)?",
    "Illustrious": r"illustriousxl(v?\d+)?",
    "NoobAI": r"noobaixl(n|v)?.*",
}


@dataclass(frozen=True)
class Model:
    """A base or an adapter as its host lists it. ``sha256`` is given where the host has it at hand."""

    name: str
    path: Path
    sha256: str | None = None


@dataclass(frozen=True)
class Facts:
    """An adapter in a few words. ``problem``: why it cannot be moved, else empty."""

    rank: str = ""
    format: str = ""
    family: str = ""
    trained_on: str = ""  # file name of the base, as the metadata has it; else its kind, as Civitai calls it
    trigger_words: str = ""
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return "cannot be moved"
        words = [f"rank {self.rank}", self.format, self.family, self.trained_on and f"trained on {self.trained_on}"]
        return ", ".join(filter(None, words))


def facts(adapter: Path) -> Facts:
    """Read from the header and the sidecars, once for each state of these files."""
    return _facts(adapter, adapter.stat().st_mtime_ns if adapter.exists() else 0, sidecars.changes(adapter))


def propose(adapter: Path, bases: Iterable[Model]) -> Model | None:
    """The base that the adapter was trained on if it is among ``bases``: as its metadata says, else as Civitai does."""
    bases = list(bases)
    try:
        if any(open_adapter(adapter).metadata.get(key) for key in NAMING):
            return named(adapter, bases)
    except LoraxError:
        return None
    usual = CIVITAI_BASES.get(sidecars.read(adapter).base)
    return next((base for base in bases if usual and re.fullmatch(usual, re.sub(r"[^a-z0-9]", "", _name(base.path.name)))), None)


def named(adapter: Path, bases: Iterable[Model]) -> Model | None:
    """The base that the adapter's metadata names, by its hash or else by its name, if it is among ``bases``."""
    try:
        metadata = open_adapter(adapter).metadata
    except LoraxError:
        return None
    sha256, name = metadata.get("ss_new_sd_model_hash"), _name(metadata.get("ss_sd_model_name", ""))
    bases = list(bases)
    if found := next((base for base in bases if sha256 and base.sha256 == sha256), None):
        return found
    if found := next((base for base in bases if name and _name(base.path.name) == name), None):
        return found
    legacy = metadata.get("ss_sd_model_hash")
    return next((base for base in bases if legacy and base.path.is_file() and legacy_hash(base.path) == legacy), None)


@lru_cache(maxsize=4096)
def _facts(path: Path, changed: int, beside: tuple[int, ...]) -> Facts:
    try:
        adapter = open_adapter(path)
    except (LoraxError, OSError) as error:
        return Facts(problem=str(error))
    found, hints = sorted(ranks(adapter)), sidecars.read(path)
    family = adapter.family or hints.family or families.told(adapter.metadata)
    return Facts(
        rank=" to ".join(str(rank) for rank in dict.fromkeys((*found[:1], *found[-1:]))),
        format=kind(adapter),
        family=family.title if family else "",
        trained_on=adapter.metadata.get("ss_sd_model_name") or hints.base,
        trigger_words=trigger_words(adapter),
    )


def _name(file: str) -> str:
    name = file.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return (stem if dot and suffix.lower() in ("safetensors", "ckpt", "pt") else name).lower()
