"""Has AUTOMATIC1111 draw with the small models.

It takes their configurations for those of SD 1.x and SDXL, so that checkpoints without their own share them; and reads prompts
for the lab's SDXL, whose text encoders know few words, by the tokenizer of these words. If weights are in half precision, it
casts them as for graphics cards without autocast, since a CPU computes in single precision only.
"""

from contextlib import nullcontext
from pathlib import Path

import open_clip
import torch
from modules import devices, script_callbacks, sd_hijack_open_clip, sd_models_config, shared
from modules.paths_internal import data_path
from transformers import CLIPTokenizer

sd_models_config.config_default = str(Path(data_path) / "v1-inference.yaml")
sd_models_config.config_sdxl = str(Path(data_path) / "sd_xl_base.yaml")
open_clip.add_model_config(Path(data_path) / "open_clip")


class OpenCLIPOfFewWords(sd_hijack_open_clip.FrozenOpenCLIPEmbedder2WithCustomWords):
    """OpenCLIP with the first text encoder's tokenizer, for a second one that knows no more words than that."""

    def __init__(self, wrapped, hijack):
        super().__init__(wrapped, hijack)
        self.few = CLIPTokenizer.from_pretrained(Path(data_path) / "models/Stable-diffusion/tokenizer")
        if wrapped.model.token_embedding.wrapped.num_embeddings > len(self.few):
            self.few = None
        else:
            self.id_start, self.id_end = self.few.bos_token_id, self.few.eos_token_id
            self.comma_token = self.few.get_vocab()[",</w>"]

    def tokenize(self, texts):
        return self.few(texts, add_special_tokens=False)["input_ids"] if self.few else super().tokenize(texts)


sd_hijack_open_clip.FrozenOpenCLIPEmbedder2WithCustomWords = OpenCLIPOfFewWords


def keep_single(model):
    """What the host does not cast, of OpenCLIP."""
    for embedder in getattr(getattr(model, "conditioner", None), "embedders", ()):
        for module in embedder.modules() if "OpenCLIP" in type(embedder).__name__ else ():
            if not isinstance(module, (torch.nn.Linear, torch.nn.MultiheadAttention)):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.float()


if not shared.cmd_opts.no_half:
    devices.dtype = torch.float32  # of a LoRA's factors
    devices.autocast = lambda disable=False: nullcontext() if disable else devices.manual_cast(torch.float32)
    script_callbacks.on_model_loaded(keep_single)
