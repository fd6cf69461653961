"""Decodes and encodes the pictures from which a target learns an adapter."""

from dataclasses import dataclass

import torch

from lorax.models.protocol import Model, check_finite
from lorax.models.sampling import batches
from lorax.progress import DECODING, ENCODING, Meter

PIXELS = 8  # side of one latent
AT_ONCE = 4  # latents with a side of 8 that the autoencoder takes at once


@dataclass(frozen=True)
class Pictures:
    """Pictures, uint8 (P, 3, H, W) on the CPU, each with a prompt. A target learns more from them than from latents as drawn."""

    prompts: list[str]
    pixels: torch.Tensor

    @classmethod
    def decoded(cls, model: Model, latents: torch.Tensor, prompts: list[str], meter: Meter) -> "Pictures":
        """Decode scaled latents (P, 4, h, w) with the model's autoencoder. Raises LoraxError if what it decodes is not finite."""
        parts = []
        for rows in batches(len(latents), model.size, AT_ONCE):
            meter.at(int(rows[0]), len(latents), DECODING)
            decoded = model.decode(latents[rows]).cpu()
            check_finite(model, decoded)
            parts.append((255 * decoded).round().byte())
        # In one order of memory, as the cache gives them back: it decides how the autoencoder rounds.
        return cls(prompts, torch.cat(parts).contiguous())

    def latents_in(self, model: Model, meter: Meter) -> torch.Tensor:
        """Encode the pictures at the model's own size; return scaled latents (P, 4, h, w) on the CPU."""
        side, parts = PIXELS * model.size, []
        for rows in batches(len(self.pixels), model.size, AT_ONCE):
            meter.at(int(rows[0]), len(self.pixels), ENCODING)
            part = self.pixels[rows] / 255
            if part.shape[-1] != side:
                part = torch.nn.functional.interpolate(part, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
            parts.append(model.encode_pictures(part).cpu())
        return torch.cat(parts)
