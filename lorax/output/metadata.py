"""Makes the headers of written adapters."""

import datetime
import json
import math
import re
from collections.abc import Collection, Mapping

from lorax import __version__
from lorax.checkpoint import NOISE, VELOCITY, Checkpoint
from lorax.files import TensorWriter, as_utf8
from lorax.formats import Header, trigger_words
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
OF_FAMILY = ("modelspec.thumbnail", "modelspec.encoder_layer")  # keys that are true of the source's family only
LARGEST_THUMBNAIL = 1 << 20  # characters of the data URL
LORA_HASH = "<lora-sha>"  # stands for ten digits of the LoRA's hash, which is computed while the file is written
# As long as what ``hashed`` and ``kohya_hashes`` put there.
UNHASHED = {
    "sshs_model_hash": 64 * "0",
    "sshs_legacy_hash": 8 * "0",
    "modelspec.hash_sha256": "0x" + 64 * "0",
    "lorax_source_lora_hash": 64 * "0",
}
MODELSPEC = {NOISE: "epsilon", VELOCITY: "v"}


def describe(plan: Plan, layers: Mapping[str, LowRank], report: Report, name: str, saving: Saving, note: str) -> dict[str, str]:
    """Return the header of a plain LoRA: the source file's metadata with a new base, rank, alpha, title and origin."""
    return common(plan, plan.target, layers, name, "networks.lora", note) | {
        "lorax_target_model": plan.target.path.name,
        "lorax_target_model_hash": plan.target.identity.sha256,
        "lorax_method": plan.options.method,
        "lorax_settings": json.dumps(settings(plan.options, saving.dtype)),
        **({"lorax_strength": f"{saving.strength:g}"} if saving.strength != 1 else {}),
        "lorax_coverage": f"{report.coverage:.4f}",
    }


def common(plan: Plan, base: Checkpoint, layers: Mapping[str, LowRank], name: str, module: str, note: str) -> dict[str, str]:
    """Return the common part of all headers: the source file's metadata, updated for these layers of ``base``, without hashes.

    ``note`` becomes a part of what people see of it.
    """
    inherited, predicts = _inherited(plan, base), plan.prediction(base)
    name = name.encode(errors="backslashreplace").decode()  # a file's name need not be UTF-8, but a header's text must
    return inherited | {
        **of_base(base, predicts),
        "ss_network_module": module,
        **network(base, layers),
        "ss_output_name": name,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": _names(base, predicts)[1],
        **({"modelspec.prediction_type": MODELSPEC[predicts]} if predicts in MODELSPEC else {}),
        **_resolution(plan, base, inherited),
        "modelspec.implementation": base.family.implementation,
        "modelspec.implementation_version": f"lorax-webui/{__version__}",
        "modelspec.title": name,
        **_seen(plan, inherited, note),
        "modelspec.date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "modelspec.merged_from": plan.adapter.title,
        "lorax_version": __version__,
        "lorax_source_lora": plan.adapter.given.name,
        "lorax_source_model": plan.source.path.name,
        "lorax_source_model_hash": plan.source.identity.sha256,
    }


def _inherited(plan: Plan, base: Checkpoint) -> dict[str, str]:
    """Return the source file's metadata, without what is not true of the adapter on ``base``."""
    stale = STALE if base.family == plan.source.family else (*STALE, *OF_FAMILY)
    kept = {key: value for key, value in plan.adapter.metadata.items() if not key.startswith(stale)}
    thumbnail = kept.get("modelspec.thumbnail", "")
    if not thumbnail.startswith("data:image/") or len(thumbnail) > LARGEST_THUMBNAIL:
        kept.pop("modelspec.thumbnail", None)
    return kept


def _resolution(plan: Plan, base: Checkpoint, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the size of the pictures: that of the training, unless it was for a base that draws others."""
    pixels = _pixels(base, plan.prediction(base))
    if pixels == _pixels(plan.source, plan.prediction(plan.source)):
        found = re.fullmatch(r"\(?(\d{2,5}), ?(\d{2,5})\)?", inherited.get("ss_resolution", ""))
        trained = "x".join(found.groups()) if found else f"{pixels}x{pixels}"
        return {"modelspec.resolution": inherited.get("modelspec.resolution") or trained}
    kohyas = {"ss_resolution": f"({pixels}, {pixels})"} if "ss_resolution" in inherited else {}
    return {"modelspec.resolution": f"{pixels}x{pixels}"} | kohyas


def _pixels(base: Checkpoint, predicts: str | None) -> int:
    return base.family.velocity_resolution if base.family.velocity and predicts == VELOCITY else base.family.resolution


def _seen(plan: Plan, inherited: Mapping[str, str], note: str) -> dict[str, str]:
    """Return what programs show of an adapter: trigger words, and where it is from before what was said of it."""
    trained, words = inherited.get("ss_training_comment", ""), trigger_words(plan.adapter)
    return {
        "modelspec.description": "\n".join(filter(None, [inherited.get("modelspec.description", ""), note])),
        "ss_training_comment": note if trained in ("", "None") else f"{note.removesuffix('.')}; {trained}",  # as sd-scripts does
        **({"modelspec.trigger_phrase": words} if words else {}),
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


def hashed(described: Mapping[str, str], sha256: str) -> dict[str, str]:
    """Return the header with the LoRA's hash."""
    return {key: told(value, sha256) for key, value in described.items()} | {"lorax_source_lora_hash": sha256}


def told(text: str, sha256: str) -> str:
    """Return the text with ten digits of the LoRA's hash."""
    return text.replace(LORA_HASH, sha256[:10])


def kohya_hashes(file: TensorWriter, described: Mapping[str, str]) -> dict[str, str]:
    """Return kohya's and ModelSpec's hashes: those of a file whose header has only ``ss_*``.

    See ``precalculate_safetensors_hashes`` in sd-scripts.
    """
    found = file.hashes({key: value for key, value in described.items() if key.startswith("ss_")})
    tensors = found.sha256  # of all tensors' bytes, in the file's order
    return {"sshs_model_hash": tensors, "sshs_legacy_hash": found.legacy, "modelspec.hash_sha256": f"0x{tensors}"}


def moved_from(plan: Plan) -> dict[str, str]:
    """Return the origin of a LoRA-X file that holds moved layers. Its own source is the base that they were moved to."""
    return {
        "lorax_moved_from_model": plan.source.path.name,
        "lorax_moved_from_model_hash": plan.source.identity.sha256,
        "lorax_moved_by": plan.options.method,
    }


def moved_note(plan: Plan, strength: float = 1.0) -> str:
    """Return a note on the transfer for people, with the hashes by which they find the files."""
    how = plan.options.method + (f", at strength {strength:g}" if strength != 1 else "")
    moved = f"{plan.adapter.title}, moved from {plan.source.title} to {plan.target.title} by LoRA-X ({how})."
    return as_utf8(f"{moved} {_hashes(plan, plan.source, plan.target)}")


def kept_note(plan: Plan) -> str:
    """Return a note on a LoRA-X file that holds the adapter as it is, with hashes."""
    kept = f"{plan.adapter.title}, for {plan.source.title} and whatever checkpoint LoRA-X fits it to."
    return as_utf8(f"{kept} {_hashes(plan, plan.source)}")


def _hashes(plan: Plan, *bases: Checkpoint) -> str:
    """Return the first ten digits of each sha256, as Civitai and WebUIs show them."""
    named = [(plan.adapter.title, LORA_HASH), *((base.title, base.identity.sha256) for base in bases)]
    return f"sha256: {', '.join(f'{title} {sha256[:10]}' for title, sha256 in dict.fromkeys(named))}."
