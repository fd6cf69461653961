"""Writes a LoRA-X file: whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError
from lorax.files import Staging
from lorax.formats import Header
from lorax.low_rank import LowRank
from lorax.methods import AUTO
from lorax.options import DENSE_RANK, Saving
from lorax.output import metadata, plain_lora, sidecars
from lorax.transfer import Moved, Plan


def stage_lorax(plan: Plan, path: Path, staging: Staging, saving: Saving) -> list[Path]:
    """The same for a caller who writes more at the same time and has checked that ``path`` is free."""
    adapter, source = plan.adapter, plan.source
    layers = {}
    for name, layer in adapter.layers_of(source).items():
        if layer is not None:
            delta = adapter.delta(name, source)
            layers[layer] = (
                delta if adapter.layers[name].is_low_rank else delta.compressed(plan.options.max_rank or DENSE_RANK)[0]
            )
    core = adapter.header.core if adapter.header else ""
    note = f"{adapter.title}, for {source.title} and whatever checkpoint LoRA-X fits it to."
    made = _Made(source, layers, adapter.bundled(), plan.options.method, core, {}, note)
    return _stage(plan, made, path, staging, saving)


def stage_moved(plan: Plan, moved: Moved, path: Path, staging: Staging, saving: Saving) -> list[Path]:
    """What was moved, as an adapter of the target, which fits itself from there by ``auto``. ``path`` was found free."""
    bundled = plan.adapter.bundled() if plan.within_family else {}
    note = f"{metadata.moved_note(plan)} For {plan.target.title} and whatever checkpoint LoRA-X fits it to."
    made = _Made(plan.target, moved.layers, bundled, AUTO, "", metadata.moved_from(plan), note)
    return _stage(plan, made, path, staging, saving)


@dataclass(frozen=True)
class _Made:
    """An adapter of ``base``, fitted to others by ``method``; ``described`` and ``note`` say where it is from."""

    base: Checkpoint
    layers: Mapping[str, LowRank]
    bundled: Mapping[str, torch.Tensor]
    method: str
    core: str
    described: dict[str, str]
    note: str


def _stage(plan: Plan, made: _Made, path: Path, staging: Staging, saving: Saving) -> list[Path]:
    if path.suffix != ".safetensors":
        raise LoraxError(f"{path}: a LoRA-X file needs the ending .safetensors, since its header holds what it is.")
    base, tensors, layers = made.base, dict(made.bundled), {}
    for layer, delta in made.layers.items():
        balanced = delta.balanced()  # a copy, of one layer at a time
        for part, tensor in plain_lora.factors(base, layer, balanced, plain_lora.DTYPES[saving.dtype]).items():
            tensors[f"{base.names.kohya(layer)}.{part.replace('lora_', 'lorax_')}"] = tensor
        layers[layer] = replace(delta, scale=balanced.scale)
    plain_lora.check_finite(plan, tensors)
    header = Header(
        family=base.family,
        source=base.path.name,
        source_sha256=base.identity.sha256,
        fingerprint=base.identity.fingerprint(layers),
        method=made.method,
        settings=metadata.settings(plan.options, saving.dtype),
        core=made.core,
    )
    described = metadata.common(plan, base, layers, path.stem, "lorax") | header.as_metadata() | made.described
    beside = sidecars.carry(plan.adapter.path, path, staging, base.family, made.note)
    staging.write(path, lambda temporary: plain_lora.save(tensors, temporary, described), saving.overwrite)
    return [path, *beside]
