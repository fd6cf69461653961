"""The folder as host draws what the runner can run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import AutoencoderKL

from lab import data, ldm, vae, xl
from lab.models import Model, new_text_encoder, new_unet
from lorax.catalog import ListedFile
from lorax.demo.bundle import BASE, BUNDLE, unpack
from lorax.errors import LoraxError
from lorax.hosts.base import Drawing, Shot
from lorax.hosts.standalone import Standalone
from tests.lab_models import LORA

TOKENIZER = BUNDLE / "tokenizer"


def shallow_vae() -> AutoencoderKL:
    """Two pixels a latent value, so that latents of SD 1.x's own size make small pictures."""
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(32, 32), layers_per_block=1, latent_channels=4, **kinds)


def sizes(folder: Path, *names: str) -> list[tuple[int, int]]:
    host = Standalone(folder)
    shots = [Shot(name, host.bases()[name], None) for name in names]
    return [drawn.picture.size for drawn in host.pictures(shots, Drawing("guitar", steps=1), lambda done, total, name: None)]


def test_sdxl_and_checkpoints_without_a_yaml_are_compared(tmp_path: Path) -> None:
    ldm.write_checkpoint(tmp_path / "xl.safetensors", xl.new_xl(), vae.new(), TOKENIZER)
    plain = tmp_path / "deeper" / "plain.safetensors"
    ldm.write_checkpoint(plain, Model(new_text_encoder(), new_unet(layers_per_block=1)), shallow_vae(), TOKENIZER)
    plain.with_suffix(".yaml").unlink()
    shutil.rmtree(plain.parent / "tokenizer")  # the one above serves
    assert sizes(tmp_path, "xl", "deeper/plain") == [(data.SIZE, data.SIZE), (128, 128)]


def test_without_a_tokenizer_it_is_said_what_is_missing(tmp_path: Path) -> None:
    host, listed = Standalone(tmp_path), ListedFile("x", tmp_path / "deeper" / "x.safetensors")
    with pytest.raises(LoraxError, match=r"x\.safetensors: pictures need a tokenizer folder"):
        list(host.pictures([Shot("x", listed, None)], Drawing("guitar"), lambda done, total, name: None))


def test_a_picture_is_drawn_at_the_strength_and_away_from_the_negative_prompt(tmp_path: Path) -> None:
    unpack(tmp_path)
    host = Standalone(tmp_path)
    base, lora = host.bases()[BASE], ListedFile("style", LORA)
    drawing = Drawing("guitar", steps=2)

    def drawn(shot: Shot, how: Drawing = drawing) -> bytes:
        (one,) = host.pictures([shot], how, lambda done, total, name: None)
        return bytes(one.picture.tobytes())

    alone, whole, half = (drawn(Shot("x", base, lora, strength)) for strength in (0.0, 1.0, 0.5))
    assert alone == drawn(Shot("x", base, None))
    assert len({alone, whole, half}) == 3
    assert drawn(Shot("x", base, None), replace(drawing, negative="red")) != alone
    assert drawn(Shot("x", base, None, seed=8)) != alone
