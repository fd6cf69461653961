"""The header of a written adapter."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path

from lorax import __version__
from lorax.checkpoint import NOISE, VELOCITY, Checkpoint
from lorax.files import hashes
from lorax.low_rank import LowRank
from lorax.options import Options
from lorax.transfer import Moved, Plan

# Of the source file and no longer true of the written one.
STALE = (
    "sshs_",
    "ss_network_args",
    "modelspec.hash_sha256",
    "modelspec.prediction_type",
    "lora_adapter_metadata",
    "format",
    "lorax_",
)
MODELSPEC = {NOISE: "epsilon", VELOCITY: "v"}


def describe(plan: Plan, moved: Moved, name: str, dtype: str) -> dict[str, str]:
    """The source's metadata, with what changed set anew: base, rank and alpha, title, and where the adapter comes from."""
    return common(plan, plan.target, moved.layers, name, "networks.lora") | {
        "lorax_target_model": plan.target.path.name,
        "lorax_target_model_hash": plan.target.identity.sha256,
        "lorax_method": plan.options.method,
        "lorax_settings": json.dumps(settings(plan.options, dtype)),
        "lorax_coverage": f"{moved.report.coverage:.4f}",
    }


def common(plan: Plan, base: Checkpoint, layers: Mapping[str, LowRank], name: str, module: str) -> dict[str, str]:
    """What every written adapter says: the source's metadata, and that it holds ``layers`` for ``base``."""
    kept = {key: value for key, value in plan.adapter.metadata.items() if not key.startswith(STALE)}
    predicts = plan.prediction(base)
    name = name.encode(errors="backslashreplace").decode()  # a file's name need not be UTF-8, but a header's text must
    return kept | {
        **of_base(base, predicts),
        "ss_network_module": module,
        **_network(base, layers),
        "ss_output_name": name,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": _names(base, predicts)[1],
        **({"modelspec.prediction_type": MODELSPEC[predicts]} if predicts in MODELSPEC else {}),
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": name,
        "modelspec.date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "modelspec.merged_from": plan.adapter.title,
        "lorax_version": __version__,
        "lorax_source_lora": plan.adapter.given.name,
        "lorax_source_lora_hash": hashes(plan.adapter.path).sha256,
        "lorax_source_model": plan.source.path.name,
        "lorax_source_model_hash": plan.source.identity.sha256,
    }


def _names(base: Checkpoint, predicts: str | None) -> tuple[str, str]:
    """kohya's version of the base, and modelspec's architecture."""
    family = base.family
    return family.velocity if family.velocity and predicts == VELOCITY else (family.base_version, family.architecture)


def of_base(base: Checkpoint, predicts: str | None) -> dict[str, str]:
    """What kohya says of the base that an adapter is for, which predicts noise, velocity or what nobody tells."""
    return {
        "ss_base_model_version": _names(base, predicts)[0],
        "ss_v2": str(base.family.v2),
        "ss_sd_model_name": base.path.name,
        "ss_sd_model_hash": base.identity.legacy,
        "ss_new_sd_model_hash": base.identity.sha256,
    }


def settings(options: Options, dtype: str) -> dict[str, str | float | int | None]:
    """What decides the written tensors, beside the files: the method's options and the precision."""
    return {
        "rank": options.rank,
        "threshold": options.threshold,
        "pairing": options.pairing,
        "max_rank": options.max_rank,
        "dtype": dtype,
    }


def _network(target: Checkpoint, layers: Mapping[str, LowRank]) -> dict[str, str]:
    """Rank and alpha of these layers in kohya's words; it sets convolutions with a real kernel apart."""
    kernels = {layer: delta for layer, delta in layers.items() if math.prod(target.layers[layer][2:]) > 1}
    plain = {layer: delta for layer, delta in layers.items() if layer not in kernels} or kernels
    dim, alpha = _common(plain.values())
    network = {"ss_network_dim": dim, "ss_network_alpha": alpha}
    if kernels:
        dim, alpha = _common(kernels.values())
        network["ss_network_args"] = json.dumps({"conv_dim": dim, "conv_alpha": alpha})
    return network


def _common(deltas: Collection[LowRank]) -> tuple[str, str]:
    """Rank and alpha, rounded to six digits; "Dynamic" where they are not the same for all."""
    ranks, alphas = {str(delta.rank) for delta in deltas}, {f"{delta.scale * delta.rank:g}" for delta in deltas}
    dim, alpha = (values.pop() if len(values) == 1 else "Dynamic" for values in (ranks, alphas))
    return dim, alpha


def kohya_hashes(path: Path) -> dict[str, str]:
    """kohya's ``sshs_*`` of a file whose header holds only ``ss_*`` keys (sd-scripts, ``precalculate_safetensors_hashes``)."""
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    found = hashes(path, skip=8 + header)
    return {"sshs_model_hash": found.sha256, "sshs_legacy_hash": found.legacy}


def hashed_part(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.startswith("ss_")}


def moved_from(plan: Plan) -> dict[str, str]:
    """Of a LoRA-X file, whose source is the base that it was moved to."""
    return {
        "lorax_moved_from_model": plan.source.path.name,
        "lorax_moved_from_model_hash": plan.source.identity.sha256,
        "lorax_moved_by": plan.options.method,
    }


def moved_note(plan: Plan) -> str:
    return f"{plan.adapter.title}, moved from {plan.source.title} to {plan.target.title} by LoRA-X ({plan.options.method})."
