"""Small synthetic SD 1.x bases and adapters, written from the v1-inference structure and not with lorax' own naming code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.structure import TINY, Param, Size

State = dict[str, torch.Tensor]
UNET, TE = "model.diffusion_model.", "cond_stage_model.transformer."


# --- bases -------------------------------------------------------------------------------------------------------------------


def base(seed: int = 0, size: Size = TINY) -> State:
    """A random base under its LDM keys, with the keys of other parts that real files have too."""
    made = torch.Generator().manual_seed(seed)
    state = {}
    for prefix, params in ((UNET, size.unet()), (TE, size.text())):
        for param in params:
            fan_in = max(1, int(np.prod(param.shape[1:])))
            state[prefix + param.ldm] = torch.randn(param.shape, generator=made) / fan_in**0.5
    state[f"{TE}text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["first_stage_model.decoder.conv_in.weight"] = torch.randn(8, 4, 3, 3, generator=made)
    state["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    return state


def relative(of: State, seed: int = 1, noise: float = 0.02) -> State:
    """A fine-tune: the same base with a little noise on every weight."""
    made = torch.Generator().manual_seed(seed)
    changed = {}
    for key, value in of.items():
        is_weight = value.is_floating_point() and value.dim() > 1
        changed[key] = value + noise * value.std() * torch.randn(value.shape, generator=made) if is_weight else value.clone()
    return changed


def pruned(of: State, size: Size = TINY) -> State:
    """Prune a base as BK-SDM does: of every level the first block down and the first and last up are kept and renumbered."""
    small = Size(size.channels, size.cross, size.text_layers, size.vocabulary, blocks=1)
    where = {param.diffusers: param.ldm for param in size.unet()}
    state = {key: value for key, value in of.items() if not key.startswith(UNET)}
    for param in small.unet():
        head, inside, rest = _up_block(param.diffusers)
        origin = f"{head}.2.{rest}" if inside == "1" else param.diffusers
        state[UNET + param.ldm] = of[UNET + where[origin]].clone()
    return state


def pruned_name(path: str) -> str | None:
    """The name that pruning gives to a layer of the base (diffusers layout), or None where it is pruned away."""
    parts = path.split(".")
    if parts[0] == "down_blocks" and parts[2] in ("resnets", "attentions"):
        return path if parts[3] == "0" else None
    if parts[0] == "up_blocks" and parts[2] in ("resnets", "attentions"):
        index = {"0": "0", "2": "1"}.get(parts[3])
        return ".".join([*parts[:3], index, *parts[4:]]) if index else None
    return path


def _up_block(path: str) -> tuple[str, str, str]:
    """``up_blocks.1.resnets.1.conv1.bias`` -> (``up_blocks.1.resnets``, ``1``, ``conv1.bias``)."""
    parts = path.split(".")
    if parts[0] != "up_blocks" or parts[2] not in ("resnets", "attentions"):
        return path, "", ""
    return ".".join(parts[:3]), parts[3], ".".join(parts[4:])


def save(state: Mapping[str, torch.Tensor], path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a base as one LDM file. A ``.ckpt`` is pickled under ``state_dict``, as the original training code does it."""
    tensors = {key: (value.to(dtype) if value.is_floating_point() else value).contiguous() for key, value in state.items()}
    if path.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "global_step": 3}, path)
    else:
        save_file(tensors, path)
    return path


def save_folder(state: Mapping[str, torch.Tensor], path: Path, size: Size = TINY, text_prefix: str = "text_model.") -> Path:
    """Write a base as a diffusers folder. transformers 5 writes the text encoder without ``text_model.``."""
    unet = {param.diffusers: state[UNET + param.ldm].contiguous() for param in size.unet()}
    text = {text_prefix + param.ldm.removeprefix("text_model."): state[TE + param.ldm] for param in size.text()}
    for folder, name, tensors in (
        ("unet", "diffusion_pytorch_model.safetensors", unet),
        ("text_encoder", "model.safetensors", text),
    ):
        (path / folder).mkdir(parents=True)
        save_file(tensors, path / folder / name)
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return path


# --- adapters ----------------------------------------------------------------------------------------------------------------

# One layer of every kind and shape, as the diffusers path.
SOME = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k",
    "down_blocks.2.attentions.0.proj_in",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_out.0",
    "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2",
)
CONVOLUTIONS = ("down_blocks.1.resnets.0.conv1", "up_blocks.2.resnets.2.conv2", "up_blocks.1.upsamplers.0.conv")
TEXT = ("text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.mlp.fc2")


@dataclass(frozen=True)
class Delta:
    """One layer of an adapter as it was made: its factors, and dW multiplied out by hand in float64."""

    ldm: str
    diffusers: str
    up: torch.Tensor
    down: torch.Tensor
    mid: torch.Tensor | None
    alpha: float | None
    dense: np.ndarray

    @property
    def component(self) -> str:
        return "te" if self.ldm.startswith("text_model.") else "unet"

    @property
    def layer(self) -> str:
        """The layer's name in lorax."""
        return f"{self.component}.{self.ldm}"

    def named(self, naming: str) -> str:
        text = self.component == "te"
        return {
            "kohya": ("lora_te_" if text else "lora_unet_") + self.diffusers.replace(".", "_"),
            "kohya-te1": ("lora_te1_" if text else "lora_unet_") + self.diffusers.replace(".", "_"),
            "compvis": ("lora_te_" if text else "lora_unet_") + self.ldm.replace(".", "_"),
            "peft": "base_model.model." + self.diffusers,
            "diffusers": ("text_encoder." if text else "unet.") + self.diffusers,
        }[naming]


def deltas(
    paths: Iterable[str] = SOME + TEXT, rank: int = 4, alpha: float | None = 2.0, mid: bool = False, size: Size = TINY
) -> list[Delta]:
    made = np.random.default_rng(5)
    params = {param.diffusers: param for param in [*size.unet(), *size.text()]}
    return [_delta(params[f"{path}.weight"], rank, alpha, mid, made) for path in paths]


def _delta(param: Param, rank: int, alpha: float | None, mid: bool, made: np.random.Generator) -> Delta:
    m, n, *kernel = param.shape
    up = made.normal(size=(m, rank, 1, 1) if kernel else (m, rank)) / m**0.5
    down = made.normal(size=(rank, n, *kernel)) / n**0.5
    middle = None
    scale = 1.0 if alpha is None else alpha / rank
    if mid and kernel:
        middle, down = made.normal(size=(rank, rank, *kernel)), made.normal(size=(rank, n, 1, 1)) / n**0.5
        up, middle, down = _float32(up), _float32(middle), _float32(down)
        dense = np.einsum("op,pqhw,qi->oihw", up[:, :, 0, 0], middle, down[:, :, 0, 0]).reshape(m, -1)
    else:
        up, down = _float32(up), _float32(down)
        dense = up.reshape(m, rank) @ down.reshape(rank, -1)
    ldm, diffusers = param.ldm.removesuffix(".weight"), param.diffusers.removesuffix(".weight")
    B, A, M = (None if x is None else torch.tensor(x, dtype=torch.float32) for x in (up, down, middle))
    assert B is not None
    assert A is not None
    return Delta(ldm, diffusers, B, A, M, alpha, scale * dense)


def _float32(x: np.ndarray) -> np.ndarray:
    """Values that float32 holds exactly, so that writing the adapter rounds nothing."""
    return x.astype(np.float32).astype(np.float64)


def adapter(layers: Iterable[Delta], naming: str = "kohya") -> State:
    """The adapter's tensors under their keys in one of the namings of ``Delta.named``."""
    up, down = {
        "peft": (".lora_B.weight", ".lora_A.weight"),
        "diffusers": (".lora.up.weight", ".lora.down.weight"),
    }.get(naming, (".lora_up.weight", ".lora_down.weight"))
    state: State = {}
    for layer in layers:
        name = layer.named(naming)
        state[name + up], state[name + down] = layer.up, layer.down
        if layer.mid is not None:
            state[f"{name}.lora_mid.weight"] = layer.mid
        if layer.alpha is not None:
            state[f"{name}.alpha"] = torch.tensor(layer.alpha)
    return state


def save_lora(path: Path, layers: Iterable[Delta], naming: str = "kohya", metadata: dict[str, str] | None = None) -> Path:
    save_file(adapter(layers, naming), path, metadata)
    return path


# --- reading back ------------------------------------------------------------------------------------------------------------


def dense(path: Path) -> dict[str, np.ndarray]:
    """Kohya name -> dW in float64, decoded from a written LoRA as a host does it."""
    with safe_open(str(path), "np" if _plain(path) else "pt") as file:
        tensors = {key: torch.as_tensor(file.get_tensor(key)).double().numpy() for key in file.keys()}  # noqa: SIM118
    found = {}
    for key in tensors:
        if key.endswith(".alpha"):
            name = key.removesuffix(".alpha")
            up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
            rank = down.shape[0]
            found[name] = float(tensors[key]) / rank * (up.reshape(-1, rank) @ down.reshape(rank, -1))
    return found


def _plain(path: Path) -> bool:
    return b"BF16" not in path.read_bytes()


def header(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    return metadata


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
