"""Verdicts, as data: what is true of an adapter on a target, and what can be done."""

from dataclasses import dataclass
from enum import Enum

from lorax.checkpoint import Mismatch
from lorax.methods import AUTO, BRIDGE, REFINE


class Kind(str, Enum):
    """What is true of an adapter on a target."""

    SAME = "same"  # source and target are one file
    MADE = "made"  # a transfer made it for the target
    PRESENT = "present"  # the target has it already
    WORKS = "works"  # the original draws what a moved copy would draw
    GAINS = "gains"  # layers find a new place
    CHANGES = "changes"  # no layer finds a new place, but some would differ
    UNRELATED = "unrelated"  # two bases of one family that are not related
    CROSSED = "crossed"  # bases of two families
    FITS_ITSELF = "fits_itself"  # a LoRA-X file between related bases
    OTHER_ARCHITECTURE = "other_architecture"  # the target or the adapter is of an unsupported one, or no layer has a counterpart
    WRONG_SOURCE = "wrong_source"  # it was not trained on that source
    UNREADABLE = "unreadable"
    SOURCE_UNKNOWN = "source_unknown"
    SOURCE_MISSING = "source_missing"  # the source is known and not listed


class Do(str, Enum):
    """What can be done with an adapter. ``method``: that of a transfer which does it; None if there is nothing to transfer."""

    USE_ORIGINAL = "use_original"
    MOVE = "move"
    REFINE = "refine"
    BRIDGE = "bridge"

    @property
    def method(self) -> str | None:
        return {Do.MOVE: AUTO, Do.REFINE: REFINE, Do.BRIDGE: BRIDGE}.get(self)


@dataclass(frozen=True)
class Action:
    """Something that can be done, and about how many seconds it takes.

    ``bytes``: memory at its peak, if models are run; it is that of the ``device``.
    """

    do: Do
    seconds: float = 0.0
    bytes: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Verdict:
    """A verdict. ``actions``: the recommended one first. ``moved``, ``placed`` and ``changed`` count layers.

    ``reason``: an error's sentence, or why the models cannot be run. ``made_of``: the title of the original of which a transfer
    made the adapter.
    """

    kind: Kind
    actions: tuple[Action, ...] = ()
    layers: int = 0  # of the adapter
    moved: int = 0  # those that would be moved by weights
    placed: int = 0  # those that would be moved to a layer of another name
    changed: int = 0  # those that would differ from the original on the target
    overlap: float = 0.0  # estimated share of the adapter that the target has already
    strength: float = 1.0  # at which ``auto`` would move it
    is_pruned: bool = False  # whether one of the bases has fewer layers
    reason: str = ""
    base: str = ""  # the one that stands in the way: a wrong source, one that is not listed, or an unsupported target
    base_is: str = ""  # what that one is, if it is unsupported
    is_for: str = ""  # the architecture that the adapter is for, if it is another one
    could_be: tuple[str, ...] = ()  # the bases that the source could be, if it is not known
    made_of: str = ""
    mismatch: Mismatch | None = None  # the bases' predictions, if they differ

    @property
    def advised_strength(self) -> float:
        """The strength at which the original is used: to 0.05, since a sample of the layers does not tell it more exactly."""
        return round(20 * self.strength) / 20
