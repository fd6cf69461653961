"""Writes LoRA-X files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lorax.checkpoint import Checkpoint
from lorax.files import Staging, as_utf8
from lorax.low_rank import LowRank
from lorax.methods import AUTO
from lorax.options import DENSE_RANK, Saving
from lorax.output import metadata, plain_lora, sidecars
from lorax.output.cards import About
from lorax.transfer import Layers, Moved, Plan


def stage_lorax(plan: Plan, path: Path, staging: Staging, saving: Saving) -> list[Path]:
    """Stage the adapter as it is, for its source. ``path`` must be free."""
    adapter, source = plan.adapter, plan.source

    def delta(name: str) -> LowRank:
        largest = None if adapter.layers[name].is_low_rank else plan.options.max_rank or DENSE_RANK
        return adapter.delta(name, source).compressed(largest)[0]

    layers = Layers.of((layer, delta(name)) for name, layer in adapter.layers_of(source).items() if layer is not None)
    core = adapter.header.core if adapter.header else ""
    made = _Made(source, layers, adapter.bundled(), plan.options.method, core, {}, metadata.kept_note(plan))
    return _stage(plan, made, path, staging, saving)


def stage_moved(plan: Plan, moved: Moved, path: Path, staging: Staging, saving: Saving) -> list[Path]:
    """Stage the moved layers as an adapter of the target, to be fitted to others by ``auto``. ``path`` must be free."""
    bundled = plan.adapter.bundled() if plan.within_family else {}
    note = as_utf8(f"{metadata.moved_note(plan)} For {plan.target.title} and whatever checkpoint LoRA-X fits it to.")
    made = _Made(plan.target, moved.layers, bundled, AUTO, "", metadata.moved_from(plan), note)
    return _stage(plan, made, path, staging, saving)


@dataclass(frozen=True)
class _Made:
    """An adapter of ``base``, to be fitted to others by ``method``; ``described`` and ``note`` tell its origin."""

    base: Checkpoint
    layers: Layers
    bundled: Mapping[str, torch.Tensor]
    method: str
    core: str
    described: dict[str, str]
    note: str


def _stage(plan: Plan, made: _Made, path: Path, staging: Staging, saving: Saving) -> list[Path]:
    base, dtype, outlines = made.base, plain_lora.DTYPES[saving.dtype], made.layers.outlines

    def encoded(layer: str, delta: LowRank) -> dict[str, torch.Tensor]:
        parts = plain_lora.factors(base, layer, delta, dtype)
        return {f"{base.names.kohya(layer)}.{part.replace('lora_', 'lorax_')}": tensor for part, tensor in parts.items()}

    content = plain_lora.Content(plan.adapter, base, outlines, made.layers.__getitem__, encoded, made.bundled)
    header = metadata.lorax_header(base, outlines, made.method, plan.options, saving.dtype, made.core)
    described = metadata.common(plan, base, outlines, path.stem, "lorax", made.note) | header | made.described
    staging.write(path, lambda temporary: content.write(temporary, described), saving.overwrite)
    about = About.of(plan, base, made.note, path, staging.size(path))
    return [path, *sidecars.carry(plan.adapter.path, path, staging, about)]
