"""Translates the names of OpenCLIP's text encoders to transformers' names, which all adapters use."""

import re
from collections.abc import Mapping

import torch

from lorax.checkpoint.layer_names import PROJECTION, TEXT_MODEL
from lorax.errors import LoraxError
from lorax.files import Part, TensorFile

LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")  # of a block
_NAMES = (
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"\.layer_norm([12])", r".ln_\1"),
    (r"\.mlp\.fc1", ".mlp.c_fc"),
    (r"\.mlp\.fc2", ".mlp.c_proj"),
    (r"\.self_attn\.[qkv]_proj\.", ".attn.in_proj_"),
    (r"\.self_attn\.out_proj", ".attn.out_proj"),
    (rf"^{PROJECTION}\.weight", PROJECTION),
)


def key_of(name: str) -> tuple[str, int | None]:
    """Return OpenCLIP's key of the parameter that transformers calls ``name``, and the third of its rows; None for all rows.

    OpenCLIP stores q, k and v in one tensor, and the projection of the pooled text transposed.
    """
    found = re.search(r"\.self_attn\.([qkv])_proj\.", name)
    key = name
    for pattern, replacement in _NAMES:
        key = re.sub(pattern, replacement, key)
    return key, "qkv".index(found[1]) if found else None


def part(file: TensorFile, prefix: str, name: str) -> Part:
    """Return a parameter in an encoder whose keys begin with ``prefix``, even if the file lacks it.

    Raises LoraxError if the tensor of q, k and v is not three square matrices.
    """
    inside, third = key_of(name)
    key = prefix + inside
    if third is None or (shape := file.shapes.get(key)) is None:
        return Part(file, key, transposed=inside == PROJECTION)
    rows = shape[0] // 3 if shape else 0
    if shape != ((3 * rows, rows) if name.endswith(".weight") else (3 * rows,)):
        raise LoraxError(
            f"{file.path}: {key} has shape {shape}; expected three square matrices for q, k and v, one below the other. "
            "The checkpoint is damaged; use another copy."
        )
    return Part(file, key, slice(third * rows, (third + 1) * rows))


def padded_with_zeros(ids: torch.Tensor, end: int) -> torch.Tensor:
    """Return token ids (N, 77) padded as in OpenCLIP: with 0 after the first end token, not with more end tokens."""
    return ids.masked_fill((ids == end).int().cumsum(1) > 1, 0)


def layers(file: TensorFile, prefix: str, pooled: bool = True) -> Mapping[str, Part]:
    """Return all linear layers of the encoder whose keys begin with ``prefix``, by their paths in transformers.

    If the pooled text is not used, its projection and the last layer are left out, as diffusers does for SD 2.x. Raises
    LoraxError as ``part`` does.
    """
    block = re.compile(re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
    blocks = sorted({int(found[1]) for key in file.shapes if (found := block.match(key))})
    names = [f"{TEXT_MODEL}encoder.layers.{number}.{layer}" for number in (blocks if pooled else blocks[:-1]) for layer in LAYERS]
    parts = {name: part(file, prefix, f"{name}.weight") for name in (*names, *([PROJECTION] if pooled else []))}
    return {name: found for name, found in parts.items() if len(file.shapes.get(found.key, ())) == 2}
