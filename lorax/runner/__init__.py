"""Models that run, as diffusers runs them."""

from lorax.runner.runner import Runner, Runners

__all__ = ["Runner", "Runners"]
