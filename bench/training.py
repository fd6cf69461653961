"""``python -m bench.training``: a training step of LoRA-X against PEFT's LoRA of the same rank, side by side in one run.

On the bundled tiny UNet and on one transformer block of SDXL's size. Times are medians of steps that alternate between the
adapters. Peak memory is what a process of its own needs beyond the frozen model: bases or factors, gradients, AdamW's state and
what is kept for the backward pass. Linux, or CUDA.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.attention import BasicTransformerBlock
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from lorax.demo.bundle import BASE, unpack
from lorax.runner import Runner
from lorax.subspace import Decomposition, basis
from lorax.training.layer import CORES, Constrained

LORA = "PEFT's LoRA"
ADAPTERS = (LORA, *CORES)
CASES = {"tiny UNet": (16,), "SDXL block": (32, 320)}
TARGETS = r".*\.(to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tiny() -> tuple[nn.Module, tuple]:
    with tempfile.TemporaryDirectory() as folder:
        unpack(Path(folder))
        unet = Runner(Path(folder) / f"{BASE}.safetensors").unet
    return unet, (torch.randn(16, 4, 8, 8), torch.randint(1000, (16,)), torch.randn(16, 77, 64))


def block() -> tuple[nn.Module, tuple]:
    """Of SDXL's deepest level, with the tokens of a picture of 1024 by 1024."""
    model = nn.ModuleDict({"block": BasicTransformerBlock(1280, 20, 64, cross_attention_dim=2048)})
    return model, (torch.randn(1, 1024, 1280), None, torch.randn(1, 77, 2048))


def setup(case: str, adapter: str, rank: int) -> tuple[Callable[[], None], float]:
    """One step of training, as a function, and the MB that the process had with the frozen model alone."""
    torch.manual_seed(0)
    model, inputs = tiny() if case == "tiny UNet" else block()
    model.to(DEVICE).requires_grad_(False)
    inputs = tuple(one if one is None else one.to(DEVICE) for one in inputs)
    settled()
    alone = memory("VmRSS")
    if adapter == LORA:
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), model)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    else:
        layers = [
            Constrained(module, *orthonormal(module, rank), adapter)
            for name, module in model.named_modules()
            if re.fullmatch(TARGETS, name)
        ]
        parameters = [layer.core for layer in layers]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    run = model["block"] if isinstance(model, nn.ModuleDict) else model

    def step() -> None:
        output = run(*inputs) if case != "tiny UNet" else run(*inputs).sample
        output.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return step, alone


def orthonormal(module: nn.Module, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Any basis: a step takes no longer with the weight's own."""
    m, n = module.weight.flatten(1).shape
    r = min(rank, m, n)
    return torch.linalg.qr(torch.randn(m, r)).Q, torch.linalg.qr(torch.randn(n, r)).Q


def settled() -> None:
    """Give back what building took, and count the peak from here."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> float:
    """MB of this process now (``VmRSS``) or at its peak since ``settled`` (``VmHWM``); on CUDA, of tensors."""
    if DEVICE == "cuda":
        used = torch.cuda.memory_allocated() if field == "VmRSS" else torch.cuda.max_memory_allocated()
        return used / 1e6
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1e3


def peak(case: str, adapter: str, rank: int) -> float:
    """MB beyond the frozen model, in a process of its own."""
    code = f"from bench import training as t; t.print_peak({case!r}, {adapter!r}, {rank})"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak(case: str, adapter: str, rank: int) -> None:
    step, model = setup(case, adapter, rank)
    settled()
    for _ in range(3):
        step()
    print(memory("VmHWM") - model)


def step_times(case: str, rank: int, steps: int) -> dict[str, float]:
    """Adapter -> median seconds a step."""
    ready = {adapter: setup(case, adapter, rank)[0] for adapter in ADAPTERS}
    taken: dict[str, list[float]] = {adapter: [] for adapter in ADAPTERS}
    for number in range(steps + 2):
        for adapter, step in ready.items():
            began = time.perf_counter()
            step()
            if number >= 2:  # the first ones allocate
                taken[adapter].append(time.perf_counter() - began)
    return {adapter: statistics.median(times) for adapter, times in taken.items()}


def decomposition() -> float:
    """Seconds for the bases of the block's layers, once before training starts."""
    model, _ = block()
    began = time.perf_counter()
    for name, module in model.named_modules():
        if re.fullmatch(TARGETS, name):
            basis(Decomposition(module.weight.detach()), 320)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.training", description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of each adapter (default: %(default)s)")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {DEVICE}, {torch.get_num_threads()} threads, float32")
    print("| model | rank | adapter | step, ms | of LoRA's | peak memory, MB | of LoRA's |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case, ranks in CASES.items():
        for rank in ranks:
            times, peaks = step_times(case, rank, options.steps), {adapter: peak(case, adapter, rank) for adapter in ADAPTERS}
            for adapter in ADAPTERS:
                shares = times[adapter] / times[LORA], peaks[adapter] / peaks[LORA]
                cells = f"{1e3 * times[adapter]:.0f} | {shares[0]:.2f} | {peaks[adapter]:.0f} | {shares[1]:.2f}"
                name = adapter if adapter == LORA else f"LoRA-X, {adapter} core"
                print(f"| {case} | {rank} | {name} | {cells} |", flush=True)
    print(f"\nThe bases of the SDXL block's layers, once before training: {decomposition():.1f} s.")


if __name__ == "__main__":
    main()
