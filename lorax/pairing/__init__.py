"""Pairs each source layer with a target layer: by names, by weights, or by their position in the network."""

from lorax.pairing.pairs import PAIRINGS, pair
from lorax.pairing.shared_inputs import Columns, Pair, shared_inputs
from lorax.pairing.vectors import Vector, pair_vectors

__all__ = ["PAIRINGS", "Columns", "Pair", "Vector", "pair", "pair_vectors", "shared_inputs"]
