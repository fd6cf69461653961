"""The benchmark of training steps runs on the bundled UNet."""

from __future__ import annotations

from bench import training


def test_every_adapter_is_timed_on_the_same_model() -> None:
    times = training.step_times("tiny UNet", 2, 1)
    assert set(times) == set(training.ADAPTERS)
    assert min(times.values()) > 0


def test_the_peak_of_a_lora_is_above_the_frozen_model() -> None:
    assert training.peak("tiny UNet", training.LORA, 2) > 0
