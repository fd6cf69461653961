"""The formats that are read, and which key belongs to which part of which layer."""

from __future__ import annotations

import math

from lorax.errors import LoraxError
from lorax.files.tensors import TensorFile
from lorax.formats import dora, full, glora, ia3, loha, lokr, lora, oft
from lorax.formats.parts import ALPHA, Format, Shapes

FORMATS: tuple[Format, ...] = (lora, loha, lokr, full, glora, oft, ia3)
OWNED = {f".{ALPHA}": ALPHA} | dora.SUFFIXES | {end: part for format in FORMATS for end, part in format.SUFFIXES.items()}
SUFFIXES = dict(sorted(OWNED.items(), key=lambda item: -len(item[0])))  # ``.b1.weight`` before ``.weight``
# What is added to parameters of one dimension: of norms (LyCORIS), and of the bias beside a whole difference.
VECTORS = {".w_norm": "weight", ".b_norm": "bias", ".diff_b": "bias"}


def vector(key: str) -> tuple[str, str] | None:
    """(layer name, parameter) of a key that changes a norm or a bias, or None."""
    return next(((key[: -len(end)], parameter) for end, parameter in VECTORS.items() if key.endswith(end)), None)


def split(key: str) -> tuple[str, str] | None:
    """(layer name, part) of a key that one of the formats owns, or None. An old name is given as today's."""
    key = lora.today(key)
    return next(((key[: -len(end)], part) for end, part in SUFFIXES.items() if key.endswith(end)), None)


def owned(key: str, file: TensorFile) -> tuple[str, str] | None:
    """The same for a key among others: ``.weight`` ends the keys of most files, and is (IA)^3's beside its ``on_input`` only."""
    found = split(key)
    if found and found[1] == ia3.WEIGHT and f"{found[0]}.{ia3.ON_INPUT}" not in file.shapes:
        return None
    return found


def format_of(where: str, shapes: Shapes) -> Format:
    """Of which format a layer with these parts is.

    Raises LoraxError when they do not fit together, or are of two formats.
    """
    found = [format for format in FORMATS if any(part in shapes for part in format.SUFFIXES.values())]
    if len(found) > 1:
        raise LoraxError(f"{where}: parts of {' and '.join(format.TITLE for format in found)}; expected those of one format.")
    if math.prod(shapes.get(ALPHA, ())) != 1:
        raise LoraxError(f"{where}: alpha has shape {shapes[ALPHA]}; expected one number.")
    format = found[0] if found else lora
    format.check(where, shapes)
    return format
