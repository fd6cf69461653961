"""Two whole SD 1.5 bases are never in memory: a transfer between them stays below 1.5 GB."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import builders, structure

LIMIT = 1.5e9
LAYERS = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.2.attentions.1.proj_in",
    "down_blocks.2.resnets.0.conv1",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
    "mid_block.resnets.0.time_emb_proj",
    "up_blocks.0.resnets.0.conv1",  # (1280, 2560 * 9), the largest layer of all
    "up_blocks.3.resnets.0.conv_shortcut",
    "conv_in",
    "text_model.encoder.layers.0.self_attn.q_proj",
    "text_model.encoder.layers.11.mlp.fc1",
)


@pytest.fixture
def bases(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    paths = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    write(*paths)
    yield paths
    for path in paths:
        path.unlink()


def write(first: Path, second: Path) -> None:
    """Two relatives in fp16, tensor by tensor and by hand, since safetensors' own writer wants all of them at once.

    The values are slices of one pool of random numbers that holds the largest layer, which takes seconds instead of minutes.
    What the LoRA does not touch is a hole in the file: zeros that the disk does not hold, but whoever reads them does.
    """
    params = [(builders.UNET, param) for param in structure.FULL.unet()] + [
        (builders.TE, param) for param in structure.FULL.text()
    ]
    header, end = {}, 0
    for prefix, param in params:
        size = 2 * math.prod(param.shape)
        header[prefix + param.ldm] = {"dtype": "F16", "shape": param.shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    most = max(math.prod(param.shape) for _, param in params)
    pool = torch.randn(most + 100_003, generator=torch.Generator().manual_seed(1)).mul_(0.02)
    noise = torch.randn(len(pool), generator=torch.Generator().manual_seed(2)).mul_(0.002)
    for path, values in ((first, pool.half()), (second, pool.add_(noise).half())):
        raw = values.numpy().view("u1").data
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for number, (_, param) in enumerate(params):
                start, size = 2 * (number * 7919 % 100_003), 2 * math.prod(param.shape)
                if param.diffusers.removesuffix(".weight") in LAYERS:
                    file.write(raw[start : start + size])
                else:
                    file.seek(size, os.SEEK_CUR)
            file.truncate()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux' /proc")
@pytest.mark.parametrize("method", ["prolora"])
def test_a_full_size_transfer_stays_small(bases: tuple[Path, Path], tmp_path: Path, method: str) -> None:
    lora = builders.save_lora(tmp_path / "lora.safetensors", builders.deltas(LAYERS, rank=8, size=structure.FULL))
    command = [sys.executable, "-m", "lorax", "transfer", str(lora), "--source", str(bases[0]), "--target", str(bases[1])]
    command += ["--method", method, "--output", str(tmp_path / "moved.safetensors"), "--json"]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent) as process:
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(0.01)
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert report["counts"] == {"transferred": len(LAYERS)}
    print(f"peak of anonymous memory: {peak / 1e9:.2f} GB")
    assert 1e8 < peak < LIMIT


def anonymous(pid: int) -> int:
    """Bytes of memory that are the process's own; pages of mapped files, which the system can drop, are not counted."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)
