"""Counts the work of bridge and refine: what each model does in each phase."""

import math
from dataclasses import dataclass

from lorax.methods import BRIDGE, REFINE, Kinship, bridge, model_method, refine
from lorax.models import Operations, examples, sampling, training
from lorax.options import Running
from lorax.progress import DECODING, DRAWING, ENCODING, FITTING, TRAINING, WATCHING

RIDGES_TRIED = 4  # of those that bridge has, on average
EIGEN = 10  # operations of an eigendecomposition, in cubes of the size


@dataclass(frozen=True)
class Work:
    """The work of one model, in samples."""

    predicted: int  # by the UNet
    encoded: int  # by the text encoders
    at_once: int  # the largest batch of the UNet
    decoded: int = 0  # by the autoencoder
    read: int = 0  # encoded by the autoencoder
    trained: int = 0  # the part of ``predicted`` that has a backward pass

    def __add__(self, other: "Work") -> "Work":
        """Return the work of doing one after the other."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in vars(self)}
        return Work(**sums | {"at_once": max(self.at_once, other.at_once)})


@dataclass(frozen=True)
class Stage:
    """The work of one model in one phase."""

    phase: str
    of_target: bool  # else of the source
    work: Work


def stages(
    method: str,
    running: Running,
    models: tuple[Operations, Operations],
    *,
    of_text: bool,
    kinship: Kinship,
    drawn: bool = False,
) -> list[Stage]:
    """Return the stages of a method in order, on the source and on the target.

    ``of_text``: whether the adapter has layers of text encoders. ``drawn``: whether what the source draws, or answers, is there.
    """
    source, target = models
    count = pictures_of(method, running, models, kinship)
    drawing = Stage(DRAWING, False, Work(2 * sampling.STEPS * count, 2 * count, _at_once(count, source)))
    pictures = [] if drawn else [drawing, Stage(DECODING, False, Work(0, 0, 0, decoded=count))]
    reading = Work(0, 0, 0, read=count)
    if method == BRIDGE:
        both = Work(2 * count, 2 * count, 2 * count)  # with the adapter and without it
        watching = [Stage(ENCODING, False, reading), Stage(WATCHING, False, both)]
        fitting = [Stage(ENCODING, True, reading), Stage(FITTING, True, both)]
        trained = _training(count, bridge.SCALING_STEPS, bridge.SCALING_BATCH, target, of_text)
        return [*pictures, *watching, *fitting, Stage(TRAINING, True, trained)]
    steps, answered = refine.steps_of(running.steps, kinship), is_answered(method, kinship)
    learning = Stage(TRAINING, True, _training(count, steps, refine.BATCH, target, of_text, answered=answered))
    if not answered:
        return [*pictures, Stage(ENCODING, True, reading), learning]
    asked = examples.answers_on(count)
    answering = Work(asked, _encoded(count, asked, source, of_text), _at_once(asked, source))
    return [*([] if drawn else [drawing, Stage(WATCHING, False, answering)]), learning]


def is_answered(method: str, kinship: Kinship) -> bool:
    """Tell whether the target learns what the source predicts, and not the pictures."""
    return method == REFINE and kinship in refine.SAME_LATENTS


def pictures_of(method: str, running: Running, models: tuple[Operations, Operations], kinship: Kinship) -> int:
    """Return how many pictures the source draws."""
    asked = model_method(method).pictures(running.pictures, kinship)
    return bridge.pictures_seen(asked, max(one.size for one in models)) if method == BRIDGE else asked


def _training(pictures: int, steps: int, batch: int, of: Operations, of_text: bool, *, answered: bool = False) -> Work:
    """Return the work of a training that does not stop early. ``answered``: on the source's answers."""
    copies, validated = (examples.copies_of(pictures), examples.validated_of(pictures)) if answered else (1, 1)
    held_out = math.ceil(pictures / examples.HELD_OUT)
    batch = min(batch, copies * (pictures - held_out))
    validations, trained = 1 + math.ceil(steps / training.VALIDATE_EVERY), steps * batch
    predicted = validations * validated * held_out + trained
    at_once = max(_at_once(validated * held_out, of), _at_once(batch, of, training.BACKWARD_AT_ONCE))
    return Work(predicted, _encoded(pictures, predicted, of, of_text), at_once, trained=trained)


def _encoded(pictures: int, predicted: int, of: Operations, of_text: bool) -> int:
    """Return how many prompts are encoded; see ``lorax.models.prompts``."""
    return pictures if _at_once(2, of) == 1 and not of_text else predicted


def _at_once(count: int, of: Operations, most: int = 64) -> int:
    return min(count, sampling.batch_size(most, of.size))


def solving(rows: int, m_s: int, m: int, n: int) -> float:
    """Estimate the operations of ``bridge.solve`` for a source layer (m_s, ...) and a target layer (m, n)."""
    k = min(rows, m)
    cut = 2.0 * rows * n * m + 2.0 * k * k * max(rows, m) + EIGEN * k**3
    return regression(rows, m_s, m) + regression(rows, n, m) + cut


def regression(rows: int, n: int, m: int) -> float:
    """Estimate the operations of ``bridge.ridge`` from n columns to m: two Gram matrices, a solution for each lambda tried."""
    k, solutions = min(rows, n), RIDGES_TRIED + 1
    applied = rows if n > rows else 2 * bridge.HELD_OUT * rows
    return 4.0 * k * k * max(rows, n) + solutions * (k**3 / 3 + 2.0 * k * k * m + 2.0 * applied * n * m)
