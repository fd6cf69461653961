"""Chooses the device that computes, the precision in which models run on it, and how many cores a thread computes on."""

import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from lorax.errors import LoraxError

log = logging.getLogger(__name__)


def precision(device: torch.device) -> torch.dtype:
    """Return the dtype of frozen weights on the device: float32 on a CPU, on a graphics card bfloat16 or else float16."""
    if device.type != "cuda":
        return torch.float32
    try:
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    except TypeError:  # torch before 2.4 never counts emulation
        has_it = torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_it else torch.float16


def pick_device(name: str) -> torch.device:
    """Return the named device. ``auto`` is CUDA or else the CPU, and ``mps`` the CPU. Raises LoraxError if there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    exists = available.get(kind, False) and (not colon or (kind == "cuda" and re.fullmatch("[0-9]{1,3}", number)))
    if not exists or (number and int(number) >= torch.cuda.device_count()):
        raise LoraxError(
            f"device {name!r}: not available here. Choose auto, or one of {', '.join(d for d in available if available[d])}."
        )
    if name == "mps":
        log.warning("device mps: it has no float64, which the transfer needs. The CPU is used instead.")
        return torch.device("cpu")
    return torch.device(name)


def free_on_card(device: torch.device) -> int:
    """Return the free bytes on a graphics card."""
    return torch.cuda.mem_get_info(device.index)[0]  # torch before 2.5 takes no device without an index


def pool(workers: int, name: str) -> ThreadPoolExecutor:
    """Make a pool of threads in each of which torch computes on one core."""
    return ThreadPoolExecutor(workers, name, _on_one_core, (torch.get_num_threads(),))


def _on_one_core(otherwise: int) -> None:
    """Have torch compute on one core in this thread, and on as many as ``otherwise`` in those that begin later.

    What a thread sets holds also for each that has not computed yet, such as the one of the next job, or of a host's picture.
    """
    torch.get_num_threads()  # else this thread would take the number that is set last, once it computes
    torch.set_num_threads(1)
    other = threading.Thread(target=torch.set_num_threads, args=(otherwise,))
    other.start()
    other.join()
