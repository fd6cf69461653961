"""Keeps what verdicts have found of two bases, in memory and, as one entry for both, in the cache."""

import dataclasses
import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorax import __version__
from lorax.checkpoint import Checkpoint, Mismatch
from lorax.files import Cache, Entry, stamp
from lorax.pairing import Pair, pair, shared_inputs
from lorax.reasons import Reason, Why
from lorax.transfer import Action, Cost, Do, Kind, Verdict
from lorax.transfer.judging import Relation

PAIRS = 4  # of bases that are remembered in memory, at some ten megabytes each
MOST = 20_000  # verdicts on adapters between two bases


@dataclass
class Known:
    """What is known of two bases: target layers by source layer, similarities by component, verdicts by an adapter's state.

    ``structures``: the verdicts that headers alone tell, which are those of all adapters of a structure. ``key``: that in the
    cache; empty if nothing is to be kept.
    """

    key: str = ""
    layers: dict[str, str | None] | None = None
    similarities: dict[str, list[float]] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    structures: dict[str, Verdict] = field(default_factory=dict)
    costs: dict[tuple, Cost] = field(default_factory=dict)
    is_new: bool = False  # whether the cache lacks a part of it
    _relation: Relation | None = None

    def relation_of(self, source: Checkpoint, target: Checkpoint) -> Relation:
        """Return the relation of the two bases. Their weights are read if their layers were never paired."""
        if self._relation is None:
            pairs = pair(source, target) if self.layers is None else _pairs(self.layers, source, target)
            self.layers = {layer: found.target for layer, found in pairs.items()}
            self._relation = Relation(pairs, self.similarities)
        return self._relation

    def keep(self, state: str, verdict: Verdict) -> None:
        """Keep a verdict, and of too many the last ones."""
        self._keep(self.verdicts, state, verdict)

    def keep_structure(self, structure: str, verdict: Verdict) -> None:
        """Keep what headers tell of all adapters of a structure."""
        self._keep(self.structures, structure, verdict)

    def _keep(self, verdicts: dict[str, Verdict], key: str, verdict: Verdict) -> None:
        verdicts[key], self.is_new = verdict, True
        if len(verdicts) > MOST:
            del verdicts[next(iter(verdicts))]


class KnownPairs:
    """The pairs of bases of which something is known. ``here``: what else the verdicts depend on, such as the device."""

    def __init__(self, cache: Cache | None, here: str) -> None:
        self._cache, self._here = cache, here
        self._known: OrderedDict[str, Known] = OrderedDict()

    def of(self, source: Path, target: Path) -> Known:
        """Return what is known of two bases; nothing of a base that is a folder, in which a change cannot be seen."""
        states = [state_of(path) for path in (source, target)]
        if not all(states):
            return Known()
        content = json.dumps([__version__, "verdicts that name the device", self._here, *states, *map(_beside, (source, target))])
        key = hashlib.sha256(content.encode()).hexdigest()
        if key not in self._known:
            self._known[key] = self._read(key)
            if len(self._known) > PAIRS:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]

    def save(self, known: Known) -> None:
        """Put what is new into the cache."""
        if known.is_new and known.key and self._cache is not None:
            self._cache.put(known.key, Entry({}, {"known": _written(known)}), remember=False)
        known.is_new = False

    def _read(self, key: str) -> Known:
        try:
            if self._cache is not None and (entry := self._cache.get(key, remember=False)) is not None:
                return _from_text(key, entry.notes["known"])
        except (ValueError, KeyError, TypeError, AttributeError):  # a damaged entry is found again
            pass
        return Known(key)


def state_of(path: Path) -> str:
    """Return a text that differs if the file does; empty for a folder, in which a change cannot be seen, and if there is none."""
    return json.dumps(stamp(path)) if path.is_file() else ""


def _beside(path: Path) -> str:
    """Return the state of the file beside a base that may tell what it predicts."""
    return state_of(path.with_suffix(".yaml"))


def _pairs(layers: dict[str, str | None], source: Checkpoint, target: Checkpoint) -> dict[str, Pair]:
    """Return the pairs of layers that were found earlier. Why they are pairs is not kept: a verdict does not say it."""
    pairs = {}
    for layer, other in layers.items():
        columns = shared_inputs(source, layer, target, other) if other else None
        pairs[layer] = Pair(layer, other, Reason(Why.SAME_NAME if other else Why.NO_SUCH_NAME), columns)
    return pairs


def _written(known: Known) -> str:
    verdicts, structures = (
        {key: dataclasses.asdict(verdict) for key, verdict in found.items()} for found in (known.verdicts, known.structures)
    )
    return json.dumps([known.layers, known.similarities, verdicts, structures])


def _from_text(key: str, text: str) -> Known:
    layers, similarities, *kept = json.loads(text)
    similarities = {str(component): [float(one) for one in found] for component, found in similarities.items()}
    verdicts, structures = ({one: _verdict(found) for one, found in verdicts.items()} for verdicts in kept)
    return Known(key, layers and dict(layers), similarities, verdicts, structures)


def _verdict(found: dict[str, Any]) -> Verdict:
    return Verdict(
        **found
        | {
            "kind": Kind(found["kind"]),
            "actions": tuple(_action(one) for one in found["actions"]),
            "could_be": tuple(found["could_be"]),
            "mismatch": Mismatch(**found["mismatch"]) if found["mismatch"] else None,
        }
    )


def _action(found: dict[str, Any]) -> Action:
    return Action(Do(found["do"]), float(found["seconds"]), int(found["bytes"]), str(found["device"]))
