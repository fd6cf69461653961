"""Random damage to files: a clear error or success, never anything else."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorax.checkpoint import open_checkpoint
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.inspection import inspect
from lorax.options import Options
from lorax.transfer import plan, run
from tests import builders
from tests.samples import Files, raw, write

fuzzing = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def survives(work: Callable[[], object]) -> None:
    """A LoraxError or success, never anything else."""
    with contextlib.suppress(LoraxError):
        work()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small LoRA with a linear layer, a convolution and a Tucker layer."""
    folder = tmp_path_factory.mktemp("small")
    layers = [
        *builders.deltas([builders.SOME[0], builders.CONVOLUTIONS[0]], rank=2),
        *builders.deltas([builders.CONVOLUTIONS[1]], rank=2, mid=True),
    ]
    return builders.save_lora(folder / "small.safetensors", layers, metadata={"ss_network_dim": "2"})


def move(files: Files, lora: Path, source: Path | None = None) -> None:
    base = open_checkpoint(source or files.base)
    run(plan(open_adapter(lora), base, open_checkpoint(files.target), Options(method="copy")))


@fuzzing
@given(
    flips=st.dictionaries(st.integers(0, 2000), st.integers(1, 255), min_size=1, max_size=4), keep=st.just(1.0) | st.floats(0, 1)
)
def test_flipped_bytes_in_a_lora(files: Files, small: Path, tmp_path: Path, flips: dict[int, int], keep: float) -> None:
    content = bytearray(small.read_bytes())
    for position, mask in flips.items():
        content[position % len(content)] ^= mask
    damaged = write(tmp_path / "damaged.safetensors", bytes(content[: int(keep * len(content))]))
    survives(lambda: move(files, damaged))
    survives(lambda: inspect(damaged))


def rewritten(path: Path, chance: random.Random) -> bytes:
    """The file with valid JSON in its header, of which some entries say something else."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    keys = [key for key in header if key != "__metadata__"]
    for _ in range(chance.randint(1, 3)):
        key = chance.choice([key for key in keys if key in header])
        entry = header[key]
        damage, shape = chance.randrange(6), entry["shape"]
        if damage == 0:
            entry["dtype"] = chance.choice(["F16", "F32", "BF16", "F64", "I8", "I32", "BOOL", "F8_E4M3", "U16", "C64", "F4"])
        elif damage == 1:
            chance.shuffle(shape)
        elif damage == 2:
            entry["shape"] = chance.choice([[1, *shape], [*shape, 1], shape[1:], [*shape, 1, 1]])
        elif damage == 3:
            other = chance.choice(
                ["", "x", ".weight", "lora_up.weight", ".alpha", key[:-7], f"{key}.weight", key.replace("0", "9")]
            )
            header[other] = header.pop(key)
        elif damage == 4:
            other = chance.choice([key for key in keys if key in header])
            header[key], header[other] = header[other], header[key]
        else:
            entry["data_offsets"] = [offset + chance.choice([-8, 0, 4]) for offset in entry["data_offsets"]]
    return raw(header, content[8 + length :])


@fuzzing
@given(seed=st.integers(0, 2**32))
def test_header_of_a_lora_that_says_something_else(files: Files, small: Path, tmp_path: Path, seed: int) -> None:
    damaged = write(tmp_path / "damaged.safetensors", rewritten(small, random.Random(seed)))
    survives(lambda: move(files, damaged))
    survives(lambda: inspect(damaged))


@settings(fuzzing, max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_header_of_a_base_that_says_something_else(files: Files, small: Path, tmp_path: Path, seed: int) -> None:
    damaged = write(tmp_path / "damaged.safetensors", rewritten(files.base, random.Random(seed)))
    survives(lambda: move(files, small, damaged))
    survives(lambda: inspect(damaged))


@settings(fuzzing, max_examples=40)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 3))
def test_flipped_bytes_in_the_header_of_a_base(files: Files, small: Path, tmp_path: Path, seed: int, flips: int) -> None:
    chance, content = random.Random(seed), bytearray(files.base.read_bytes())
    length = struct.unpack("<Q", content[:8])[0]
    for _ in range(flips):
        content[chance.randrange(8 + length)] ^= chance.randint(1, 255)
    damaged = write(tmp_path / "damaged.safetensors", bytes(content))
    survives(lambda: move(files, small, damaged))
    survives(lambda: inspect(damaged))


@pytest.mark.parametrize("path", ["x", "diffusion.x", "output_blocks.1", "control.0.0"])
def test_a_base_with_layers_that_no_unet_has(files: Files, tmp_path: Path, path: str) -> None:
    """Merges carry along what other tools have put in. It is no adapter's business, and no reason to fail."""
    state = files.base_state | {f"{builders.UNET}{path}.weight": torch.randn(4, 4)}
    more = builders.save(state, tmp_path / "more.safetensors")
    move(files, files.lora, more)
    assert inspect(more)["layers"]["unet"] == inspect(files.base)["layers"]["unet"]
