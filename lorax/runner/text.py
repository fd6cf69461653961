"""Loads a checkpoint's text encoders: CLIP in transformers' layout (SD 1.x, SDXL's first) and in OpenCLIP's (SDXL's second)."""

import re
from functools import partial
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorax.checkpoint import PROJECTION, TEXT_MODEL, openclip, text_path
from lorax.errors import LoraxError
from lorax.files import Part, TensorFile, read_json
from lorax.runner.loading import load

HEAD_CHANNELS = 64  # width of a head in all text encoders of SD 1.x and SDXL


def load_text_encoder(
    file: TensorFile, prefix: str, config: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Load the encoder whose keys begin with ``prefix``; with its projection if the layout is OpenCLIP's.

    The structure is read from the shapes, and the number of heads from the file ``config`` (transformers' ``config.json``). If
    there is no such file, a head has 64 channels. Raises LoraxError if the checkpoint lacks the encoder, or if ``config`` belongs
    to another one.
    """
    is_open_clip = f"{prefix}positional_embedding" in file.shapes
    shortened = f"{prefix}embeddings.token_embedding.weight" in file.shapes  # some old checkpoints leave ``text_model.`` out

    def part_of(name: str) -> Part:
        name = text_path(name)
        if is_open_clip:
            return openclip.part(file, prefix, name)
        return Part(file, prefix + (name.removeprefix(TEXT_MODEL) if shortened else name))

    def shape(name: str) -> tuple[int, ...]:
        part = part_of(name)
        if part.key not in file.shapes:
            raise LoraxError(f"{file.path}: {part.key} is missing. Pictures need a checkpoint with its text encoders.")
        if len(part.shape) != 2:
            raise LoraxError(
                f"{file.path}: {part.key} has shape {part.shape}; expected a matrix. The checkpoint is damaged; use another copy."
            )
        return part.shape

    vocabulary, width = shape("embeddings.token_embedding.weight")
    layer = re.compile(re.escape(prefix) + r".*(?:layers|resblocks)\.(\d+)\.")
    inferred = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shape("encoder.layers.0.mlp.fc1.weight")[0],
        num_hidden_layers=len({found[1] for key in file.shapes if (found := layer.match(key))}),
        num_attention_heads=_heads(config, width),
        max_position_embeddings=shape("embeddings.position_embedding.weight")[0],
        hidden_act="gelu" if is_open_clip else "quick_gelu",
        projection_dim=shape(f"{PROJECTION}.weight")[0] if is_open_clip else width,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,  # the pooled text is read at the first of these
    )
    kind = CLIPTextModelWithProjection if is_open_clip else CLIPTextModel
    encoder = load(partial(kind, inferred), part_of, device, dtype)
    for name, buffer in encoder.named_buffers():  # not in the file, and lost on the meta device
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]))
    return encoder


def _heads(config: Path, width: int) -> int:
    if not config.is_file():
        if width % (heads := max(1, width // HEAD_CHANNELS)):
            raise LoraxError(
                f"{config}: no such file, and the checkpoint's text encoder is {width} wide; expected a multiple of "
                f"{HEAD_CHANNELS}. Put the encoder's own config.json there."
            )
        return heads
    content = read_json(config, "a text encoder's configuration")
    try:
        content = content.get("text_config", content)  # a configuration of CLIP as a whole
        heads, described = int(content["num_attention_heads"]), int(content["hidden_size"])
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise LoraxError(
            f"{config}: not a text encoder's configuration ({type(error).__name__}: {error}). "
            "Expected transformers' config.json with hidden_size and num_attention_heads; correct or remove it."
        ) from error
    if described != width or heads < 1 or width % heads:
        raise LoraxError(
            f"{config}: describes an encoder {described} wide with {heads} heads; the checkpoint's is {width} wide. "
            "Give the tokenizer folder that belongs to the checkpoint."
        )
    return heads
