"""How long something takes, how much memory it takes, and how exact it is."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from bench.layers import Layers, Shape
from bench.synthetic import Relatives
from lorax.checkpoint import Checkpoint
from lorax.files import Cache
from lorax.low_rank import LowRank
from lorax.methods import WeightPair, weight_method
from lorax.options import Options
from lorax.subspace import Decomposition, RankRule
from lorax.subspace.gram import Gram, lower_gram
from lorax.transfer import Context, run_all
from lorax.transfer.streaming import Stream

Clock = Callable[[], float]


def seconds(action: Callable[[], object], repeats: int, clock: Clock) -> float:
    """Of the fastest of the repeats."""
    taken = []
    for _ in range(repeats):
        begin = clock()
        action()
        taken.append(clock() - begin)
    return min(taken)


def move(
    relatives: Relatives,
    layers: Layers,
    options: Options,
    *,
    rank: int = 32,
    adapters: int = 1,
    cache: Path | None = None,
    survey: bool = False,
) -> None:
    context = Context(cache=Cache(cache, 1 << 40, 0) if cache else None)
    run_all(relatives.plans(layers, options, rank, adapters), context, survey=survey)


def full_svd(relatives: Relatives, shape: Shape, device: str) -> None:
    """Of both bases' layer, as the papers do it: in float32, with all of torch's threads."""
    for base in relatives.open({"unet.layer": shape}):
        torch.linalg.svd(base.weight("unet.layer").to(device).float(), full_matrices=False)
    if device != "cpu":
        torch.cuda.synchronize()


def spectra(relatives: Relatives, shape: Shape, device: str, layers: int) -> None:
    """The singular values of both bases' layers and nothing else, as ``lorax`` would find them: what it cannot do without."""
    bases = relatives.open({"unet.layer": shape})
    stream = Stream(torch.device(device), lambda base: 0, lambda base, device: base.weight("unet.layer", device), _values)
    for _ in stream(bases * layers):
        pass


def _values(base: Checkpoint, W: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigvalsh(lower_gram(Gram(W).tall))


def read(relatives: Relatives, layers: Layers) -> None:
    """The touched tensors of both bases, once."""
    for base in relatives.open(layers):
        for layer in layers:
            base.stored(layer).clone()


def error(relatives: Relatives, shape: Shape, device: str) -> float:
    """Of the delta that ``lorax`` gives at the default rank, relative to what it is in float64 throughout."""
    W_s, W_t = (base.weight("unet.layer").to(device) for base in relatives.open({"unet.layer": shape}))
    made = torch.Generator().manual_seed(1)
    dW = LowRank(torch.randn(shape[0], 32, generator=made).to(device), torch.randn(32, shape[1], generator=made).to(device))
    pair = WeightPair(Decomposition(W_s), Decomposition(W_t), RankRule("energy:0.95"))
    moved, _ = weight_method("lorax").move(dW, pair)
    assert moved is not None
    U, V = Decomposition(W_t).leading(pair.r)
    up, down = U @ (U.mT @ dW.up.double()), (dW.down.double() @ V) @ V.mT
    difference = LowRank(torch.cat([moved.up.double(), -up], 1), torch.cat([moved.down.double(), down]))
    return difference.norm() / LowRank(up, down).norm()


def peak_memory(relatives: Relatives, layers: Layers) -> int:
    """Bytes of a process of its own at its fullest in a run of ``lorax``; mapped files, which can be dropped, do not count."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_watched, args=(sender, relatives, layers))
    process.start()
    peak = int(receiver.recv())
    process.join()
    return peak


def _watched(sender: multiprocessing.connection.Connection, relatives: Relatives, layers: Layers) -> None:
    done, peak = threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        move(relatives, layers, Options("lorax", device="cpu"))
    finally:
        done.set()
        thread.join()
        sender.send(peak[0])


def anonymous() -> int:
    """Bytes of this process; mapped files, which can be dropped, do not count."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)
