"""Runs models by diffusers and transformers."""

from lorax.runner.runner import Runner, Runners

__all__ = ["Runner", "Runners"]
