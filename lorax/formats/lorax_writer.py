"""Writes a LoRA-X file: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from lorax.errors import LoraxError
from lorax.formats import metadata, sidecars, writer
from lorax.formats.loraxfile import Header
from lorax.staging import Staging, check_folder, check_free
from lorax.transfer import Plan


def save_lorax(plan: Plan, path: Path, *, dtype: str = "fp16", overwrite: bool = False) -> list[Path]:
    """Write the plan's adapter as it is for its source, with the plan's options for later targets; return the files written.

    The plan's own target plays no part. Preview and card are carried over as beside a plain LoRA. Raises LoraxError when ``path``
    cannot be written.
    """
    check_folder(path)
    check_free(path, plan.inputs, overwrite)
    with Staging() as staging:
        return stage_lorax(plan, path, staging, dtype=dtype)


def stage_lorax(plan: Plan, path: Path, staging: Staging, *, dtype: str) -> list[Path]:
    """The same for a caller who writes more at the same time and has checked that ``path`` is free."""
    adapter, source = plan.adapter, plan.source
    layers = {}
    for name, layer in adapter.layers_of(source).items():
        if layer is not None:
            delta = adapter.delta(name, source)
            layers[layer] = (delta if adapter.is_low_rank(name) else delta.compressed(plan.limit(name))[0]).balanced()
    if path.suffix != ".safetensors":
        raise LoraxError(f"{path}: a LoRA-X file needs the ending .safetensors, since its header holds what it is.")
    tensors = {
        f"{source.kohya_name(layer)}.{part.replace('lora_', 'lorax_')}": tensor
        for layer, delta in layers.items()
        for part, tensor in writer.factors(source, layer, delta, writer.DTYPES[dtype]).items()
    }
    tensors |= adapter.bundled()
    writer.check_finite(plan, tensors)
    header = Header(
        family=source.family,
        source=source.path.name,
        source_sha256=source.sha256,
        fingerprint=source.fingerprint(layers),
        method=plan.options.method,
        settings=metadata.settings(plan.options, dtype),
        core=adapter.header.core if adapter.header else "",
    )
    described = metadata.common(plan, source, layers, path.stem, "lorax") | header.as_metadata()
    note = f"{adapter.title}, for {source.title} and whatever checkpoint LoRA-X fits it to."
    beside = sidecars.carry(adapter.path, path, staging, source.family, note)
    writer.save(tensors, staging.add(path), described)
    return [path, *beside]
