"""Reads what is known of a file from its header and the files beside it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorax.catalog.record import Facts, FileKind, Named, NamedBy, Provenance, Record
from lorax.checkpoint import families, open_checkpoint, prediction_in
from lorax.errors import LoraxError, NotAnAdapter, UnsupportedFamily, in_words
from lorax.files import Outline, legacy_hash, outline
from lorax.formats import kind, loraxfile, open_adapter, ranks, sidecars, trigger_phrase

log = logging.getLogger(__name__)

NAMING = ("ss_new_sd_model_hash", "ss_sd_model_name", "ss_sd_model_hash")  # metadata that names the base; see ``NamedBy``
TELLING = {loraxfile.MARK, "lora_adapter_metadata"}  # metadata that tells of the layers, too, and is read with them
MOST = 10_000  # structures that are remembered


@dataclass(frozen=True)
class Structure:
    """What the names and shapes of an adapter's tensors tell. Thousands of adapters have the same few dozen."""

    family: str
    format: str
    rank: str


_structures: dict[str, Structure] = {}  # by an outline's digest


def read(path: Path) -> Record:
    """Return what is known of the file. Whatever it holds is told by the record: the others must be listed."""
    try:
        seen = outline(path) if path.suffix.lower() == ".safetensors" else None
        if seen and seen.digest in _structures and not TELLING & seen.metadata.keys():
            return _adapter(path, seen.metadata, _structures[seen.digest], seen)
        return _opened(path, seen)
    except UnsupportedFamily as error:  # an adapter for one
        return Record(FileKind.ADAPTER, Facts(problem=str(error)), unsupported=error.title)
    except (LoraxError, OSError) as error:
        return _no_adapter(path, error)
    except Exception as error:
        log.exception("reading %s", path)
        return _unreadable(path, error)


def _opened(path: Path, seen: Outline | None) -> Record:
    opened = open_adapter(path)
    found, family = sorted(ranks(opened)), opened.family
    rank = " to ".join(str(rank) for rank in dict.fromkeys((*found[:1], *found[-1:])))
    structure = Structure(family.name if family else "", kind(opened), rank)
    if seen is None or TELLING & seen.metadata.keys() or opened.header is not None:
        return _adapter(path, opened.metadata, structure, None)
    if len(_structures) >= MOST:
        _structures.clear()
    _structures[seen.digest] = structure
    return _adapter(path, seen.metadata, structure, seen)


def _adapter(path: Path, metadata: Mapping[str, str], structure: Structure, seen: Outline | None) -> Record:
    hints = sidecars.read(path)
    family = families.of_name(structure.family) or families.named_in(metadata) or hints.family
    facts = Facts(
        rank=structure.rank,
        format=structure.format,
        family=family.title if family else "",
        trained_on=sidecars.text(metadata.get("ss_sd_model_name")) or hints.base,
        trigger_words=hints.trigger_words or trigger_phrase(metadata),
        weight=hints.weight,
        origin=_origin(metadata),
    )
    return Record(
        FileKind.ADAPTER,
        facts,
        _named_by(metadata),
        family.name if family else "",
        hints.base,
        f"{seen.digest} {prediction_in(metadata) or ''}" if seen else "",
    )


def _no_adapter(path: Path, problem: Exception) -> Record:
    """Return what is known of a file that is no adapter that can be moved. It may be a base."""
    facts = Facts(problem=str(problem))
    try:
        base = open_checkpoint(path)
    except UnsupportedFamily as error:
        return Record(FileKind.BASE, facts, unsupported=error.title)
    except (LoraxError, OSError):
        kind = FileKind.OTHER if isinstance(problem, NotAnAdapter) else FileKind.ADAPTER
        return Record(kind, facts, base_kind=sidecars.read(path).base)
    except Exception as error:
        log.exception("reading %s", path)
        return _unreadable(path, error)
    return Record(FileKind.BASE, facts, family=base.family.name, legacy_hash=legacy_hash(path) if path.is_file() else "")


def _unreadable(path: Path, error: Exception) -> Record:
    return Record(FileKind.ADAPTER, Facts(problem=f"{path}: cannot be read. {in_words(error)}"))


def _named_by(metadata: Mapping[str, str]) -> NamedBy:
    sha256, name, legacy = (metadata.get(key, "") for key in NAMING)
    return sha256, name, legacy


def _origin(metadata: Mapping[str, str]) -> Provenance | None:
    def named(key: str) -> Named | None:
        return Named(metadata[key], metadata.get(f"{key}_hash", "")) if metadata.get(key) else None

    lora, made_on = named("lorax_source_lora"), named("lorax_source_model")
    if lora is None or made_on is None:  # a LoRA-X adapter that was trained names no LoRA
        return None
    if moved_from := named("lorax_moved_from_model"):  # a LoRA-X file with moved layers: its own source is the target
        return Provenance(lora, moved_from, made_on, metadata.get("lorax_moved_by", ""))
    return Provenance(lora, made_on, named("lorax_target_model"), metadata.get("lorax_method", ""))
