"""What a pair of weights keeps for the next adapter: its rank, its similarity and the bases that were projected on.

Finding them takes some hundred times as long as reading them. An entry is found by the content of both weights, so neither a
file's name nor its age matters, and a weight that changed is another one.
"""

from __future__ import annotations

import hashlib
import json

import torch

from lorax import __version__
from lorax.files.cache import Entry
from lorax.methods.weight_pair import Bases, Known
from lorax.subspace import Basis, Decomposition


def key(bases: Bases) -> str:
    """Of the weights as stored, and the rule; of weights on a graphics card the bytes are fetched."""
    weights = bases.source.stored, bases.target.stored
    content = [[str(W.dtype), *W.shape, hashlib.sha256(_bytes(W)).hexdigest()] for W in weights]
    return hashlib.sha256(json.dumps([__version__, bases.rule.text, content]).encode()).hexdigest()


def to_entry(bases: Bases) -> Entry | None:
    """What was computed; None if that was nothing, or not worth keeping."""
    known = bases.computed()
    if not (bases.source.has_worked or bases.target.has_worked):
        return None
    tensors: dict[str, torch.Tensor] = {}
    for side, of in (("source", bases.source), ("target", bases.target)):
        if known.r is not None and (basis := of.basis_of(known.r)) is not None:
            parts = {"near": basis.near, "S": basis.S, "far": basis.far}
            tensors |= {f"{side}.{part}": tensor.contiguous().cpu() for part, tensor in parts.items() if tensor is not None}
    return Entry(tensors, {"known": json.dumps([known.r, known.similarity])})


def from_entry(entry: Entry, bases: Bases) -> Bases:
    """The bases with what was kept of them. Raises ValueError, KeyError or TypeError where the entry is not one of theirs."""
    r, similarity = json.loads(entry.notes["known"])
    known = Known(None if r is None else int(r), None if similarity is None else float(similarity))
    if known.r is None:
        return Bases(bases.source, bases.target, bases.rule, known)
    if not 0 < known.r <= min(bases.source.p, bases.target.p):
        raise ValueError(r)
    sides = []
    for side, of in (("source", bases.source), ("target", bases.target)):
        near, S, far = (entry.tensors.get(f"{side}.{part}") for part in ("near", "S", "far"))
        if near is None or S is None:
            sides.append(of)
            continue
        if near.shape != (of.p, r) or S.shape != (r,):
            raise ValueError(near.shape)
        sides.append(Decomposition(of.stored, Basis.of(of.stored, near, S, far)))
    return Bases(sides[0], sides[1], bases.rule, known)


def _bytes(W: torch.Tensor) -> memoryview:
    return W.contiguous().cpu().view(torch.uint8).numpy().data
