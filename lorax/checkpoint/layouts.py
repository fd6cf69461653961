"""Finds the parameters of a base in an LDM checkpoint, in a UNet's file or in a diffusers folder."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from lorax.checkpoint import families, openclip
from lorax.checkpoint.families import Component
from lorax.checkpoint.layer_names import text_path
from lorax.errors import LoraxError, reading
from lorax.files import Part, TensorFile, is_file, open_tensors, read_json

VARIANTS = ("", ".fp16", ".bf16", ".non_ema")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
OTHER_FOLDERS = ("transformer", "prior", "decoder")  # subfolders of pipelines that have another model in place of a UNet
LDM_SIGN, DIFFUSERS_SIGN = "input_blocks.0.0.weight", "conv_in.weight"  # keys by which a UNet's layout is recognised


@dataclass(frozen=True)
class Layout:
    """A base's parameters by path: the UNet's, and a text encoder's. ``naming``: the UNet's; None for other architectures."""

    unet: Mapping[str, Part]
    naming: Literal["ldm", "diffusers"] | None
    text: Callable[[Component], Mapping[str, Part]] = lambda component: {}


def layout_of(path: Path) -> Layout:
    """Return the layout of a file or a folder, of any architecture. Raises LoraxError if nothing in it looks like a base."""
    return _of_folder(path) if path.is_dir() else _of_file(path)


def _of_file(path: Path) -> Layout:
    file = open_tensors(path)
    prefix = families.UNET.checkpoint
    if unet := {key.removeprefix(prefix): Part(file, key) for key in file.shapes if key.startswith(prefix)}:
        return Layout(unet, "ldm", lambda component: _text_in(file, component))
    if LDM_SIGN in file.shapes:
        return Layout(_parts(file), "ldm")
    if DIFFUSERS_SIGN in file.shapes:
        return Layout(_parts(file), "diffusers")
    if any("lora" in key or ".alpha" in key for key in file.shapes):
        raise LoraxError(f"{path}: an adapter; expected a base checkpoint with keys like {prefix}{LDM_SIGN}.")
    return Layout(_parts(file), None)


def _of_folder(path: Path) -> Layout:
    if (unet := _weights_in(path / families.UNET.folder)) is not None:
        return Layout(unet, "diffusers", lambda component: _text_parts(_weights_in(path / component.folder) or {}))
    if (unet := _weights_in(path)) is not None:
        return Layout(unet, "diffusers" if DIFFUSERS_SIGN in unet else None)
    for name in OTHER_FOLDERS:
        if (other := _weights_in(path / name)) is not None:
            return Layout(other, None)
    raise LoraxError(f"{path}: not a diffusers folder; expected {families.UNET.folder}/{STEMS[0]}.safetensors in it.")


def _parts(file: TensorFile) -> dict[str, Part]:
    return {key: Part(file, key) for key in file.shapes}


def _text_in(file: TensorFile, component: Component) -> Mapping[str, Part]:
    for prefix in component.prefixes:
        if component.open_clip:
            found = {f"{layer}.weight": part for layer, part in openclip.layers(file, prefix, component.pooled).items()}
        else:
            inside = {key.removeprefix(prefix): Part(file, key) for key in file.shapes if key.startswith(prefix)}
            found = _text_parts(inside)
        if found:
            return found
    return {}


def _text_parts(parts: Mapping[str, Part]) -> dict[str, Part]:
    return {text_path(key): part for key, part in parts.items()}


def is_layer(key: str, shape: tuple[int, ...]) -> bool:
    """Tell whether an adapter can change the parameter: the weight of a linear layer or a convolution."""
    return len(shape) in (2, 4) and 0 not in shape and key.endswith(".weight") and not key.endswith("_embedding.weight")


def _weights_in(folder: Path) -> dict[str, Part] | None:
    """Return the parameters of the model that diffusers or transformers wrote into ``folder``; None if there is none."""
    for name in _weight_files():
        if (file := folder / name).is_file():
            paths = _shards(file) if name.endswith(".json") else [file]
            return {key: part for path in paths for key, part in _parts(open_tensors(path)).items()}
    return None


def _weight_files() -> Iterator[str]:
    """Yield the file names for which diffusers and transformers look, the preferred ones first."""
    for kind, variant, stem in product(("safetensors", "bin"), VARIANTS, STEMS):
        yield f"{stem}{variant}.{kind}"
        yield f"{stem}.{kind}.index{variant}.json"
        if variant:
            yield f"{stem}{variant}.{kind}.index.json"  # older versions


def _shards(index: Path) -> list[Path]:
    """Return the files that an index names. Raises LoraxError if the index is damaged or a file is missing."""
    content = read_json(index, "an index of weight files")
    with reading(index, "an index of weight files", "Download it again."):
        names = sorted(set(content["weight_map"].values()))
        paths = [index.parent / Path(name).name for name in names]
    if missing := next((path for path in paths if not is_file(path)), None):
        raise LoraxError(f"{missing}: no such file, but {index.name} names it. Download it too.")
    return paths
