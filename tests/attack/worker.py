"""One process of the campaign, whose memory is bounded."""

from __future__ import annotations

import logging
import resource
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from tests.attack import readers
from tests.attack.seeds import Kept

READY = "ready"
MEGABYTES = 1000  # that a file may take beside what the process had


class End(NamedTuple):
    """What became of a file: ``kind`` is error, result or violation; ``what`` was done to it, and what broke the rule."""

    reader: str
    kind: str
    what: str
    seconds: float = 0.0
    megabytes: float = 0.0


def work(pipe: Connection, kept: Kept, campaign: str, folder: Path) -> None:
    """Take numbers from the pipe and tell what became of their files, in at most a gigabyte more than the libraries take."""
    logging.disable()
    torch.set_num_threads(1)
    readers.attempt(kept, kept.seeds[0], kept.seeds[0].folder / kept.seeds[0].given, 0)  # what loads late is loaded
    limit = _status("VmSize") + (MEGABYTES + 500 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send(READY)
    while (number := pipe.recv()) is not None:
        seed, given, done = readers.prepare(kept, number, campaign, folder)
        before, began = _status("VmRSS"), time.process_time()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
        end, what = readers.attempt(kept, seed, given, number)
        seconds, megabytes = time.process_time() - began, (_status("VmHWM") - before) / 1e6
        pipe.send(End(seed.name, end, f"{what} [{done}]" if what else done, seconds, megabytes))


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
