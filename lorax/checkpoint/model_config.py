"""Reads the settings that a checkpoint's shapes do not tell, from its ``.yaml``; by default those of its family."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorax.checkpoint import families
from lorax.checkpoint.prediction import NOISE, prediction_of
from lorax.errors import LoraxError, reading
from lorax.files import TensorFile, is_file, read_yaml

KIND = "a model's configuration"
MOST = 1 << 14  # of a side of the latents, of heads and of their channels


@dataclass(frozen=True)
class ModelConfig:
    """The settings that are needed to run a base, besides its weights."""

    size: int  # side of the latents
    heads: int  # in every attention of the UNet; 0 if ``head_channels`` decides
    head_channels: int  # width of every head; 0 if ``heads`` decides
    latent_scale: float  # factor that gives latents about unit variance

    def heads_at(self, width: int) -> int:
        """Return the number of heads of an attention with ``width`` channels. Raises LoraxError if it is not whole."""
        if width % (self.heads or self.head_channels):
            heads = f"{self.heads} heads" if self.heads else f"heads of {self.head_channels} channels"
            raise LoraxError(
                f"attention with {width} channels cannot have {heads}. "
                "Put the checkpoint's own .yaml beside it, with num_heads or num_head_channels."
            )
        return self.heads or width // self.head_channels


DEFAULT_CONFIGS = {
    families.SD1.name: ModelConfig(size=64, heads=8, head_channels=0, latent_scale=0.18215),
    families.SDXL.name: ModelConfig(size=128, heads=0, head_channels=64, latent_scale=0.13025),
}


def config_of(file: TensorFile, family: str, config: Path | None = None) -> ModelConfig:
    """Return the settings of a checkpoint of a family. ``config``: the ``.yaml``, in ldm's or sgm's format, if it is elsewhere.

    Raises LoraxError if it is damaged, if the model predicts something else than noise, or if the family cannot be run here.
    """
    if family not in DEFAULT_CONFIGS:
        raise LoraxError(f"{file.path}: only Stable Diffusion 1.x and XL can be run by LoRA-X.")
    settings, path = DEFAULT_CONFIGS[family], config or file.path.with_suffix(".yaml")
    if (predicts := prediction_of(file.path, file)) not in (NOISE, None):
        raise LoraxError(f"{file.path}: the model predicts {predicts}, not noise. LoRA-X cannot run such a model.")
    if not is_file(path):
        return settings
    with reading(path, KIND, "Expected ldm's or sgm's format; correct it, or remove it if the checkpoint is a standard one."):
        content: dict[str, Any] = read_yaml(path, KIND)
        params = content["model"]["params"]
        network = (params.get("unet_config") or params["network_config"])["params"]
        # sgm's format has no place for the size. The lab writes it outside of ``model``, and hosts read nothing else.
        size = int(params.get("image_size") or content.get("image_size") or settings.size)
        scale = float(params.get("scale_factor") or settings.latent_scale)
        heads, head_channels = (max(0, int(network.get(key) or 0)) for key in ("num_heads", "num_head_channels"))  # -1: not set
    if not (0 < size <= MOST and heads <= MOST and head_channels <= MOST and 0 < scale < float("inf")):
        raise LoraxError(f"{path}: a size, a number of heads or a scale_factor that no model has. Correct it.")
    settings = replace(settings, size=size, latent_scale=scale)
    if head_channels:  # the UNet's own code prefers it too
        return replace(settings, heads=0, head_channels=head_channels)
    return replace(settings, heads=heads, head_channels=0) if heads else settings
