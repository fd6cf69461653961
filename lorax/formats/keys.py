"""The list of formats, and the layer and the part of a key."""

import math

from lorax.errors import LoraxError
from lorax.files import TensorFile
from lorax.formats import dora, full, glora, ia3, loha, lokr, lora, oft, small
from lorax.formats.parts import ALPHA, Format, Shapes

COMMON: tuple[Format, ...] = (lora, loha, lokr, full, glora, oft, ia3)  # formats of other tools
FORMATS: tuple[Format, ...] = (*COMMON, small)
OWNED = {f".{ALPHA}": ALPHA} | dora.SUFFIXES | {end: part for format in FORMATS for end, part in format.SUFFIXES.items()}
DOTS = max(end.count(".") for end in OWNED)  # each of them begins with one
# Suffix -> parameter, for changes of norms (LyCORIS), and of a bias together with a whole difference.
VECTORS = {"w_norm": "weight", "b_norm": "bias", "diff_b": "bias"}
LARGEST_WEIGHT = 1 << 26  # values: the largest of SDXL's refiner has 42 million. A few kB of LoKr can ask for terabytes
EMBEDDING = "bundle_emb."  # begins the keys of textual inversion embeddings, which A1111 loads from an adapter's file


def vector(key: str) -> tuple[str, str] | None:
    """Return (layer name, parameter) of a key that changes a norm or a bias; None for other keys."""
    layer, dot, end = key.rpartition(".")
    return (layer, VECTORS[end]) if dot and end in VECTORS else None


def split(key: str) -> tuple[str, str] | None:
    """Return (layer name, part) of a key that has a format's suffix, or an old spelling of one; None for other keys."""
    found, key = None, lora.modern(key)
    at = len(key)
    for _ in range(DOTS):
        if (at := key.rfind(".", 0, at)) < 0:
            break
        if (part := OWNED.get(key[at:])) is not None:
            found = key[:at], part  # a longer suffix counts more: ``.b1.weight`` than ``.weight``
    return found


def owned(key: str, file: TensorFile) -> tuple[str, str] | None:
    """Return (layer name, part) of a key in its file; None if it has none. ``.weight`` is (IA)^3's only with ``on_input``."""
    found = split(key)
    if found and found[1] == ia3.WEIGHT and f"{found[0]}.{ia3.ON_INPUT}" not in file.shapes:
        return None
    return found


def format_of(where: str, shapes: Shapes) -> Format:
    """Return the format of a layer with these parts. Raises LoraxError if they do not go together or belong to two formats."""
    found = [format for format in FORMATS if any(part in shapes for part in format.SUFFIXES.values())]
    if len(found) > 1:
        raise LoraxError(f"{where}: parts of {' and '.join(format.TITLE for format in found)}; expected those of one format.")
    if math.prod(shapes.get(ALPHA, ())) != 1:
        raise LoraxError(f"{where}: alpha has shape {shapes[ALPHA]}; expected one number.")
    format = found[0] if found else lora
    if empty := next((part for part, shape in shapes.items() if 0 in shape), None):
        raise LoraxError(
            f"{where}: {empty} has the shape {shapes[empty]} and no values, thus no rank. The file is damaged; export it again."
        )
    format.check(where, shapes)
    extent = format.extent(shapes)
    if (extent.outputs or 1) * (extent.inputs or 1) > LARGEST_WEIGHT:
        raise LoraxError(
            f"{where}: changes a weight of shape {extent[:2]}, but no base has one of more than {LARGEST_WEIGHT >> 20} million "
            "values. The file is damaged; export it again."
        )
    return format
