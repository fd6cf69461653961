"""Caches the results about a pair of weights, which take a hundred times as long to compute as the weights to read."""

import hashlib
import json

import torch

from lorax import __version__
from lorax.files import Entry
from lorax.methods.weight_pair import Found, WeightPair
from lorax.subspace import Basis, Decomposition


def key(pair: WeightPair) -> str:
    """Hash the weights as stored, and the rule."""
    content = []
    for W in (pair.source.stored, pair.target.stored):
        data = W.contiguous().cpu().view(torch.uint8).numpy().data
        content.append([str(W.dtype), *W.shape, hashlib.sha256(data).hexdigest()])
    return hashlib.sha256(json.dumps([__version__, pair.rule.text, content]).encode()).hexdigest()


def to_entry(pair: WeightPair) -> Entry | None:
    """Return the results for the pair; None if nothing was computed."""
    found = pair.found()
    if not (pair.source.has_worked or pair.target.has_worked):
        return None
    tensors: dict[str, torch.Tensor] = {}
    for side, weight in _sides(pair).items():
        if found.r is not None and (basis := weight.basis_of(found.r)) is not None:
            parts = {"near": basis.near, "S": basis.S, "far": basis.far}
            tensors |= {f"{side}.{part}": tensor.contiguous().cpu() for part, tensor in parts.items() if tensor is not None}
    return Entry(tensors, {"known": json.dumps([found.r, found.similarity])})


def from_entry(entry: Entry, pair: WeightPair) -> WeightPair:
    """Return the pair with its cached results. Raises ValueError, KeyError or TypeError if the entry is damaged."""
    r, similarity = json.loads(entry.notes["known"])
    found = Found(None if r is None else int(r), None if similarity is None else float(similarity))
    if found.r is None:
        return WeightPair(pair.source, pair.target, pair.rule, found)
    if not 0 < found.r <= min(pair.source.p, pair.target.p):
        raise ValueError(r)
    sides = {}
    for side, weight in _sides(pair).items():
        near, S, far = (entry.tensors.get(f"{side}.{part}") for part in ("near", "S", "far"))
        if near is None or S is None:
            sides[side] = weight
            continue
        if near.shape != (weight.p, r) or S.shape != (r,):
            raise ValueError(near.shape)
        sides[side] = Decomposition(weight.stored, Basis.of(weight.stored, near, S, far))
    return WeightPair(sides["source"], sides.get("target", sides["source"]), pair.rule, found)


def _sides(pair: WeightPair) -> dict[str, Decomposition]:
    """Return the two weights; one, if they are the same, whose tensors cannot be stored twice."""
    return {"source": pair.source} | ({"target": pair.target} if pair.target is not pair.source else {})
