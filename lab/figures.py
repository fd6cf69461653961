"""``python -m lab figures``: gain recovery of every method, per target and style, with 95 % intervals, as a Markdown table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from lab import lora
from lab.measure import HeldOut, Recovery, recovery
from lab.paths import CHECKPOINTS, lora_path
from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.demo.bundle import BASE, FINETUNE, PRUNED, unpack
from lorax.formats import open_adapter, writer
from lorax.options import Options
from lorax.runner import Runner
from lorax.transfer import plan, run

SEEDS = (0, 1, 2)
BY_NAME, COPY, AUTO = "copy by name", "copy", "auto"
VARIANTS = {  # and the strength at which the result is applied
    BY_NAME: (Options("copy", pairing="name"), 1.0),
    COPY: (Options("copy"), 1.0),
    "copy at strength 0.5": (Options("copy"), 0.5),
    AUTO: (Options("auto"), 1.0),
    "lorax 25%": (Options("lorax", rank="25%", threshold=0), 1.0),
    "lorax energy:0.95": (Options("lorax", rank="energy:0.95", threshold=0), 1.0),
    "lorax, gated at 0.8": (Options("lorax"), 1.0),
    "prolora": (Options("prolora", threshold=0), 1.0),
    "prolora-cross": (Options("prolora-cross", threshold=0), 1.0),
}
ALONE, NATIVE = "alone", "native"


def main() -> None:
    tokenizer = unpack(CHECKPOINTS)
    source = open_checkpoint(CHECKPOINTS / f"{BASE}.safetensors")
    for name in (FINETUNE, PRUNED):
        target = open_checkpoint(CHECKPOINTS / f"{name}.safetensors")
        runner = Runner(target.path, tokenizer)
        styles = {style: dict(_losses(runner, source, target, name, style)) for style in lora.STYLES}
        styles["all styles"] = pooled(list(styles.values()))
        print(f"\n| base to {name} | " + " | ".join(styles) + " | all styles, less copy |")
        print("| --- |" + " --- |" * (len(styles) + 1))
        for label in VARIANTS:
            cells = [_recovery(losses, label) for losses in styles.values()]
            cells.append(_recovery(styles["all styles"], label, minus=COPY))
            print(f"| {label} | " + " | ".join(f"{r.mean:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in cells) + " |", flush=True)
        by_name = _recovery(styles["all styles"], BY_NAME)
        closed = _recovery(styles["all styles"], AUTO, minus=BY_NAME).mean / (1 - by_name.mean)
        verdict = f"auto closes {closed:.0%} of it" if by_name.high < 1 else "which is no gap"
        print(f"\nThe copy by name stays {1 - by_name.mean:.3f} behind the native LoRA; {verdict}.")


def _losses(runner: Runner, source: Checkpoint, target: Checkpoint, name: str, style: str) -> Iterator[tuple[str, torch.Tensor]]:
    """(variant, losses (icons, seeds)) on the style's held-out icons; a method that transfers nothing leaves the target alone."""
    held_out = HeldOut(runner, lora.STYLES[style].icons, SEEDS)
    alone, native = held_out.losses(None), held_out.losses(lora_path(style, name))
    print(f"{style} on {name}: denoising loss {alone.mean():.4f} alone, {native.mean():.4f} with the native LoRA", flush=True)
    yield from ((ALONE, alone), (NATIVE, native))
    with tempfile.TemporaryDirectory() as folder:
        for label, (options, strength) in VARIANTS.items():
            planned = plan(open_adapter(lora_path(style, BASE)), source, target, options)
            moved = run(planned)
            if not moved.layers:
                yield label, alone
                continue
            path = Path(folder) / "moved.safetensors"
            writer.write(planned, moved, path, dtype="fp32", overwrite=True)
            yield label, held_out.losses(path, strength)


def pooled(styles: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Losses of all styles together, subject by subject, each divided by its native LoRA's gain, so that all weigh the same."""
    gains = [(losses[ALONE] - losses[NATIVE]).mean() for losses in styles]
    return {
        label: torch.stack([losses[label] / gain for losses, gain in zip(styles, gains, strict=True)]).mean(0)
        for label in styles[0]
    }


def _recovery(losses: dict[str, torch.Tensor], label: str, minus: str | None = None) -> Recovery:
    return recovery(losses[ALONE], losses[NATIVE], losses[label], minus=None if minus is None else losses[minus])
