"""Finds the target layer that each source layer feeds, with the reason: by names, by weights or by the place in the network."""

from lorax.pairing.layer_pair import Pair
from lorax.pairing.pairs import PAIRINGS, pair
from lorax.pairing.shared_inputs import Columns
from lorax.pairing.vectors import Vector, pair_vectors

__all__ = ["PAIRINGS", "Columns", "Pair", "Vector", "pair", "pair_vectors"]
