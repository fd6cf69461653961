"""One training loop for everything in the lab: seeded, resumable, logged, timed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from lab.paths import appearing

M = TypeVar("M", bound=nn.Module)


def train(
    name: str,
    folder: Path,
    module: M,
    loss_of: Callable[[int], torch.Tensor],
    *,
    steps: int,
    rate: float,
    seed: int = 0,
    warmup: int = 100,
    decay: float = 0.999,
    save_every: int = 500,
    weight_decay: float = 0.01,
) -> M:
    """Minimise ``loss_of(step)`` over the parameters of ``module`` that require a gradient; return the averaged weights.

    AdamW with a linear warm-up and a cosine to zero. Every step seeds torch from ``seed`` and its own number, so a run that
    was stopped and resumed draws the same batches as one that was not. The log is one JSON object a line.

    A stored run is resumed, or returned if it is finished, only if it is the same run: equal settings, and an equal first
    loss, which tells other data or another start from the same ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored, log_file = folder / f"{name}.train.pt", folder / f"{name}.log.jsonl"
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    start, seconds = 0, 0.0
    torch.manual_seed(seed * 1_000_003)
    with torch.no_grad():
        run = {"steps": steps, "rate": rate, "decay": decay, "first_loss": float(f"{loss_of(0).item():.3g}")}
    state = torch.load(stored, weights_only=True) if stored.exists() else {}
    if state.get("run") == run:
        module.load_state_dict(state["module"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]
    began, losses = time.monotonic() - seconds, []
    kept = [line for line in log_file.read_text().splitlines() if json.loads(line)["step"] <= start] if start else []
    log_file.write_text("".join(f"{line}\n" for line in kept))
    with log_file.open("a") as log, tqdm(total=steps, initial=start, desc=name, mininterval=10) as bar:
        for step in range(start, steps):
            torch.manual_seed(seed * 1_000_003 + step)
            scale = min(1.0, (step + 1) / warmup) * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            loss = loss_of(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            average.update_parameters(module)
            losses.append(loss.item())
            bar.update()
            done = step + 1 == steps
            if (step + 1) % 100 == 0 or done:
                mean, losses = sum(losses) / len(losses), []
                record = {"step": step + 1, "loss": round(mean, 5), "seconds": round(time.monotonic() - began, 1)}
                log.write(json.dumps(record) + "\n")
                log.flush()
                bar.set_postfix(loss=f"{mean:.4f}")
            if (step + 1) % save_every == 0 or done:
                state = {
                    "module": module.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "run": run,
                    "step": step + 1,
                    "seconds": time.monotonic() - began,
                }
                with appearing(stored) as path:
                    torch.save(state, path)
    print(f"{name}: {steps} steps in {(time.monotonic() - began) / 60:.1f} minutes")
    return average.module.eval()
