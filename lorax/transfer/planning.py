"""Plans a transfer: which layer of the adapter feeds which layer of the target."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lorax.checkpoint.checkpoint import Checkpoint
from lorax.checkpoint.layer_names import component_of
from lorax.checkpoint.prediction import mismatch_warning, prediction_in
from lorax.formats import AdapterFile
from lorax.low_rank import LowRank
from lorax.options import DENSE_RANK, Options, Running
from lorax.pairing.layer_pair import Pair
from lorax.pairing.pairs import pair
from lorax.pairing.vectors import Vector, pair_vectors
from lorax.transfer.report import Report

if TYPE_CHECKING:
    pass

Progress = Callable[[int, int, str], None]  # done, total, what is being worked on; raises to stop


@dataclass(frozen=True)
class Plan:
    """Every layer of the adapter with its pair, or with the reason why it has none."""

    adapter: AdapterFile
    source: Checkpoint
    target: Checkpoint
    options: Options
    pairs: dict[str, Pair | None]  # name in the adapter -> pair; None where the source has no such layer
    of_bases: dict[str, Pair]  # source layer -> its pair, of all
    vectors: list[Vector]
    running: Running = field(default_factory=Running)

    def limit(self, name: str) -> int | None:
        """The largest rank that the layer is written with; None: any. A delta that is not low-rank in the file becomes so.

        That is, unless its bias goes along, for which it is written whole.
        """
        free = self.adapter.layers[name].is_low_rank or any(vector.layer == name and vector.target for vector in self.vectors)
        return self.options.max_rank or (None if free else DENSE_RANK)

    def prediction(self, base: Checkpoint) -> str | None:
        """What the base predicts, as it says itself, or as the adapter says of its source; None where neither does."""
        return base.prediction or (prediction_in(self.adapter.metadata) if base is self.source else None)

    @property
    def mismatch(self) -> str | None:
        """What is to be said where source and target do not predict the same."""
        source, target = (self.prediction(base) for base in (self.source, self.target))
        return mismatch_warning(source, self.source.path.name, target, self.target.path.name)

    @property
    def within_family(self) -> bool:
        """Otherwise embeddings, norms and biases mean nothing to the target."""
        return self.source.family == self.target.family

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Bundled ones, which go along as they are."""
        return tuple(self.adapter.embeddings) if self.within_family else ()

    @property
    def inputs(self) -> tuple[Path, ...]:
        """What is read, and so must not be written: the adapter's file, and the bases' files or folders."""
        return self.adapter.path, self.source.path, self.target.path

    @cached_property
    def component(self) -> str:
        """By which the bases are judged: the family's first that the adapter has. Many unrelated UNets share a text encoder."""
        touched = {component_of(found.source) for found in self.pairs.values() if found}
        return next((component.name for component in self.source.family.components if component.name in touched), "")

    def is_judged(self, name: str) -> bool:
        """Whether the layer is of that component."""
        found = self.pairs[name]
        return found is not None and component_of(found.source) == self.component

    def same_shape(self, name: str) -> bool:
        """Of both weights of a layer that has a pair, as far as their inputs mean the same."""
        if (found := self.pairs[name]) is None or found.target is None:
            return False
        (m_s, n_s), (m_t, n_t) = self.source.matrix(found.source), self.target.matrix(found.target)
        return m_s == m_t and (n_s == n_t or found.columns is not None)


@dataclass(frozen=True)
class Moved:
    """The transferred adapter: target layer -> delta, and what happened to every layer.

    ``vectors``: target parameter, as ``unet.out.0.bias`` -> float32, what is added to norms and biases.
    """

    layers: dict[str, LowRank] = field(repr=False)
    report: Report
    vectors: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)


def plan(adapter: AdapterFile, source: Checkpoint, target: Checkpoint, options: Options, running: Running | None = None) -> Plan:
    """Resolve the adapter's layers on the source and pair them with the target's. Reads no weight where names agree.

    Raises LoraxError when adapter, source and target do not fit together.
    """
    return plan_all([adapter], source, target, options, running)[0]


def plan_all(
    adapters: Iterable[AdapterFile], source: Checkpoint, target: Checkpoint, options: Options, running: Running | None = None
) -> list[Plan]:
    """The same for several adapters, for which the bases' layers are paired once."""
    resolved = [(adapter, adapter.layers_of(source)) for adapter in adapters]
    pairs = pair(source, target, options.pairing)
    return [
        Plan(
            adapter,
            source,
            target,
            options,
            {name: pairs[layer] if layer else None for name, layer in layers.items()},
            pairs,
            pair_vectors(adapter, source, target, pairs, cut=options.max_rank is not None),
            running or Running(),
        )
        for adapter, layers in resolved
    ]
