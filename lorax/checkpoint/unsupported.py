"""Recognises unsupported bases by their keys, so that a refusal can name them."""

import re
from collections.abc import Iterable

# The first row that any key matches counts, since some architectures also have keys of a later one. The patterns of a row, for
# the original layout and for diffusers', are matched at the beginning of a key.
ARCHITECTURES = {
    "FLUX.2": r"(single_stream_modulation|double_stream_modulation_img)\.",
    "Chroma": r"distilled_guidance_layer\.",
    "Hunyuan Video or Hunyuan Image": r"txt_in\.individual_token_refiner\.|context_embedder\.token_refiner\.",
    "Hunyuan-DiT": r"text_embedding_padding|mlp_t\d\.|time_extra_emb\.",
    "FLUX.1": r"double_blocks\.\d+\.img_attn\.|single_transformer_blocks\.\d+\.norm\.",
    "AuraFlow": r"double_layers\.|joint_transformer_blocks\.",
    "Stable Diffusion 3": r"joint_blocks\.|pos_embed\.pos_embed",
    "Z-Image": r"cap_pad_token|all_x_embedder\.|layers\.\d+\.adaLN_modulation\.0\.",
    "Lumina": r"cap_embedder\.|time_caption_embed\.",
    "Sana": r"attention_y_norm|caption_norm\.",
    "LTX-Video": r"patchify_proj\.|time_embed\.emb\.timestep_embedder\.",
    "PixArt": r"adaln_single\.|y_embedder\.",
    "Wan": r"head\.modulation|condition_embedder\.time_embedder\.",
    "Stable Cascade": r"clip_txt_mapper\.|clip_txt_pooled_mapper\.|effnet_mapper\.|down_blocks\.\d+\.\d+\.channelwise\.",
    "Qwen-Image": r"txt_norm\.|txt_in\.text_norm\.|transformer_blocks\.\d+\.img_mod\.",
    "HiDream": r"double_stream_blocks\.",
    "CogView or CogVideoX": r"patch_embed\.text_proj\.",
    "Mochi": r"pos_frequencies|blocks\.\d+\.attn\.qkv_x\.",
    "Anima": r"(net\.)?llm_adapter\.",
    "Krea 2": r"txtfusion\.",
    "ERNIE-Image": r"layers\.\d+\.mlp\.linear_fc\d\.",
    "PiD": r"lq_proj\.",
    "Cosmos": r"net\.(blocks|x_embedder)\.|learnable_pos_embed\.",
    "Kandinsky": r"visual_transformer_blocks\.|add_time_condition\.|add_embedding\.image_",
    "DeepFloyd IF": r".*\.attentions\.\d+\.add_k_proj\.",
    "Kolors": r"encoder_hid_proj\.weight",
    "Stable Video Diffusion": r".*\.(time_stack|temporal_transformer_blocks|spatial_res_block)\.",
    "a text-to-video UNet": r".*\.(motion_modules|temp_attentions|temp_convs)\.",
    "the x4 upscaler": r"(label_emb|class_embedding)\.weight",
}
QUANTIZED = {
    "NF4": r".*\.quant_state\.bitsandbytes__nf\d+$",
    "FP4": r".*\.quant_state\.bitsandbytes__fp\d+$",
    "bitsandbytes": r".*\.(absmax|SCB)$",
    "scaled FP8": r".*(scaled_fp8|\.scale_weight|\.weight_scale|\.comfy_quant)$",
    "GPTQ, AWQ or SVDQuant": r".*\.qweight$",
}
PREFIX = re.compile(r"^(model\.diffusion_model|model)\.")


def architecture(keys: Iterable[str]) -> str | None:
    """Return the name of the architecture with these parameters, or None."""
    return _first(ARCHITECTURES, keys)


def quantization(keys: Iterable[str]) -> str | None:
    """Return the name of the weights' quantization, or None."""
    return _first(QUANTIZED, keys)


def _first(table: dict[str, str], keys: Iterable[str]) -> str | None:
    kinds = {re.sub(r"\d+", "0", PREFIX.sub("", key, count=1)) for key in keys}  # far fewer than keys
    for title, pattern in table.items():
        if any(map(re.compile(pattern).match, kinds)):
            return title
    return None
