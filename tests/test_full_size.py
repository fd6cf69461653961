"""``python -m bench.full_size``: its files are as large as the real ones, and it measures, on narrow bases."""

from __future__ import annotations

import math
import re

import pytest

from bench import full_size
from tests import xl


def test_full_size_is_as_large_as_the_real_ones() -> None:
    """6.9 GB less the autoencoder, 4.5 GB, and a LoRA of all 722 layers of the UNet and 264 of the text encoders."""
    sizes = [2 * sum(math.prod(shape) for _, shape in full_size.checkpoint(size)) for size in (xl.FULL, xl.FULL_SSD)]
    assert [round(size / 1e9, 1) for size in sizes] == [6.8, 4.3]
    assert sum(key.endswith(".lora_up.weight") for key, _ in full_size.lora(xl.FULL, 64)) == 722 + 264


def test_every_weight_is_whole() -> None:
    """OpenCLIP's token embedding is the largest."""
    largest = max((shape for size in (xl.FULL, xl.FULL_SSD) for _, shape in full_size.checkpoint(size)), key=math.prod)
    assert full_size.weight("any name", largest).numel() == math.prod(largest)
    assert len(full_size.POOL) * 2 // 3 >= math.prod(largest)


def test_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    full_size.main(["--narrow", "--rank", "4"])
    said = capsys.readouterr().out
    assert re.search(r"rank 4, --method auto, 2 cores:\n\d+ s \(\d+ s of computing\), at most 0\.\d\d GB", said)
