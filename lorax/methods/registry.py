"""The registry of methods."""

from collections.abc import Callable
from dataclasses import dataclass

from lorax.low_rank import LowRank
from lorax.methods import auto, bridge, copy, lorax, prolora, refine
from lorax.methods.job import Job, Kinship
from lorax.methods.weight_pair import WeightPair
from lorax.reasons import Reason, Why

AUTO, BRIDGE, REFINE = "auto", "bridge", "refine"
LORAX_PAPER, PROLORA_PAPER = "arXiv 2501.16559", "arXiv 2506.04244"
Move = Callable[[LowRank, WeightPair], tuple[LowRank | None, Reason]]


@dataclass(frozen=True)
class Method:
    """A way to move an adapter. ``options``: names of the options that not all methods have; ``paper``: its source."""

    name: str
    title: str
    options: tuple[str, ...] = ()
    paper: str = ""

    @property
    def described(self) -> str:
        """The title, with the paper if there is one."""
        return f"{self.title} ({self.paper})" if self.paper else self.title


@dataclass(frozen=True, kw_only=True)
class WeightMethod(Method):
    """A method by weights, layer by layer.

    ``move(dW_s, pair)`` returns dW_t and the reason, or None if there is no dW_t; a copy returns dW_s itself. ``gated``: whether
    --threshold skips less similar layers. ``declines``: whether nothing is moved between unrelated bases. ``strength(overlap)``
    is a factor of the moved adapter if the target has that share of it already. ``move_unsampled`` moves a large layer that was
    not measured, once the measured ones leave nothing to decide; without it every layer is measured.
    """

    move: Move
    gated: bool = False
    declines: bool = False
    strength: Callable[[float], float] = lambda overlap: 1.0
    move_unsampled: Move | None = None


@dataclass(frozen=True, kw_only=True)
class ModelMethod(Method):
    """A method that runs both models.

    ``fit`` returns deltas by target layer. ``pictures(asked, kinship)`` is how many are drawn for it, by what the user asked for
    and how the bases are related. ``planned`` and ``done`` are reasons of layers.
    """

    fit: Callable[[Job], dict[str, LowRank]]
    pictures: Callable[[int | None, Kinship], int]
    planned: Why
    done: Why


METHODS: dict[str, WeightMethod | ModelMethod] = {
    method.name: method
    for method in (
        WeightMethod(
            AUTO,
            "decide for each layer by what is measured, and leave out what the target already has of the LoRA",
            ("rank",),
            move=auto.move,
            declines=True,
            strength=auto.strength,
            move_unsampled=auto.move_unsampled,
        ),
        WeightMethod("copy", "copy each layer to its counterpart", move=copy.move, move_unsampled=copy.move),
        WeightMethod(
            "lorax",
            "LoRA-X: keep what lies in the directions that matter most in the target",
            ("rank", "threshold"),
            LORAX_PAPER,
            move=lorax.move,
            gated=True,
        ),
        WeightMethod(
            "prolora",
            "ProLoRA: carry over what lies in the directions that matter most in the target, and by itself what lies outside",
            ("rank", "threshold"),
            PROLORA_PAPER,
            move=prolora.move,
            gated=True,
        ),
        WeightMethod(
            "prolora-cross",
            "ProLoRA, and also what leads from the directions that matter most to the others, and back",
            ("rank", "threshold"),
            PROLORA_PAPER,
            move=prolora.move_with_cross_terms,
            gated=True,
        ),
        ModelMethod(
            BRIDGE,
            "run both checkpoints and fit each layer to what the source's does; for unrelated checkpoints, minutes to an hour",
            ("pictures", "lora_rank", "trigger", "captions"),
            fit=bridge.fit,
            pictures=bridge.pictures_of,
            planned=Why.TO_BE_FITTED,
            done=Why.FITTED,
        ),
        ModelMethod(
            REFINE,
            "train the target on what the source draws with the LoRA; shows more than the others, minutes to an hour",
            ("pictures", "steps", "lora_rank", "trigger", "captions"),
            fit=refine.fit,
            pictures=refine.pictures_of,
            planned=Why.TO_BE_TRAINED,
            done=Why.TRAINED,
        ),
    )
}


def runs_models(method: str) -> bool:
    """Tell whether the method of this name runs both models."""
    return isinstance(METHODS.get(method), ModelMethod)


def weight_method(name: str) -> WeightMethod:
    """Return the method by weights of this name."""
    method = METHODS[name]
    assert isinstance(method, WeightMethod)
    return method


def model_method(name: str) -> ModelMethod:
    """Return the method of this name, which runs both models."""
    method = METHODS[name]
    assert isinstance(method, ModelMethod)
    return method


def described() -> dict[str, str]:
    """Return the description of every method by name."""
    return {name: method.described for name, method in METHODS.items()}
