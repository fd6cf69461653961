"""What a model that runs computes of the same input: run by the tests with diffusers, and by ``probe.py`` inside the WebUI."""

from __future__ import annotations

from pathlib import Path

import torch

from lorax.formats import open_adapter
from lorax.low_rank import LowRank
from lorax.models import Model, adapted, hooked, rows_in, rows_out

# What the host's prompts have a syntax for, a word that training drops, and more tokens than fit.
PROMPTS = ["cat face", "", "a (red:1.4) [car:house:0.5] BREAK ((sun))", "green apple, " * 40]
TIMES = (3, 250, 600, 990)


def computed(model: Model, lora: Path) -> dict[str, torch.Tensor]:
    """Compute everything by name, on the CPU. Gradients are those of the LoRA's factors."""
    layers = open_adapter(lora).deltas_of(model.base)
    generator = torch.Generator().manual_seed(0)
    latents, pictures = (torch.randn(shape, generator=generator) for shape in ((4, 4, 16, 16), (4, 3, 128, 128)))
    times = torch.tensor(TIMES)
    found = {"alphas": model.alphas, "scale": torch.tensor(model.latent_scale)}

    def seen(layer: str):  # type: ignore[no-untyped-def]
        def hook(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
            found[f"into {layer}"], found[f"out of {layer}"] = rows_in(module, x), rows_out(module, y)

        return hook

    with torch.no_grad():
        with hooked({layer: model.module(layer) for layer in model.base.layers}, seen):
            conditioning = model.encode(PROMPTS)
            found["alone"] = model.predict(latents, times, conditioning)
        found["context"] = conditioning.context
        if conditioning.pooled is not None:
            found["pooled"] = conditioning.pooled
        with adapted(model, layers):
            found["adapted"] = model.predict(latents, times, model.encode(PROMPTS))
    factors = {layer: (dW.scale * dW.up, dW.down) for layer, dW in layers.items()}
    trained = {layer: LowRank(*(factor.clone().requires_grad_() for factor in both)) for layer, both in factors.items()}
    with adapted(model, trained):
        predicted = model.predict(latents, times, model.encode(PROMPTS))
    torch.autograd.backward(predicted.square().mean())
    reached = [(layer, dW) for layer, dW in trained.items() if dW.up.grad is not None]  # SDXL skips the first encoder's last
    found |= {f"gradient of {layer}": torch.cat([dW.up.grad.flatten(), dW.down.grad.flatten()]) for layer, dW in reached}
    found["latents"] = model.encode_pictures(pictures.sigmoid())
    found["pictures"] = model.decode(latents)
    return {name: value.detach().float().cpu().contiguous().clone() for name, value in found.items()}
