"""Has reForge draw with the small models: its list of known models begins with SD 1.x and SDXL at the sizes of their files."""

import json
import runpy
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from ldm_patched.modules import sd, sd1_clip, sdxl_clip, supported_models
from modules import sd_models_config
from modules.paths_internal import data_path
from modules_forge import forge_clip

DATA, HOST = Path(data_path), Path(sd1_clip.__file__).parent
TOKENIZER = DATA / "models/Stable-diffusion/tokenizer"
CHANNELS = 64  # of each small UNet's first level
text_sizes = runpy.run_path(str(DATA / "extensions/lorax/tests/webui/text_sizes.py"))["text_sizes"]


def text_config(name, state, prefix):
    """Return the host's description of a text encoder, with the sizes of this file. 2: the end is the token of the highest id."""
    return json.loads((HOST / name).read_text()) | text_sizes(state, prefix) | {"eos_token_id": 2}


class TextsXL(sdxl_clip.SDXLClipModel):
    """The two text encoders of SDXL."""

    def __init__(self, first, second, **more):
        torch.nn.Module.__init__(self)
        text = partial(sd1_clip.SDClipModel, layer="hidden", layer_idx=-2, layer_norm_hidden_state=False, **more)
        self.clip_l, self.clip_g = text(textmodel_json_config=first), text(textmodel_json_config=second)
        self.dtypes = {more["dtype"]}


class TokenizersXL(sdxl_clip.SDXLTokenizer):
    def __init__(self, **more):
        self.clip_l = sd1_clip.SDTokenizer(str(TOKENIZER), **more)
        self.clip_g = sdxl_clip.SDXLClipGTokenizer(str(TOKENIZER), **more)


class Small:
    """A family's entry for files of the small models, of whatever depth."""

    @classmethod
    def matches(cls, unet_config, state_dict=None):
        names = ("use_linear_in_transformer", "use_temporal_attention")
        known = {name: cls.unet_config[name] for name in names} | {"model_channels": CHANNELS}
        return all(unet_config.get(name) == value for name, value in known.items())


class SmallSD15(Small, supported_models.SD15):
    unet_extra_config: ClassVar = {"num_heads": 4, "num_head_channels": -1}

    def clip_target(self, state_dict):
        config = text_config("sd1_clip_config.json", state_dict, "cond_stage_model.")
        text = partial(sd1_clip.SDClipModel, textmodel_json_config=config)
        tokenizer = partial(sd1_clip.SDTokenizer, str(TOKENIZER))
        return supported_models.supported_models_base.ClipTarget(
            partial(sd1_clip.SD1Tokenizer, tokenizer=tokenizer), partial(sd1_clip.SD1ClipModel, clip_model=text)
        )


class SmallSDXL(Small, supported_models.SDXL):
    unet_extra_config: ClassVar = {"num_heads": -1, "num_head_channels": 16}

    def clip_target(self, state_dict):
        first = text_config("sd1_clip_config.json", state_dict, "conditioner.embedders.0.")
        second = text_config("clip_config_bigg.json", state_dict, "conditioner.embedders.1.")
        return supported_models.supported_models_base.ClipTarget(TokenizersXL, partial(TextsXL, first, second))


class OpenCLIPOfFewWords(forge_clip.CLIP_SD_XL_G):
    """The second text encoder's prompts by the tokenizer's own first and last token, for one that knows few words."""

    def __init__(self, wrapped, hijack):
        super().__init__(wrapped, hijack)
        self.id_start, self.id_end = wrapped.tokenizer.bos_token_id, wrapped.tokenizer.eos_token_id


def autoencoder(ddconfig, **more):
    """The bundled models' autoencoder, whose sizes the host has in its code."""
    return KNOWN(ddconfig=ddconfig | {"ch": 64, "ch_mult": [1] * 4, "num_res_blocks": 1}, **more)


KNOWN = sd.AutoencoderKL
sd.AutoencoderKL = autoencoder
forge_clip.CLIP_SD_XL_G = OpenCLIPOfFewWords
supported_models.models[:0] = [SmallSD15, SmallSDXL]
sd_models_config.config_sdxl = str(DATA / "sd_xl_base.yaml")
