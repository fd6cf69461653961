"""What a pair of weights keeps for the next adapter: its rank, its similarity and the bases that were projected on.

Finding them takes some hundred times as long as reading them. An entry is found by the content of both weights, so neither a
file's name nor its age matters, and a weight that changed is another one.
"""

from __future__ import annotations

import hashlib
import json

import torch

from lorax import __version__
from lorax.cache import Entry
from lorax.methods.bases import Bases, Known
from lorax.subspace import Basis, Decomposition, RankRule


def key(W_s: torch.Tensor, W_t: torch.Tensor, rule: RankRule) -> str:
    """Of the weights as stored; of one that is on a graphics card the bytes are fetched."""
    content = [[str(W.dtype), *W.shape, hashlib.sha256(_bytes(W)).hexdigest()] for W in (W_s, W_t)]
    return hashlib.sha256(json.dumps([__version__, rule.text, content]).encode()).hexdigest()


def to_entry(bases: Bases) -> Entry | None:
    """What was computed; None if that was nothing, or not worth keeping."""
    known = bases.computed()
    if known.r is None or not (bases.source.has_worked or bases.target.has_worked):
        return None
    tensors: dict[str, torch.Tensor] = {}
    for side, of in (("source", bases.source), ("target", bases.target)):
        if (basis := of.basis_of(known.r)) is not None:
            parts = {"near": basis.near, "S": basis.S, "far": basis.far}
            tensors |= {f"{side}.{part}": tensor.contiguous().cpu() for part, tensor in parts.items() if tensor is not None}
    return Entry(tensors, {"known": json.dumps([known.r, known.similarity])})


def from_entry(entry: Entry, W_s: torch.Tensor, W_t: torch.Tensor, rule: RankRule) -> Bases:
    """Raises ValueError, KeyError or TypeError where the entry is not one of ``to_entry`` for such weights."""
    r, similarity = json.loads(entry.notes["known"])
    if not 0 < int(r) <= min(*W_s.shape, *W_t.shape):
        raise ValueError(r)
    sides = []
    for side, W in (("source", W_s), ("target", W_t)):
        parts = {part: entry.tensors.get(f"{side}.{part}") for part in ("near", "S", "far")}
        basis = None
        if (near := parts["near"]) is not None and (S := parts["S"]) is not None:
            if near.shape != (min(W.shape), r) or S.shape != (r,):
                raise ValueError(near.shape)
            basis = Basis.of(W, near, S, parts["far"])
        sides.append(Decomposition(W, basis))
    return Bases(sides[0], sides[1], rule, Known(int(r), None if similarity is None else float(similarity)))


def _bytes(W: torch.Tensor) -> memoryview:
    return W.contiguous().cpu().view(torch.uint8).numpy().data
