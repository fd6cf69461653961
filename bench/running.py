"""Checkpoints that can be run, of SD 1.5's and SDXL's structure, and a LoRA on the first: of full size, without real weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from bench import full_size
from bench.full_size import Tensor
from lorax.demo.bundle import BUNDLE
from lorax.runner.vae import ldm_name
from tests import builders, structure, xl

VOCABULARY = 2000  # of narrow text encoders: above that of the lab's tokenizer
WIDE = (128, 256, 512, 512)  # the autoencoder of both
YAML = "image_size: {size}\nmodel:\n  params:\n    network_config:\n      params:\n        {heads}\n"


@dataclass(frozen=True)
class Pair:
    """SD 1.5 and SDXL."""

    sd: structure.Size
    xl: xl.Size
    autoencoder: tuple[int, ...]
    sizes: tuple[int, int]  # of the latents, a side


FULL = Pair(structure.FULL, xl.FULL, WIDE, (64, 128))
NARROW = Pair(
    replace(structure.TINY, vocabulary=VOCABULARY),
    replace(xl.XL, channels=(64, 128, 192), first=64, second=128, vocabulary=VOCABULARY),
    (32, 32, 32, 32),
    (8, 16),
)


def write(folder: Path, pair: Pair, rank: int, every: int = 1) -> None:
    """``sd.safetensors`` and ``xl.safetensors`` in half precision, ``lora.safetensors``, and a folder with a tokenizer.

    The LoRA has one in ``every`` so many layers of what is trained by default.
    """
    baked = list(autoencoder(pair.autoencoder))
    sd = [(builders.UNET + param.ldm, param.shape) for param in pair.sd.unet()]
    sd += [(builders.TE + param.ldm, param.shape) for param in pair.sd.text()]
    full_size.write(folder / "sd.safetensors", sd + baked)
    full_size.write(folder / "xl.safetensors", full_size.checkpoint(pair.xl) + baked)
    full_size.write(folder / "lora.safetensors", list(lora(pair.sd, rank, every)))
    for name, size, heads in zip(("sd", "xl"), pair.sizes, ("num_heads: 8", "num_head_channels: 64"), strict=True):
        (folder / f"{name}.yaml").write_text(YAML.format(size=size, heads=heads), encoding="utf-8")
    (folder / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(BUNDLE / "tokenizer" / name, folder / "tokenizer")


def autoencoder(widths: tuple[int, ...]) -> Iterator[Tensor]:
    with torch.device("meta"):
        made = AutoencoderKL(
            block_out_channels=widths,
            layers_per_block=2,
            latent_channels=4,
            down_block_types=["DownEncoderBlock2D"] * len(widths),
            up_block_types=["UpDecoderBlock2D"] * len(widths),
        )
    return ((ldm_name(name, len(widths)), tuple(parameter.shape)) for name, parameter in made.named_parameters())


def lora(size: structure.Size, rank: int, every: int = 1) -> Iterator[Tensor]:
    """On the attention modules of the UNet, in kohya's names: what it trains by default, but for the text encoder."""
    params = [param for param in size.unet() if param.is_layer and (".transformer_blocks." in param.ldm or ".proj_" in param.ldm)]
    for param in params[::every]:
        m, n, *kernel = param.shape
        name = "lora_unet_" + param.diffusers.removesuffix(".weight").replace(".", "_")
        yield f"{name}.lora_up.weight", (m, rank, *(1 for _ in kernel))
        yield f"{name}.lora_down.weight", (rank, n, *kernel)
        yield f"{name}.alpha", ()
