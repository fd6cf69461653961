"""Makes the headers of written adapters."""

import datetime
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path

from lorax import __version__
from lorax.checkpoint import NOISE, VELOCITY, Checkpoint
from lorax.files import TensorWriter, hashes
from lorax.formats import Header
from lorax.low_rank import LowRank
from lorax.options import Options, Saving
from lorax.transfer import Plan, Report

# Prefixes of keys that are true of the source file only.
STALE = (
    "sshs_",
    "ss_network_args",
    "modelspec.hash_sha256",
    "modelspec.prediction_type",
    "lora_adapter_metadata",
    "format",
    "lorax_",
)
# As long as what ``kohya_hashes`` and ``adapter_hash`` return.
UNHASHED = {"sshs_model_hash": 64 * "0", "sshs_legacy_hash": 8 * "0", "lorax_source_lora_hash": 64 * "0"}
MODELSPEC = {NOISE: "epsilon", VELOCITY: "v"}


def describe(plan: Plan, layers: Mapping[str, LowRank], report: Report, name: str, saving: Saving) -> dict[str, str]:
    """Return the header of a plain LoRA: the source file's metadata with a new base, rank, alpha, title and origin."""
    return common(plan, plan.target, layers, name, "networks.lora") | {
        "lorax_target_model": plan.target.path.name,
        "lorax_target_model_hash": plan.target.identity.sha256,
        "lorax_method": plan.options.method,
        "lorax_settings": json.dumps(settings(plan.options, saving.dtype)),
        **({"lorax_strength": f"{saving.strength:g}"} if saving.strength != 1 else {}),
        "lorax_coverage": f"{report.coverage:.4f}",
    }


def common(plan: Plan, base: Checkpoint, layers: Mapping[str, LowRank], name: str, module: str) -> dict[str, str]:
    """Return the common part of all headers: the source file's metadata, updated for these layers of ``base``, without hashes."""
    inherited = {key: value for key, value in plan.adapter.metadata.items() if not key.startswith(STALE)}
    predicts = plan.prediction(base)
    name = name.encode(errors="backslashreplace").decode()  # a file's name need not be UTF-8, but a header's text must
    return inherited | {
        **of_base(base, predicts),
        "ss_network_module": module,
        **network(base, layers),
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
        "lorax_source_model": plan.source.path.name,
        "lorax_source_model_hash": plan.source.identity.sha256,
    }


def _names(base: Checkpoint, predicts: str | None) -> tuple[str, str]:
    """Return kohya's version of the base, and modelspec's architecture."""
    family = base.family
    return family.velocity if family.velocity and predicts == VELOCITY else (family.base_version, family.architecture)


def of_base(base: Checkpoint, predicts: str | None) -> dict[str, str]:
    """Return kohya's metadata about an adapter's base, which predicts noise, velocity or an unknown quantity (None)."""
    return {
        "ss_base_model_version": _names(base, predicts)[0],
        "ss_v2": str(base.family.v2),
        "ss_sd_model_name": base.path.name,
        "ss_sd_model_hash": base.identity.legacy,
        "ss_new_sd_model_hash": base.identity.sha256,
    }


def lorax_header(
    base: Checkpoint, layers: Collection[str], method: str, options: Options, dtype: str, core: str = ""
) -> dict[str, str]:
    """Return the metadata of a LoRA-X file with ``layers`` of ``base``, to be fitted to other bases by ``method``."""
    header = Header(
        family=base.family,
        source=base.path.name,
        source_sha256=base.identity.sha256,
        fingerprint=base.identity.fingerprint(layers),
        method=method,
        settings=settings(options, dtype),
        core=core,
    )
    return header.as_metadata()


def settings(options: Options, dtype: str) -> dict[str, str | float | int | None]:
    """Return the options that, besides the files, determine the written tensors."""
    return {name: getattr(options, name) for name in ("rank", "threshold", "pairing", "max_rank")} | {"dtype": dtype}


def network(target: Checkpoint, layers: Mapping[str, LowRank]) -> dict[str, str]:
    """Return rank and alpha of these layers under kohya's names, which treat convolutions larger than 1x1 separately."""
    kernels = {layer: delta for layer, delta in layers.items() if math.prod(target.layers[layer][2:]) > 1}
    plain = {layer: delta for layer, delta in layers.items() if layer not in kernels} or kernels
    dim, alpha = _common(plain.values())
    found = {"ss_network_dim": dim, "ss_network_alpha": alpha}
    if kernels:
        dim, alpha = _common(kernels.values())
        found["ss_network_args"] = json.dumps({"conv_dim": dim, "conv_alpha": alpha})
    return found


def _common(deltas: Collection[LowRank]) -> tuple[str, str]:
    """Return rank and alpha, rounded to six digits; "Dynamic" for values that differ between the deltas."""
    ranks, alphas = {str(delta.rank) for delta in deltas}, {f"{delta.scale * delta.rank:g}" for delta in deltas}
    dim, alpha = (values.pop() if len(values) == 1 else "Dynamic" for values in (ranks, alphas))
    return dim, alpha


def adapter_hash(path: Path) -> dict[str, str]:
    """Return the entry with the hash of the source file."""
    return {"lorax_source_lora_hash": hashes(path).sha256}


def kohya_hashes(file: TensorWriter, described: Mapping[str, str]) -> dict[str, str]:
    """Return kohya's ``sshs_*``: those of a file whose header has only ``ss_*`` (``precalculate_safetensors_hashes``)."""
    found = file.hashes({key: value for key, value in described.items() if key.startswith("ss_")})
    return {"sshs_model_hash": found.sha256, "sshs_legacy_hash": found.legacy}


def moved_from(plan: Plan) -> dict[str, str]:
    """Return the origin of a LoRA-X file that holds moved layers. Its own source is the base that they were moved to."""
    return {
        "lorax_moved_from_model": plan.source.path.name,
        "lorax_moved_from_model_hash": plan.source.identity.sha256,
        "lorax_moved_by": plan.options.method,
    }


def moved_note(plan: Plan, strength: float = 1.0) -> str:
    """Return a sentence about the transfer, for the adapter's description."""
    how = plan.options.method + (f", at strength {strength:g}" if strength != 1 else "")
    return f"{plan.adapter.title}, moved from {plan.source.title} to {plan.target.title} by LoRA-X ({how})."
