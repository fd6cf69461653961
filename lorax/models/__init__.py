"""Models that run: their interface, sampling, hooks into their layers, and training."""

from lorax.models.captions import captions, with_triggers
from lorax.models.examples import Answers, Examples, NewNoise
from lorax.models.flops import Operations, operations
from lorax.models.hooks import Hook, adapted, effect, hooked, recomputed, rows_in, rows_out, text_module, watched
from lorax.models.optimizer import Factors, Scales
from lorax.models.pictures import AT_ONCE, PIXELS, Pictures
from lorax.models.protocol import Conditioning, Model, Models, check_finite
from lorax.models.runnable import can_run, check, check_all
from lorax.models.sampling import NoisyBatch, batch_size, batches, draw, noised, trajectory
from lorax.models.speed import share_of, speed_of, speed_of_solving
from lorax.models.training import Lesson, SavedTraining, State, Watch, train

__all__ = [
    "AT_ONCE",
    "PIXELS",
    "Answers",
    "Conditioning",
    "Examples",
    "Factors",
    "Hook",
    "Lesson",
    "Model",
    "Models",
    "NewNoise",
    "NoisyBatch",
    "Operations",
    "Pictures",
    "SavedTraining",
    "Scales",
    "State",
    "Watch",
    "adapted",
    "batch_size",
    "batches",
    "can_run",
    "captions",
    "check",
    "check_all",
    "check_finite",
    "draw",
    "effect",
    "hooked",
    "noised",
    "operations",
    "recomputed",
    "rows_in",
    "rows_out",
    "share_of",
    "speed_of",
    "speed_of_solving",
    "text_module",
    "train",
    "trajectory",
    "watched",
    "with_triggers",
]
