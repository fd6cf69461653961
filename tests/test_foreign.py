"""Other architectures and quantized bases are refused by name. The keys are from diffusers' models and converters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES
from diffusers.models import transformers
from packaging.version import Version
from safetensors.torch import save_file

from lorax.checkpoint import families, unsupported
from lorax.cli import main
from tests import builders, layouts
from tests.samples import Files, write

needs_todays_models = pytest.mark.skipif(Version(diffusers.__version__) < Version("0.42"), reason="an older diffusers")
# A class of diffusers, its title, and how to make it small.
ONE, SINGLE = {"num_layers": 1}, {"num_layers": 1, "num_single_layers": 1}
WIDTHS = {"block_out_channels": (32, 64, 64, 64), "layers_per_block": 1}
VIDEO = {"block_out_channels": (64, 64, 64, 64), "layers_per_block": 1, "cross_attention_dim": 64}
MODELS: list[tuple[str, str, dict[str, Any]]] = [
    ("FluxTransformer2DModel", "FLUX.1", SINGLE),
    ("Flux2Transformer2DModel", "FLUX.2", SINGLE),
    ("ChromaTransformer2DModel", "Chroma", SINGLE),
    ("SD3Transformer2DModel", "Stable Diffusion 3", ONE),
    ("AuraFlowTransformer2DModel", "AuraFlow", {"num_mmdit_layers": 1, "num_single_dit_layers": 1}),
    ("Lumina2Transformer2DModel", "Lumina", ONE),
    ("ZImageTransformer2DModel", "Z-Image", {"n_layers": 1}),
    ("HunyuanDiT2DModel", "Hunyuan-DiT", ONE | {"patch_size": 2, "in_channels": 4, "activation_fn": "gelu-approximate"}),
    ("HunyuanVideoTransformer3DModel", "Hunyuan Video or Hunyuan Image", SINGLE),
    ("HunyuanImageTransformer2DModel", "Hunyuan Video or Hunyuan Image", SINGLE),
    ("PixArtTransformer2DModel", "PixArt", ONE | {"caption_channels": 64}),
    ("SanaTransformer2DModel", "Sana", ONE),
    ("WanTransformer3DModel", "Wan", ONE),
    ("QwenImageTransformer2DModel", "Qwen-Image", ONE),
    ("CogVideoXTransformer3DModel", "CogView or CogVideoX", ONE),
    ("LTXVideoTransformer3DModel", "LTX-Video", ONE),
    ("MochiTransformer3DModel", "Mochi", ONE),
    ("CosmosTransformer3DModel", "Cosmos", ONE),
    ("Kandinsky5Transformer3DModel", "Kandinsky", {"num_text_blocks": 1, "num_visual_blocks": 1}),
    ("UNet2DConditionModel", "Kolors", WIDTHS | {"encoder_hid_dim": 64, "encoder_hid_dim_type": "text_proj"}),
    ("UNet2DConditionModel", "the x4 upscaler", WIDTHS | {"num_class_embeds": 1000}),
    ("UNetSpatioTemporalConditionModel", "Stable Video Diffusion", VIDEO | {"num_attention_heads": (1, 1, 1, 1)}),
    ("UNetMotionModel", "a text-to-video UNet", VIDEO),
    ("UNet3DConditionModel", "a text-to-video UNet", VIDEO),
]
# Keys by which diffusers knows checkpoints in their original layout -> their title.
ORIGINAL = {
    "stable_cascade_stage_b": "Stable Cascade",
    "stable_cascade_stage_c": "Stable Cascade",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
    "flux2": "FLUX.2",
    "chroma": "Chroma",
    "auraflow": "AuraFlow",
    "lumina2": "Lumina",
    "z-image-turbo": "Z-Image",
    "hunyuan-video": "Hunyuan Video or Hunyuan Image",
    "wan": "Wan",
    "hidream": "HiDream",
    "mochi-1-preview": "Mochi",
    "cosmos-1.0": "Cosmos",
    "cosmos-2.0": "Cosmos",
    "qwen-image-2.1": "Qwen-Image",
}


@needs_todays_models
@pytest.mark.parametrize(("name", "title", "config"), MODELS)
def test_models_of_diffusers(name: str, title: str, config: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = getattr(transformers, name, None) or getattr(diffusers, name)
        assert unsupported.architecture(model(**config).state_dict()) == title


# Keys by which Forge Neo (5692d2d, huggingface_guess/detection.py) knows architectures that diffusers has no names for.
OTHERS = {
    "llm_adapter.blocks.0.cross_attn.q_proj.weight": "Anima",
    "lq_proj.latent_proj.0.weight": "PiD",
    "txtfusion.projector.weight": "Krea 2",
    "layers.0.mlp.linear_fc2.weight": "ERNIE-Image",
    "head.modulation": "Wan",
    "txt_norm.weight": "Qwen-Image",
    "double_stream_modulation_img.lin.weight": "FLUX.2",
    "cap_embedder.1.weight": "Lumina",
}


@pytest.mark.parametrize(("key", "title"), OTHERS.items())
def test_what_forge_neo_lists(key: str, title: str) -> None:
    for prefix in ("", "model.diffusion_model.", "net." if title == "Anima" else ""):
        assert unsupported.architecture([f"{prefix}{key}"]) == title


@needs_todays_models
@pytest.mark.parametrize("kind", ORIGINAL)
def test_original_layouts(kind: str) -> None:
    keys = CHECKPOINT_KEY_NAMES[kind]
    keys = [keys] if isinstance(keys, str) else keys
    assert unsupported.architecture(keys) == ORIGINAL[kind]
    assert unsupported.architecture([f"model.diffusion_model.{key}" for key in keys]) == ORIGINAL[kind]


@pytest.mark.parametrize("kind", layouts.UNETS)
def test_supported_bases_are_none_of_these(kind: str) -> None:
    assert unsupported.architecture(layouts.unet(kind)) is None
    assert unsupported.quantization(layouts.unet(kind)) is None


def test_the_refusal(files: Files, tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    flux, folder = tmp_path / "flux.safetensors", tmp_path / "flux"
    key = "double_blocks.0.img_attn.qkv.weight"
    save_file({key: torch.ones(2, 2)}, flux)
    (folder / "transformer").mkdir(parents=True)
    inside = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({"single_transformer_blocks.0.norm.linear.weight": torch.ones(2, 2)}, inside)
    for path in (flux, folder):
        message = refused(target=path)
        assert f"{path}: FLUX.1, which is not supported. Supported: Stable Diffusion 1.x, Stable Diffusion 2.x, " in message
        assert all(family.title in message for family in families.FAMILIES)
        assert main(["inspect", str(path)]) == 0
        assert capsys.readouterr().out.splitlines() == ["kind: base", "family: FLUX.1", "status: not supported"]


@pytest.mark.parametrize(
    ("suffix", "title"),
    [
        (".quant_state.bitsandbytes__nf4", "NF4"),
        (".quant_state.bitsandbytes__fp4", "FP4"),
        (".absmax", "bitsandbytes"),
        (".scale_weight", "scaled FP8"),
        (".weight_scale", "scaled FP8"),
        (".comfy_quant", "scaled FP8"),
        (".qweight", "GPTQ, AWQ or SVDQuant"),
    ],
)
@pytest.mark.parametrize("key", [builders.UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q", "conditioner.embedders.1.x"])
def test_quantized_bases(files: Files, tmp_path: Path, refused: Callable[..., str], key: str, suffix: str, title: str) -> None:
    save_file(files.base_state | {key + suffix: torch.ones(4, dtype=torch.uint8)}, tmp_path / "small.safetensors")
    message = refused(source=tmp_path / "small.safetensors")
    assert f"a base quantized to {title}, which is not supported. Use the original fp16 or fp32 checkpoint." in message


def test_gguf(tmp_path: Path, refused: Callable[..., str]) -> None:
    message = refused(target=write(tmp_path / "flux.gguf", b"GGUF\x03\x00\x00\x00"))
    assert "a GGUF file, which is not supported. Its weights are quantized" in message
