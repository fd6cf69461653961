"""Small synthetic SD 1.x bases and adapters, written from the v1-inference structure and not with lorax' own naming code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

State = dict[str, torch.Tensor]
UNET, TE = "model.diffusion_model.", "cond_stage_model.transformer."


class Param(NamedTuple):
    """A parameter: its path in the LDM layout, in the diffusers layout, and its shape."""

    ldm: str
    diffusers: str
    shape: tuple[int, ...]

    @property
    def is_layer(self) -> bool:
        return len(self.shape) in (2, 4) and "embedding.weight" not in self.ldm


@dataclass(frozen=True)
class Size:
    channels: tuple[int, ...] = (32, 64, 96, 96)
    cross: int = 64
    text_layers: int = 2
    vocabulary: int = 99
    blocks: int = 2  # residual blocks per level on the way down; one more on the way up

    def unet(self) -> list[Param]:
        levels = len(self.channels)
        down = [(1,) * self.blocks] * (levels - 1) + [(0,) * self.blocks]  # attention on all levels but the deepest
        up = [(0,) * (self.blocks + 1)] + [(1,) * (self.blocks + 1)] * (levels - 1)
        return list(unet_params(self.channels, self.cross, down, 1, up))

    def text(self) -> list[Param]:
        return list(text_params(self.cross, self.text_layers, self.vocabulary))


TINY = Size()
TINY_PRUNED = Size(blocks=1)
WIDER = Size(channels=(64, 96, 128, 128), cross=96)
FULL = Size((320, 640, 1280, 1280), 768, 12, 49408)
FULL_PRUNED = Size((320, 640, 1280, 1280), 768, 12, 49408, blocks=1)


def _both(path: str, *shape: int, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{path}.weight", shape
    if bias:
        yield f"{path}.bias", shape[:1]


def _resnet(ldm: str, diffusers: str, inputs: int, outputs: int, time: int) -> Iterator[Param]:
    rows = [
        ("in_layers.0", "norm1", (inputs,)),
        ("in_layers.2", "conv1", (outputs, inputs, 3, 3)),
        ("emb_layers.1", "time_emb_proj", (outputs, time)),
        ("out_layers.0", "norm2", (outputs,)),
        ("out_layers.3", "conv2", (outputs, outputs, 3, 3)),
    ]
    if inputs != outputs:
        rows.append(("skip_connection", "conv_shortcut", (outputs, inputs, 1, 1)))
    for a, b, shape in rows:
        yield from _same(f"{ldm}.{a}", f"{diffusers}.{b}", *shape)


def _same(ldm: str, diffusers: str, *shape: int, bias: bool = True) -> Iterator[Param]:
    for (a, size), (b, _) in zip(_both(ldm, *shape, bias=bias), _both(diffusers, *shape, bias=bias), strict=True):
        yield Param(a, b, size)


def _attention(ldm: str, diffusers: str, c: int, cross: int, depth: int, linear: bool) -> Iterator[Param]:
    """A module of ``depth`` transformer blocks, none at 0; its projections are linear layers or 1x1 convolutions."""
    if not depth:
        return
    square = (c, c) if linear else (c, c, 1, 1)
    for name, shape in (("norm", (c,)), ("proj_in", square), ("proj_out", square)):
        yield from _same(f"{ldm}.{name}", f"{diffusers}.{name}", *shape)
    for number in range(depth):
        a, b = f"{ldm}.transformer_blocks.{number}", f"{diffusers}.transformer_blocks.{number}"
        for attn, inputs in (("attn1", c), ("attn2", cross)):
            for name, width in (("to_q", c), ("to_k", inputs), ("to_v", inputs)):
                yield from _same(f"{a}.{attn}.{name}", f"{b}.{attn}.{name}", c, width, bias=False)
            yield from _same(f"{a}.{attn}.to_out.0", f"{b}.{attn}.to_out.0", c, c)
        yield from _same(f"{a}.ff.net.0.proj", f"{b}.ff.net.0.proj", 8 * c, c)
        yield from _same(f"{a}.ff.net.2", f"{b}.ff.net.2", c, 4 * c)
        for name in ("norm1", "norm2", "norm3"):
            yield from _same(f"{a}.{name}", f"{b}.{name}", c)


def unet_params(
    channels: tuple[int, ...],
    cross: int,
    down: Sequence[Sequence[int]],
    middle: int | None,
    up: Sequence[Sequence[int]],
    *,
    linear: bool = False,
    pooled: int | None = None,
) -> Iterator[Param]:
    """``down``, ``up``: transformer blocks beside each residual block of a level, in the order of the layers.

    ``middle``: None for no attention, and as in the WebUI's SSD-1B no second residual block either. ``pooled``: width of what the
    timestep embedding is given besides.
    """
    first, time, last = channels[0], 4 * channels[0], len(channels) - 1
    yield from _same("time_embed.0", "time_embedding.linear_1", time, first)
    yield from _same("time_embed.2", "time_embedding.linear_2", time, time)
    if pooled is not None:
        yield from _same("label_emb.0.0", "add_embedding.linear_1", time, pooled)
        yield from _same("label_emb.0.2", "add_embedding.linear_2", time, time)
    yield from _same("input_blocks.0.0", "conv_in", first, 4, 3, 3)
    number, c, skips = 1, first, [first]
    for level, width in enumerate(channels):
        name = f"down_blocks.{level}"
        for index, depth in enumerate(down[level]):
            yield from _resnet(f"input_blocks.{number}.0", f"{name}.resnets.{index}", c, width, time)
            yield from _attention(f"input_blocks.{number}.1", f"{name}.attentions.{index}", width, cross, depth, linear)
            number, c = number + 1, width
            skips.append(c)
        if level < last:
            yield from _same(f"input_blocks.{number}.0.op", f"{name}.downsamplers.0.conv", c, c, 3, 3)
            number += 1
            skips.append(c)
    yield from _resnet("middle_block.0", "mid_block.resnets.0", c, c, time)
    if middle is not None:
        yield from _attention("middle_block.1", "mid_block.attentions.0", c, cross, middle, linear)
        yield from _resnet("middle_block.2", "mid_block.resnets.1", c, c, time)
    number = 0
    for level, width in enumerate(reversed(channels)):
        name = f"up_blocks.{level}"
        for index, depth in enumerate(up[level]):
            yield from _resnet(f"output_blocks.{number}.0", f"{name}.resnets.{index}", c + skips.pop(), width, time)
            yield from _attention(f"output_blocks.{number}.1", f"{name}.attentions.{index}", width, cross, depth, linear)
            c = width
            if index == len(up[level]) - 1 and level < last:
                child = 2 if depth else 1
                yield from _same(f"output_blocks.{number}.{child}.conv", f"{name}.upsamplers.0.conv", c, c, 3, 3)
            number += 1
    yield from _same("out.0", "conv_norm_out", c)
    yield from _same("out.2", "conv_out", 4, c, 3, 3)


def text_params(width: int, layers: int, vocabulary: int) -> Iterator[Param]:
    rows: list[tuple[str, tuple[int, ...]]] = [
        ("embeddings.token_embedding.weight", (vocabulary, width)),
        ("embeddings.position_embedding.weight", (77, width)),
    ]
    for layer in range(layers):
        head = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            rows += _both(f"{head}.self_attn.{name}", width, width)
        rows += [*_both(f"{head}.layer_norm1", width), *_both(f"{head}.layer_norm2", width)]
        rows += [*_both(f"{head}.mlp.fc1", 4 * width, width), *_both(f"{head}.mlp.fc2", width, 4 * width)]
    rows += _both("final_layer_norm", width)
    for path, shape in rows:
        yield Param(f"text_model.{path}", f"text_model.{path}", shape)


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
    """As BK-SDM prunes: of every level, the first block down and the first and last block up are kept and renumbered."""
    small = Size(size.channels, size.cross, size.text_layers, size.vocabulary, blocks=1)
    where = {param.diffusers: param.ldm for param in size.unet()}
    state = {key: value for key, value in of.items() if not key.startswith(UNET)}
    for param in small.unet():
        head, inside, rest = _up_block(param.diffusers)
        origin = f"{head}.2.{rest}" if inside == "1" else param.diffusers
        state[UNET + param.ldm] = of[UNET + where[origin]].clone()
    return state


def _up_block(path: str) -> tuple[str, str, str]:
    """``up_blocks.1.resnets.1.conv1.bias`` -> (``up_blocks.1.resnets``, ``1``, ``conv1.bias``)."""
    parts = path.split(".")
    if parts[0] != "up_blocks" or parts[2] not in ("resnets", "attentions"):
        return path, "", ""
    return ".".join(parts[:3]), parts[3], ".".join(parts[4:])


def save(state: Mapping[str, torch.Tensor], path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """As one LDM file; ``.ckpt`` is pickled under ``state_dict`` as the original training code does."""
    tensors = {key: (value.to(dtype) if value.is_floating_point() else value).contiguous() for key, value in state.items()}
    if path.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "global_step": 3}, path)
    else:
        save_file(tensors, path)
    return path


def save_folder(state: Mapping[str, torch.Tensor], path: Path, size: Size = TINY, text_prefix: str = "text_model.") -> Path:
    """The same base as a diffusers folder. transformers 5 writes the text encoder without ``text_model.``."""
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
