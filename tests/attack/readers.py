"""What is done with a file of the campaign: all that a user can do with it that reads it and runs no model."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from lorax.catalog import ListedFile, facts
from lorax.checkpoint import config_of, open_checkpoint
from lorax.errors import LoraxError
from lorax.inspection import inspect
from lorax.options import LORA, LORAX, Options, Saving
from lorax.transfer import as_json, wording
from lorax.workflow import AtPath, Request, transfer
from tests.attack.mutators import mutate
from tests.attack.seeds import Kept, Seed
from tests.fitted import fit
from tests.origins import origin

LONGEST = 4500  # characters of a message


def prepare(kept: Kept, number: int, campaign: str, work: Path) -> tuple[Seed, Path, str]:
    """Make the file of this number; return its seed, what is to be named, and what was done to it."""
    chance, seed = random.Random(f"{campaign} {number}"), kept.seeds[number % len(kept.seeds)]
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(seed.folder, work)
    return seed, work / seed.given, mutate(work, chance)


def attempt(kept: Kept, seed: Seed, given: Path, number: int) -> tuple[str, str]:
    """Read and move the file: ("error" or "result", what broke the rule, or nothing)."""
    outcomes = []
    for work in (_inspect, _list, _transfer, _fit):
        try:
            broken = work(kept, seed, given, number)
            outcomes.append("result")
        except LoraxError as error:
            outcomes.append("error")
            broken = _unclear(str(error), given)
        except Exception as error:
            return "violation", f"{work.__name__}: {type(error).__name__}: {str(error)[:300]!r} {_where(error)}"
        if broken:
            return "violation", f"{work.__name__}: {broken}"
    return outcomes[2], ""


def _where(error: Exception) -> str:
    """The last line of our own that raised it."""
    trace, found = error.__traceback__, ""
    while trace:
        name = trace.tb_frame.f_code.co_filename
        found = f"{Path(name).name}:{trace.tb_lineno}" if "/lorax/" in name else found
        trace = trace.tb_next
    return found


def _unclear(message: str, given: Path) -> str:
    if str(given.parent) not in message:
        return f"names no file: {message[:300]!r}"
    if len(message) > LONGEST:
        return f"{len(message)} characters: {message[:300]!r}"
    return "" if message.replace("\n", "").isprintable() else f"not printable: {message[:300]!r}"


def _inspect(kept: Kept, seed: Seed, given: Path, number: int) -> str:
    json.dumps(inspect(given))
    return ""


def _list(kept: Kept, seed: Seed, given: Path, number: int) -> str:
    if seed.role == "adapter":
        str(facts(given)).encode()
        origin(given, [ListedFile("base", kept.base)])
        return ""
    base = open_checkpoint(given)
    _ = base.prediction
    config_of(base.unet_file, base.family.name)
    return ""


def _fit(kept: Kept, seed: Seed, given: Path, number: int) -> str:
    """Fit a LoRA-X file, as a prompt does, to a relative of its source, which is at hand or not."""
    if not seed.name.startswith("LoRA-X"):
        return ""
    try:
        fit(given, kept.target, *([kept.base] if number % 3 else []))
    except LoraxError as error:
        if not str(error).startswith("not applied. "):  # which hosts say behind the LoRA's name
            raise
    return ""


def _transfer(kept: Kept, seed: Seed, given: Path, number: int) -> str:
    """A move of the adapter, or between bases of which one is odd, and a look at what was written."""
    chance, out = random.Random(number), given.parent / "out"
    out.mkdir(exist_ok=True)
    named = {"adapter": kept.lora, "source": kept.base, "target": kept.target} | {seed.role: given}
    files = {role: ListedFile(path.name, path) for role, path in named.items()}
    method = chance.choice(["copy", "copy", "auto", "lorax", "prolora"])
    options = Options(method, pairing=chance.choice(["auto", "auto", "name", "weights"]), device="cpu")
    saving = Saving(save_as=chance.choice([LORA, LORA, LORA, LORAX]), dtype="fp32", overwrite=True)
    request = Request(files["source"], files["target"], [files["adapter"]], options)
    results = transfer(request, AtPath(out / "moved.safetensors", saving))
    json.dumps(as_json(results[0].report))
    wording.summary(results[0].report)
    if (written := results[0].written) is None:
        wording.nothing_moved(results[0].file, results[0].report)
        return ""
    return "" if all(bool(torch.isfinite(tensor).all()) for tensor in load_file(written).values()) else "wrote what is not finite"
