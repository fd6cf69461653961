"""Recognises unsupported files by their keys, so that a refusal can name them."""

import re
from collections.abc import Iterable
from pathlib import Path

from lorax.checkpoint import families
from lorax.errors import LoraxError, NotAnAdapter, UnsupportedFamily
from lorax.formats import ia3
from lorax.formats.keys import COMMON

# Title -> pattern of a key of such a file. The first row that any key matches counts.
OTHERS = {  # no adapters
    "a ControlLoRA": r"^lora_controlnet$",
    "a ControlNet": r"^(control_model|controlnet_\w+|input_hint_block)\.",
    "an IP-Adapter": r"^(ip_adapter|image_proj)\.",
    "a T2I-Adapter": r"^(adapter\.)?body\.\d+\.",
    "a textual inversion embedding, which goes into the folder embeddings": r"^(emb_params|string_to_param\..*|clip_[lg])$",
    "an autoencoder": r"^(first_stage_model\.)?(decoder|post_quant_conv)\.",
}
KINDS = {
    "a PEFT adapter of the kind OFT or BOFT": r"\.b?oft_[rRsP]\b",
    "a PEFT adapter of the kind VeRA": r"\bvera_",
    "a PEFT adapter of the kind VB-LoRA": r"\.vblora_",
    "a PEFT adapter of the kind FourierFT": r"\.fourierft_",
    "a PEFT adapter of the kind HRA": r"\.hra_u",
    "a PEFT adapter of the kind LN tuning": r"\.ln_tuning_layers",
    "a PEFT adapter of the kind AdaLoRA": r"\.lora_E\b",
    "a PEFT adapter with trained tokens": r"\.(lora_embedding_[AB]|trainable_tokens_\w+)\b",
    "a PEFT adapter with whole trained modules": r"\.modules_to_save\b",
    "a T-LoRA": r"\.lambda_layer\b",
    "a GLoRA with a Tucker decomposition": r"\.bm\.weight$",
    "a LyCORIS adapter with a sparse bias": r"\.bias_(indices|values|size)$",
}
# Base -> pattern of the name of one of its layers, the most specific ones first.
BASES = {
    "Stable Cascade": r"^lora_prior_unet_",
    "Qwen-Image": r"transformer_blocks[._]\d+[._](img|txt)_m(od|lp)",
    "FLUX, Chroma or Hunyuan Video": r"\b(lora_unet_|lora_transformer_|lycoris_)?(double|single|single_transformer)_blocks[._]\d",
    "Stable Diffusion 3": r"joint_blocks[._]\d|^(transformer\.|lora_transformer_|lycoris_)transformer_blocks[._]\d",
    "Wan": r"(^|[._])blocks[._]\d+[._](self|cross)_attn",
    "Lumina or Z-Image": r"(^|[._])layers[._]\d+[._](attention|feed_forward)[._]",
}
DIGITS = str.maketrans("123456789", "0" * 9)  # no pattern asks which digit it is


def of_key(path: Path, unknown: str, keys: Iterable[str]) -> LoraxError:
    """Return the error for a file with an ``unknown`` key. Any of its ``keys`` may tell what it is."""
    if unknown.endswith(f".{ia3.WEIGHT}") and any(key.endswith(f".{ia3.ON_INPUT}") for key in keys):
        return LoraxError(f"{path}: {unknown.removesuffix(f'.{ia3.WEIGHT}')}: {ia3.ON_INPUT} is missing. The file is incomplete.")
    if kind := _first(KINDS, keys):
        return LoraxError(f"{path}: {kind}, which is not supported. {_supported()}")
    if other := _first(OTHERS, keys):
        return NotAnAdapter(f"{path}: {other}, and no LoRA.")
    return NotAnAdapter(f"{path}: unexpected key {unknown}; expected a LoRA with keys like lora_unet_..._to_q.lora_down.weight.")


def check_base(path: Path, names: Iterable[str]) -> None:
    """Raise UnsupportedFamily if layers of these names are those of a base that is not supported."""
    if base := _first(BASES, names):
        raise UnsupportedFamily(f"{path}: an adapter for {base}, which is not supported. {_supported()}", base)


def _supported() -> str:
    bases = ", ".join(family.title for family in families.FAMILIES if family.components)
    return f"Supported are {', '.join(format.TITLE for format in COMMON)} and DoRA, for {bases}."


def _first(table: dict[str, str], found: Iterable[str]) -> str | None:
    kinds = {one.translate(DIGITS) for one in found}  # far fewer than keys
    return next((title for title, sign in table.items() if any(map(re.compile(sign).search, kinds))), None)
