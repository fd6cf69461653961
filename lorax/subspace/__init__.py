"""Singular subspaces of base weights."""

from lorax.subspace.rank import RankRule
from lorax.subspace.spectral import SMALL, Basis, Decomposition, similarity

__all__ = ["SMALL", "Basis", "Decomposition", "RankRule", "similarity"]
