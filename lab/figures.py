"""``python -m lab figures``: gain recovery of every method, per style and target, with 95 % intervals."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lab import lora
from lab.measure import HeldOut, recovery
from lab.paths import CHECKPOINTS, lora_path
from lorax.checkpoint import open_checkpoint
from lorax.demo.bundle import BASE, FINETUNE, PRUNED, unpack
from lorax.formats import open_adapter, writer
from lorax.runner import Runner
from lorax.transfer import Options, plan, run

SEEDS = (0, 1, 2)
VARIANTS = {
    "copy by name": Options("copy", pairing="name"),
    "copy": Options("copy"),
    "auto": Options("auto"),
    "lorax 25%": Options("lorax", rank="25%", threshold=0),
    "lorax energy:0.95": Options("lorax", rank="energy:0.95", threshold=0),
    "lorax, gated": Options("lorax"),
    "prolora": Options("prolora", threshold=0),
    "prolora-cross": Options("prolora-cross", threshold=0),
}


def main() -> None:
    tokenizer = unpack(CHECKPOINTS)
    source = open_checkpoint(CHECKPOINTS / f"{BASE}.safetensors")
    print(f"{'target':10}{'style':12}{'method':22}recovery  95 % interval    less copy  95 % interval")
    for target_name in (FINETUNE, PRUNED):
        target = open_checkpoint(CHECKPOINTS / f"{target_name}.safetensors")
        runner = Runner(target.path, tokenizer)
        for style in lora.STYLES:
            held_out = HeldOut(runner, lora.STYLES[style].icons, SEEDS)
            alone, native = held_out.losses(None), held_out.losses(lora_path(style, target_name))
            print(f"{target_name:10}{style:12}loss alone {alone.mean():.4f}, native {native.mean():.4f}")
            losses = {}
            with tempfile.TemporaryDirectory() as folder:
                for label, options in VARIANTS.items():
                    planned = plan(open_adapter(lora_path(style, BASE)), source, target, options)
                    moved = run(planned)
                    if not moved.layers:
                        print(f"{target_name:10}{style:12}{label:22}nothing transferred")
                        continue
                    path = Path(folder) / "moved.safetensors"
                    writer.write(planned, moved, path, dtype="fp32", overwrite=True)
                    losses[label] = held_out.losses(path)
            for label, moved_loss in losses.items():
                r = recovery(alone, native, moved_loss)
                d = recovery(alone, native, moved_loss, minus=losses["copy"])
                print(
                    f"{target_name:10}{style:12}{label:22}{r.mean:8.3f}  [{r.low:6.3f}, {r.high:6.3f}]"
                    f"{d.mean:10.3f}  [{d.low:6.3f}, {d.high:6.3f}]",
                    flush=True,
                )
