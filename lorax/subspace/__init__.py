"""Computes the leading singular subspaces of weights, and their similarity."""

from lorax.subspace.lazy import once
from lorax.subspace.rank import QUARTER, RankRule
from lorax.subspace.spectral import SMALL, Basis, Decomposition, aligned, basis, similarity

__all__ = ["QUARTER", "SMALL", "Basis", "Decomposition", "RankRule", "aligned", "basis", "once", "similarity"]
