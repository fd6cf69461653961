"""Moves a style between the bundled models and draws the result: ``python -m lorax demo``. Needs the demo extra."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lorax.catalog import ListedFile
from lorax.demo import bundle
from lorax.demo.bundle import STYLE
from lorax.methods import REFINE
from lorax.options import Options, Running, Saving
from lorax.transfer import Report, as_json, wording
from lorax.workflow import AtPath, Request, transfer

if TYPE_CHECKING:
    from lorax.runner import Runner  # diffusers is slow to import, and may be missing

PROMPTS = ["bread", "open book", "baseball", "guitar", "rocket", "turtle"]  # the LoRA was trained on the last two
SEED = 7
TARGETS = (bundle.FINETUNE, bundle.PRUNED)
COPIED, MOVED, REFINED = "copied by name", "moved", "refined"
HOW = {  # what is drawn -> how the LoRA is moved for it, and to which models
    COPIED: (Options("copy", pairing="name"), TARGETS),
    MOVED: (Options(), TARGETS),
    REFINED: (Options(REFINE), TARGETS),
}
AT_A_GLANCE = {  # the README's picture: title of a column -> the row of the grid that it shows
    "your checkpoint,\nno LoRA": (bundle.PRUNED, "alone"),
    "the LoRA on its\nown checkpoint": (bundle.BASE, "with the LoRA"),
    "the LoRA on\nyours, as it is": (bundle.PRUNED, COPIED),
    "the LoRA on\nyours, moved": (bundle.PRUNED, MOVED),
    "the same, moved\nwith Refine": (bundle.PRUNED, REFINED),
}
SHOWN = PROMPTS[:3]  # in the README's picture


def run(output: Path) -> Iterator[str]:
    """Write two pictures, the moved adapters and a report of what ``auto`` did into ``output``; yield a line about each step.

    Raises ModuleNotFoundError before anything is written if the demo extra is not installed.
    """
    from lorax.demo.grid import draw  # matplotlib and diffusers are slow to import, and may be missing
    from lorax.runner import Runner

    began = time.monotonic()
    models = output / "models"
    tokenizer = bundle.unpack(models)
    bundle.unpack_loras(models / "loras")
    loras = {name: models / "loras" / f"{STYLE}-{name}.safetensors" for name in (bundle.BASE, *TARGETS)}
    yield f"bundled models unpacked into {models}"
    runner = Runner(models / f"{bundle.BASE}.safetensors", tokenizer)
    first = {"alone": None, "with the LoRA": loras[bundle.BASE]}
    rows = [(bundle.BASE, label, _pictures(runner, path)) for label, path in first.items()]
    reports = {}
    for target in TARGETS:
        runner, drawn = Runner(models / f"{target}.safetensors", tokenizer), dict[str, Path | None](alone=None)
        for label, (options, targets) in HOW.items():
            if target in targets:
                yield f"base -> {target}: {label}"
                drawn[label], report = _transfer(loras[bundle.BASE], models, target, output, options, label)
                if label == MOVED:
                    reports[target] = as_json(report)
                    yield f"base -> {target}: " + wording.summary(report).replace("\n", "\n  ")
        drawn["trained natively"] = loras[target]
        rows += [(target, label, _pictures(runner, path)) for label, path in drawn.items()]
    grid, glance = output / "grid.webp", output / "glance.webp"
    draw(rows, PROMPTS, grid)
    draw(_at_a_glance(rows), list(AT_A_GLANCE), glance, inches=1.3)
    (output / "report.json").write_text(json.dumps(reports, indent=2), encoding="utf-8")
    yield f"wrote {grid}, {glance} and {output / 'report.json'} in {time.monotonic() - began:.0f} s"


def _transfer(adapter: Path, models: Path, target: str, output: Path, options: Options, label: str) -> tuple[Path, Report]:
    bases = (models / f"{name}.safetensors" for name in (bundle.BASE, target))
    source, target_base, lora = (ListedFile(path.stem, path) for path in (*bases, adapter))
    destination = AtPath(output / f"{STYLE}-{target}-{label.replace(' ', '-')}.safetensors", Saving(overwrite=True))
    [result] = transfer(Request(source, target_base, [lora], options, Running(captions=bundle.captions())), destination)
    return result.files[0], result.report


def _at_a_glance(rows: list[tuple[str, str, torch.Tensor]]) -> list[tuple[str, str, torch.Tensor]]:
    """Return a row for each subject that is shown, with what becomes of the LoRA side by side."""
    drawn = {(model, label): pictures for model, label, pictures in rows}
    return [(name, "", torch.stack([drawn[row][PROMPTS.index(name)] for row in AT_A_GLANCE.values()])) for name in SHOWN]


def _pictures(runner: "Runner", adapter: Path | None) -> torch.Tensor:
    with runner.adapted(adapter):
        return runner.sample(PROMPTS, [SEED + i for i in range(len(PROMPTS))])
