"""The bench: its layers are those of the real bases, and what it times is a transfer."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from bench import library
from bench.layers import BASES, Layers
from bench.lines import SMALL, times_of
from bench.measure import error, move
from bench.synthetic import Relatives
from lorax.catalog import reading
from lorax.formats import open_adapter
from lorax.options import Options
from lorax.transfer import run_all
from lorax.transfer.by_layer import SAMPLE
from tests import structure, xl
from tests.structure import Param

SHAPE = (320, 320)


def touched(params: list[Param]) -> Counter[tuple[int, int]]:
    """What kohya's trainer gives a LoRA to, of everything in a base."""
    inside = ("attentions", "self_attn", "mlp")
    layers = [param for param in params if param.is_layer and any(part in param.diffusers for part in inside)]
    return Counter((param.shape[0], math.prod(param.shape[1:])) for param in layers)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("SD 1.5", [*structure.FULL.unet(), *structure.FULL.text()]),
        ("SDXL", [param for params in xl.FULL.components().values() for param in params]),
        ("SSD-1B", [param for params in xl.FULL_SSD.components().values() for param in params]),
    ],
)
def test_the_layers_are_those_of_the_real_bases(name: str, params: list[Param]) -> None:
    assert Counter(BASES[name].values()) == touched(params)


@pytest.fixture(scope="module")
def relatives(tmp_path_factory: pytest.TempPathFactory) -> Relatives:
    return Relatives.make(tmp_path_factory.mktemp("bench"), [SHAPE, SMALL])


def test_what_is_timed_is_a_transfer(relatives: Relatives, tmp_path: Path) -> None:
    layers: Layers = {f"unet.{number}": SHAPE for number in range(3)}
    moved = run_all(relatives.plans(layers, Options("lorax", device="cpu"), 4, 2))
    assert [list(one.layers) for one in moved] == [list(layers)] * 2
    assert not torch.equal(moved[0].layers["unet.0"].up, moved[1].layers["unet.0"].up)
    move(relatives, layers, Options("lorax", device="cpu"), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1  # one pair of weights under all names


def test_a_survey_measures_every_layer_of_a_real_size(relatives: Relatives) -> None:
    """The layers are all of SD 1.5's with sides of 320 and more, but of one size."""
    layers = {name: SHAPE for name, shape in BASES["SD 1.5"].items() if name.startswith("unet.0.")}
    plans = relatives.plans(layers, Options("auto", device="cpu"), 4, 1)
    (found,), (shown,) = run_all(plans), run_all(plans, survey=True)
    measured = [[record.name for record in moved.report.records if record.similarity is not None] for moved in (found, shown)]
    assert 0 < len(measured[0]) <= SAMPLE
    assert measured[1] == list(layers)
    assert found.layers.keys() == shown.layers.keys() == layers.keys()


def test_figures(relatives: Relatives, tmp_path: Path) -> None:
    assert all(figure > 0 for figure in times_of(relatives, SHAPE, "cpu", tmp_path, 1, time.process_time))
    assert 0 < error(relatives, SHAPE, "cpu") < 1e-3


def test_the_benchs_library_is_one_of_real_loras(tmp_path: Path) -> None:
    """Of two families, in two spellings, and whole, though nothing of their tensors is on the disk."""
    library.write(tmp_path, 2 * 28)
    files = sorted(tmp_path.iterdir())
    found = [reading.read(file) for file in files]
    assert [one.facts.problem for one in found] == [""] * len(files)
    assert {one.facts.family for one in found} == {"Stable Diffusion 1.x", "Stable Diffusion XL"}
    assert len({one.structure for one in found}) == 28
    assert max(len(open_adapter(file).layers) for file in files[:4]) > 900
    assert sum(file.stat().st_blocks * 512 for file in files) < sum(file.stat().st_size for file in files) / 10
    library.scan(tmp_path, tmp_path)()
