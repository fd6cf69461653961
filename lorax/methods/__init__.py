"""The methods: how the layers of an adapter are carried from one base to another."""

from lorax.methods.job import Assignment, Job
from lorax.methods.registry import (
    AUTO,
    BRIDGE,
    METHODS,
    REFINE,
    Method,
    ModelMethod,
    WeightMethod,
    described,
    runs_models,
    weight_method,
)
from lorax.methods.weight_pair import WeightPair

__all__ = [
    "AUTO",
    "BRIDGE",
    "METHODS",
    "REFINE",
    "Assignment",
    "Job",
    "Method",
    "ModelMethod",
    "WeightMethod",
    "WeightPair",
    "described",
    "runs_models",
    "weight_method",
]
