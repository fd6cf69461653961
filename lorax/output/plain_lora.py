"""Writes plain LoRAs, which every UI loads."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorax.checkpoint import Checkpoint
from lorax.errors import LoraxError
from lorax.files import Staging, is_finite
from lorax.low_rank import LowRank
from lorax.options import Saving
from lorax.output import metadata, sidecars
from lorax.output.cards import About
from lorax.transfer import Moved, Plan

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def stage(plan: Plan, moved: Moved, path: Path, staging: Staging, saving: Saving) -> list[Path]:
    """Stage the adapter, its preview and its card at ``path``, which must be free; return the files, the adapter first."""
    whole = {layer for layer in moved.layers if f"{layer}.bias" in moved.vectors}
    tensors: dict[str, torch.Tensor] = {}
    factored: dict[str, LowRank] = {}
    for layer, delta in with_whole_attentions(plan.target, moved.layers).items():
        balanced = delta.times(saving.strength).balanced()  # a copy of one layer at a time
        tensors |= (encode_whole if layer in whole else encode)(plan.target, layer, balanced, DTYPES[saving.dtype])
        if layer not in whole:
            factored[layer] = replace(delta, scale=balanced.scale)
    vectors = {parameter: saving.strength * vector for parameter, vector in moved.vectors.items()}
    tensors |= encode_vectors(plan.target, whole, vectors, DTYPES[saving.dtype])
    if plan.within_family:
        tensors |= plan.adapter.bundled()
    check_finite(plan, tensors)
    note = metadata.moved_note(plan, saving.strength)
    described = metadata.describe(plan, Moved(factored, moved.report), path.stem, saving, note)
    staging.write(path, lambda temporary: save(tensors, temporary, described), saving.overwrite)
    about = About.of(plan, plan.target, note, path, staging.size(path))
    return [path, *sidecars.carry(plan.adapter.path, path, staging, about)]


def check_finite(plan: Plan, tensors: dict[str, torch.Tensor]) -> None:
    """Raise LoraxError if the tensors hold NaN or infinite values."""
    if odd := next((key for key, value in tensors.items() if not is_finite(value)), None):
        raise LoraxError(f"{plan.adapter.path}: {odd} would be infinite in what is written. The adapter's training diverged.")


def with_whole_attentions(base: Checkpoint, layers: dict[str, LowRank]) -> dict[str, LowRank]:
    """Return the layers, with deltas of zero for the other layers of the same attention in an OpenCLIP encoder.

    AUTOMATIC1111 changes such an attention only if the file has q, k, v and out, and silently drops incomplete ones.
    """
    whole = dict(layers)
    encoders = tuple(f"{component.name}." for component in base.family.components if component.open_clip)
    for layer, delta in layers.items():
        head, attention, _ = layer.partition(".self_attn.")
        if attention and layer.startswith(encoders):
            zero = LowRank(torch.zeros_like(delta.up), torch.zeros_like(delta.down), delta.scale)
            whole = {head + attention + part: zero for part in ("q_proj", "k_proj", "v_proj", "out_proj")} | whole
    return whole


def save(tensors: dict[str, torch.Tensor], path: Path, described: dict[str, str]) -> None:
    """Write the file with its hashes in its header."""
    save_file(tensors, path, {key: value for key, value in described.items() if key.startswith("ss_")})
    save_file(tensors, path, described | metadata.kohya_hashes(path))
    path.chmod(0o644)  # newer versions of safetensors make files that only their owner can read


def encode(target: Checkpoint, layer: str, delta: LowRank, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return a layer's tensors under kohya's keys."""
    return {f"{target.names.kohya(layer)}.{part}": tensor for part, tensor in factors(target, layer, delta, dtype).items()}


def factors(base: Checkpoint, layer: str, delta: LowRank, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return kohya's three parts of a layer. A convolution's factors are (k, in, kh, kw) and (out, k, 1, 1)."""
    shape = base.layers[layer]
    up, down = delta.up, delta.down
    if len(shape) == 4:
        up, down = up[:, :, None, None], down.reshape(delta.rank, *shape[1:])
    return {
        "lora_up.weight": up.to(dtype).contiguous(),
        "lora_down.weight": down.to(dtype).contiguous(),
        "alpha": torch.tensor(delta.scale * delta.rank, dtype=torch.float32),
    }


def encode_whole(target: Checkpoint, layer: str, delta: LowRank, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the layer's whole difference, the only form in which A1111 also reads a bias."""
    dW = (delta.scale * delta.up @ delta.down).reshape(target.layers[layer])
    return {f"{target.names.kohya(layer)}.diff": dW.to(dtype).contiguous()}


def encode_vectors(
    target: Checkpoint, whole: Collection[str], vectors: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return tensors for the biases of the ``whole`` layers, and for norms, of which A1111 expects both weight and bias."""
    tensors = {}
    for parameter, vector in vectors.items():
        layer, _, kind = parameter.rpartition(".")
        name = target.names.kohya(layer)
        if layer in whole:
            tensors[f"{name}.diff_b"] = vector.to(dtype)
            continue
        zero = torch.zeros_like(vector, dtype=dtype)
        tensors = {f"{name}.w_norm": zero, f"{name}.b_norm": zero} | tensors
        tensors[f"{name}.{'w' if kind == 'weight' else 'b'}_norm"] = vector.to(dtype)
    return tensors
