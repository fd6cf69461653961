"""Reasons as data: why a layer has its pair, and why it ended as it did."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, unique


@unique
class Why(Enum):
    """A kind of reason with its phrase, in pieces. Names in braces stand for details.

    Every second piece is about the one layer; the other pieces are the same for all layers of the kind.
    """

    # Pairs that were found.
    SAME_NAME = "same name"
    SAME_PLACE = "same role, resolution and depth (block {block} of {blocks} to {match} of {matches})"
    WEIGHTS_MOST_ALIKE = "weights most alike of {blocks} blocks", " (cosine {cosine:.2f})"
    # Layers without a pair.
    NO_LAYER_IN_SOURCE = "the source has no such layer"
    NO_COMPONENT = "the target has no {component}"
    NO_SUCH_NAME = "the target has no layer of this name"
    NO_BLOCK_OF_THESE_SHAPES = "no block of the target in this role has the same layers and shapes"
    OTHER_BLOCKS_MORE_ALIKE = "the target's blocks are more like other blocks", " (cosine at most {cosine:.2f})"
    NO_BLOCK_HERE = "the target has no block in this role at this resolution"
    FEWER_BLOCKS_HERE = "the target has fewer blocks in this role at this resolution"
    NO_LAYER_IN_BLOCK = "the target's block in its place has no such layer"
    # Norms and biases that are left out.
    OTHER_FAMILY = "the target is of another family"
    BIAS_ALONE = "a bias is read beside a whole difference only"
    BIAS_BESIDE_FACTORS = "a bias is read beside a whole difference only, and the largest rank asks for factors"
    NO_PARAMETER = "the target has no such parameter of this size"
    LAYER_LEFT_OUT = "its layer was not moved"
    LOW_RANK_ONLY = "this method makes low-rank layers only"
    # Layers that a method by weights has moved.
    COPIED = "copied"
    COPIED_WHOLE = "copied, since the kept rank is the whole side"
    COPIED_SAME_WEIGHTS = "copied, since the weights are the same"
    COPIED_AS_MEASURED = "copied, as the layers that were measured"
    COPIED_NOT_PROJECTED = "copied", ": a projection would keep only {share:.0%} of the delta"
    PROJECTED = "projected", " at rank {rank}"
    PROJECTED_INSIDE = "projected", " at rank {rank}: {share:.0%} of the delta lies in the target's subspace"
    CARRIED = "carried by the least-squares map", " at rank {rank}"
    TWO_PARTS = "two parts", " at rank {rank}"
    FOUR_PARTS = "four parts", " at rank {rank}"
    # Layers that a method which runs the models has moved, or would move.
    FITTED = "fitted to what the source's layer does"
    TRAINED = "trained on what the source draws with the adapter"
    TO_BE_FITTED = "to be fitted to what the source's layer does"
    TO_BE_TRAINED = "to be trained on what the source draws with the adapter"
    # Layers that were skipped.
    CANNOT_BE_COPIED = "shapes differ", " ({source} and {target})", ", so it cannot be copied"
    NOT_BY_AUTO = "shapes differ", " ({source} and {target})", "; name lorax to try the least-squares map"
    BELOW_THRESHOLD = "similarity", " {similarity:.2f} is", " below the threshold {threshold:g}"
    UNRELATED_BASES = "the bases are not related"
    TARGET_HAS_IT = "the target has it already"
    NOT_USED = "one of the models does not use it"
    # Additions to a reason.
    ON_ENCODER_INPUTS = ", on the {width} inputs of {encoder}"
    ON_PICTURE_CHANNELS = ", on the {channels} channels of the picture"
    NOT_GATED = "; similarity is undefined for unequal shapes, so not gated"

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces


@dataclass(frozen=True)
class Reason:
    """A kind of reason, the details that its phrase names, and what is added to it."""

    kind: Why
    details: Mapping[str, object] = field(default_factory=dict, hash=False)
    additions: "tuple[Reason, ...]" = ()

    def but(self, addition: "Reason") -> "Reason":
        """Return this reason with an addition, of a kind whose phrase begins with a comma or a semicolon."""
        return replace(self, additions=(*self.additions, addition))

    @property
    def text(self) -> str:
        """The whole phrase."""
        return "".join(self.kind.pieces).format_map(self.details) + "".join(one.text for one in self.additions)

    @property
    def general(self) -> str:
        """The phrase without the pieces about the one layer, by which layers can be grouped."""
        return "".join(self.kind.pieces[::2]).format_map(self.details) + "".join(one.general for one in self.additions)

    def __str__(self) -> str:
        return self.text
