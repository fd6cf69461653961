"""Computes the leading singular subspaces of weights, and how similar they are between two weights."""

from lorax.subspace.lazy import once
from lorax.subspace.rank import QUARTER, RankRule
from lorax.subspace.signs import aligned, basis
from lorax.subspace.spectral import SMALL, Basis, Decomposition, similarity

__all__ = ["QUARTER", "SMALL", "Basis", "Decomposition", "RankRule", "aligned", "basis", "once", "similarity"]
