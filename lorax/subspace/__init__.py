"""Singular subspaces of base weights."""

from lorax.subspace.rank import RankRule
from lorax.subspace.spectral import SMALL, Decomposition, similarity

__all__ = ["SMALL", "Decomposition", "RankRule", "similarity"]
