"""The methods by which the layers of an adapter are moved from one base to another."""

from lorax.methods.job import Assignment, Job, Kinship
from lorax.methods.registry import AUTO, BRIDGE, METHODS, REFINE, ModelMethod, described, model_method, runs_models, weight_method
from lorax.methods.weight_pair import WeightPair

__all__ = [
    "AUTO",
    "BRIDGE",
    "METHODS",
    "REFINE",
    "Assignment",
    "Job",
    "Kinship",
    "ModelMethod",
    "WeightPair",
    "described",
    "model_method",
    "runs_models",
    "weight_method",
]
