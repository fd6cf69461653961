"""``python -m bench.behaviour``: its files are as large as the real ones, it counts what the methods do, and it measures."""

from __future__ import annotations

import math
import multiprocessing
import re
import time
from pathlib import Path

import pytest
import torch

from bench import behaviour as bench
from bench import full_size, running
from bench.counting import counted
from bench.gauge import Gauge, operations
from lorax.methods import bridge, refine
from lorax.models import sampling
from lorax.options import Running
from tests import xl


def test_full_size_is_as_large_as_the_real_ones() -> None:
    """SD 1.5's file is 2.13 GB in half precision, SDXL's 6.94 GB, of which 167 MB are the autoencoder; 256 layers of a LoRA."""
    baked = list(running.autoencoder(running.WIDE))
    sd = [param.shape for param in [*running.FULL.sd.unet(), *running.FULL.sd.text()]]
    sdxl = [shape for _, shape in full_size.checkpoint(xl.FULL)]
    sizes = [2 * sum(math.prod(shape) for shape in [*shapes, *(shape for _, shape in baked)]) for shapes in (sd, sdxl, [])]
    assert [round(size / 1e9, 2) for size in sizes] == [2.13, 6.94, 0.17]
    assert sum(key.endswith(".lora_up.weight") for key, _ in running.lora(running.FULL.sd, 32)) == 192


@pytest.mark.usefixtures("quick_bridge")
def test_what_the_methods_do_is_counted(tmp_path: Path) -> None:
    running.write(tmp_path, running.NARROW, 2, every=bench.COUNTED)
    asked = Running(pictures=16, steps=3)
    refined, bridged = (counted(tmp_path, method, (64, 128), asked) for method in ("refine", "bridge"))
    assert refined.counts["sd"]["evaluation"] == 2 * sampling.STEPS * 16
    assert refined.counts["xl"]["training"] == 3 * min(refine.BATCH, 14)  # of 16 pictures two are held out
    assert refined.counts["xl"]["evaluation"] == 2 * 2  # two looks at the held-out ones
    assert refined.counts["xl"]["encoded"] == 2 * bridged.counts["xl"]["encoded"] == 16
    assert refined.largest == {"sd": {"evaluation": 1}, "xl": {"evaluation": 1, "training": 1}}
    assert bridged.counts["xl"]["training"] == bridge.SCALING_STEPS * min(bridge.SCALING_BATCH, 7)
    assert bridged.largest == {"sd": {"evaluation": 16}, "xl": {"evaluation": 16, "training": 1}}  # with the LoRA and without


def test_memory_and_operations_are_those_of_the_action() -> None:
    said: list[str] = []
    gauge = Gauge(torch.device("cpu"), lambda reading: said.append(str(reading)))

    def fill() -> None:
        filled = torch.ones(25_000_000)  # 100 MB, and as little beside
        time.sleep(0.5)  # what is gone sooner than the gauge looks again is not seen whole
        del filled

    gauge("fill", fill)
    [reading] = gauge.readings
    assert 90e6 < reading.peak - reading.before < 130e6
    assert said == [str(reading)]
    assert operations(lambda: torch.ones(3, 4) @ torch.ones(4, 5)) == 2 * 3 * 4 * 5


@pytest.mark.usefixtures("quick_bridge")
def test_it_measures(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process can be forked, those that measure need not import everything anew."""
    if "fork" in multiprocessing.get_all_start_methods():
        forking = multiprocessing.get_context("fork")
        monkeypatch.setattr(multiprocessing, "get_context", lambda method: forking)
    bench.main(["--narrow", "--rank", "4", "--device", "cpu", "--dtype", "float32", "--pictures", "32", "--steps", "2"])
    said = capfd.readouterr().out
    assert re.search(r"\| train on a picture \| \d+\.\d \| \d\.\d\d \| \d\.\d\d \|", said)
    assert re.search(r"\| refine: SDXL, train on a picture: UNet 0\.\d\d, .*\d+ x computing 0\.\d\d \| 0\.\d\d \|", said)
    assert re.search(rf"\| SDXL: train on a picture \| {2 * refine.BATCH} \|", said)
    assert re.search(r"\| all layers solved, by a processor \| 1 \|", said)
