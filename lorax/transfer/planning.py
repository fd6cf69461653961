"""Plans a transfer: which layer of the adapter goes to which layer of the target."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from lorax.checkpoint import Checkpoint, Mismatch, component_of, config_of, mismatch, prediction_in
from lorax.errors import LoraxError
from lorax.files import Cache
from lorax.formats import AdapterFile
from lorax.methods import Kinship
from lorax.models import Models
from lorax.options import DENSE_RANK, Options, Running
from lorax.pairing import Pair, Vector, pair, pair_vectors
from lorax.progress import Meter, Progress, silent
from lorax.transfer.report import Report
from lorax.transfer.spool import Layers


@dataclass(frozen=True)
class Plan:
    """A plan: ``pairs`` by name in the adapter (None if the source lacks the layer), and the bases' pairs by source layer."""

    adapter: AdapterFile
    source: Checkpoint
    target: Checkpoint
    options: Options
    pairs: dict[str, Pair | None]
    of_bases: dict[str, Pair]
    vectors: list[Vector]
    running: Running = field(default_factory=Running)

    def limit(self, name: str) -> int | None:
        """Return the largest rank of the written layer; None for any, also for a delta that is written whole with its bias."""
        free = self.adapter.layers[name].is_low_rank or any(vector.layer == name and vector.target for vector in self.vectors)
        return self.options.max_rank or (None if free else DENSE_RANK)

    def prediction(self, base: Checkpoint) -> str | None:
        """Return what the base predicts according to its files, or for the source to the adapter's header; None if unknown."""
        return base.prediction or (prediction_in(self.adapter.metadata) if base is self.source else None)

    @property
    def mismatch(self) -> Mismatch | None:
        """The predictions of source and target, if they differ."""
        source, target = (self.prediction(base) for base in (self.source, self.target))
        return mismatch(source, self.source.path.name, target, self.target.path.name)

    @property
    def within_family(self) -> bool:
        """Whether both bases are of one family. If not, embeddings, norms and biases are left out."""
        return self.source.family == self.target.family

    @property
    def has_same_latents(self) -> bool:
        """Whether the latents of both bases mean the same and are as large: then one can learn what the other predicts."""
        return self.within_family and _latents(self.source) == _latents(self.target)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Names of the bundled embeddings, which are carried over as they are."""
        return tuple(self.adapter.embeddings) if self.within_family else ()

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files and folders that are read and must not be written. Some of them may not exist."""
        return *self.adapter.inputs, *self.source.inputs, *self.target.inputs

    @cached_property
    def component(self) -> str:
        """The component by which the bases are judged: the first of the adapter's. Unrelated UNets often share a text encoder."""
        touched = {component_of(found.source) for found in self.pairs.values() if found}
        return next((component.name for component in self.source.family.components if component.name in touched), "")

    def is_judged(self, name: str) -> bool:
        """Tell whether the layer is in ``component``."""
        found = self.pairs[name]
        return found is not None and component_of(found.source) == self.component

    def differing(self, moved: Mapping[str, str | None]) -> list[str]:
        """Return the layers that differ on the target between the original file, which goes by names, and a moved one.

        ``moved``: the target's layers, by name in the adapter, to which the moved file adds what the original says. A layer whose
        delta depends on the base always differs.
        """
        layers = self.adapter.layers  # of which a plan may have a few only, for a look at the bases
        return [name for name in self.pairs if layers[name].is_on_base or moved.get(name) != self.of_original(name)]

    def of_original(self, name: str) -> str | None:
        """Return the layer of the target that the original file changes by this name, or None.

        The WebUI takes diffusers' names for those of a UNet with standard blocks, whatever blocks the target has.
        """
        found = self.pairs[name]
        if self.hosts_go_by_the_target or found is None:
            return self.adapter.fitting_layer(name, self.target)
        same = found.source in self.target.layers and self.source.matrix(found.source) == self.target.matrix(found.source)
        return found.source if same else None

    @cached_property
    def hosts_go_by_the_target(self) -> bool:
        """Whether a name of the adapter is a layer of the target as the target names it, and not as the source does."""
        return self.target.unet_names.is_standard() or not self.source.unet_names.is_standard()

    @property
    def carries_vectors_by_name(self) -> bool:
        """Whether each norm and bias that is carried over goes to where the original file has it on the target."""
        names = self.target.names
        return all(
            vector.target is None
            or vector.target.rpartition(".")[0] == (names.get(vector.layer) or names.norms.get(vector.layer))
            for vector in self.vectors
        )

    def placed(self, names: Iterable[str]) -> list[str]:
        """Return those of the layers that have another name on the target than the original file says, which misses them."""
        return [name for name in names if (found := self.pairs[name]) and found.target != self.of_original(name)]

    def kinship(self, *, related: bool) -> Kinship:
        """Return how the bases are related. ``related``: whether one comes from the other's weights."""
        if not self.has_same_latents:
            return Kinship.CROSSED
        return Kinship.RELATIVES if related else Kinship.STRANGERS

    def same_shape(self, name: str) -> bool:
        """Tell whether the layer has a pair whose weights have one shape, at least on the inputs that they share."""
        if (found := self.pairs[name]) is None or found.target is None:
            return False
        (m_s, n_s), (m_t, n_t) = self.source.matrix(found.source), self.target.matrix(found.target)
        return m_s == m_t and (n_s == n_t or found.columns is not None)


@dataclass(frozen=True)
class Moved:
    """A moved adapter: deltas by target layer, and float32 ``vectors`` to add to norms and biases, by parameter of the target."""

    layers: Layers = field(repr=False)
    report: Report
    vectors: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Context:
    """The environment of a transfer: the progress callback, the cache, and what runs models."""

    progress: Progress = silent
    cache: Cache | None = None
    models: Models | None = None

    @cached_property
    def meter(self) -> Meter:
        """The progress of the job in this environment. It begins when it is first asked for."""
        return Meter(self.progress)


def _latents(base: Checkpoint) -> tuple[int, float] | None:
    """Return the side and the scale of the base's latents; None if it cannot be run anyway."""
    try:
        config = config_of(base.unet_file, base.family.name)
    except LoraxError:
        return None
    return config.size, config.latent_scale


def plan(adapter: AdapterFile, source: Checkpoint, target: Checkpoint, options: Options, running: Running | None = None) -> Plan:
    """Plan one adapter. No weight is read if names agree. Raises LoraxError if adapter, source and target do not go together."""
    return plan_all([adapter], source, target, options, running)[0]


def plan_all(
    adapters: Iterable[AdapterFile],
    source: Checkpoint,
    target: Checkpoint,
    options: Options,
    running: Running | None = None,
    pairs: Mapping[str, Pair] | None = None,
) -> list[Plan]:
    """Plan several adapters as ``plan`` does, pairing the bases' layers only once. ``pairs``: those of the bases, if known."""
    resolved = [(adapter, adapter.layers_of(source)) for adapter in adapters]
    pairs = dict(pairs) if pairs is not None else pair(source, target, options.pairing)
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
