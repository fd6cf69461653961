"""Singular subspaces of base weights."""

from lorax.subspace.rank import RankRule
from lorax.subspace.spectral import Decomposition, similarity

__all__ = ["Decomposition", "RankRule", "similarity"]
