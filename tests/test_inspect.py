"""``python -m lorax inspect`` says what a file is: a table of files of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorax.cli import main
from tests import builders, xl
from tests import families as narrow
from tests.adapters import RECIPES
from tests.builders import State
from tests.recipes import RECIPES as PRUNING
from tests.samples import write
from tests.structure import TINY, TINY_PRUNED

SD1, SD2, SDXL, REFINER = "Stable Diffusion 1.x", "Stable Diffusion 2.x", "Stable Diffusion XL", "Stable Diffusion XL refiner"
PRUNED, WHOLE = "pruned or otherwise changed", "standard"
UNTOLD = "not told by its layers"
Maker = Callable[[Path], Path]


def saved(**shapes: tuple[int, ...]) -> Maker:
    """A file with tensors of these keys, in which a dot is spelled as two underscores."""
    return stored({key.replace("__", "."): torch.ones(shape) for key, shape in shapes.items()})


def stored(state: State, suffix: str = ".safetensors", metadata: dict[str, str] | None = None) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / f"file{suffix}"
        if suffix == ".safetensors":
            save_file(state, path, metadata)
        else:
            torch.save(state, path)
        return path

    return make


def adapter(recipe: str, sdxl: bool = False, component: str = "unet", metadata: dict[str, str] | None = None) -> Maker:
    """Two layers of the format, in the names and at the widths of the family."""
    names = {
        (False, "unet"): ("lora_unet_mid_block_attentions_0_proj_in", "lora_unet_down_blocks_1_resnets_0_conv2"),
        (True, "unet"): ("lora_unet_middle_block_1_transformer_blocks_3_attn1_to_q", "lora_unet_input_blocks_4_0_out_layers_3"),
        (True, "te2"): ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "lora_te2_text_model_encoder_layers_1_mlp_fc1"),
    }[sdxl, component]
    made, state = torch.Generator().manual_seed(0), {}
    for name, shape in zip(names, ((96, 96) if sdxl else (96, 96, 1, 1), (64, 64, 3, 3)), strict=True):
        tensors, _ = RECIPES[recipe](torch.randn(shape, generator=made), made)
        state |= {f"{name}.{part}": tensor.contiguous() for part, tensor in tensors.items()}
    return stored(state, metadata=metadata)


def peft(configuration: dict[str, object], **shapes: tuple[int, ...]) -> Maker:
    def make(folder: Path) -> Path:
        saved(**shapes)(folder).rename(folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(configuration))
        return folder

    return make


def facts(kind: str, family: str, ranks: tuple[int, ...] = (), layers: int = 2) -> dict[str, object]:
    counts = {str(rank): ranks.count(rank) for rank in ranks}
    return {"kind": kind, "family": family, "layers": layers, "ranks": counts}


def base(family: str, blocks: str = WHOLE, predicts: str = "not told by the file", **more: str | None) -> dict[str, object]:
    """What is found of a base; None: the key is not there."""
    inputs_and_schedule = {"made for": None, "noise schedule": None}
    return {"kind": "base", "family": family, "blocks": blocks, "prediction": predicts} | inputs_and_schedule | more


def refused(family: str) -> dict[str, object]:
    return {"kind": "base", "family": family, "status": "not supported"}


def whole(family: str, channels: int = 4, marks: tuple[str, ...] = (), **metadata: str) -> Maker:
    """A checkpoint of the family, with these input channels, keys of no weights, and metadata under ``modelspec.``."""

    def make(folder: Path) -> Path:
        state = {key: value.contiguous() for key, value in narrow.MAKE[family](0).items()}
        first = f"{builders.UNET}input_blocks.0.0.weight"
        state[first] = state[first].repeat(1, 3, 1, 1)[:, :channels].contiguous()
        state |= dict.fromkeys(marks, torch.tensor([]))
        return stored(state, metadata={f"modelspec.{key}": value for key, value in metadata.items()})(folder)

    return make


def unet(recipe: str, prefix: str = builders.UNET) -> Maker:
    """The pruned UNet of a recipe alone."""
    state = narrow.random_state(PRUNING[recipe].pruned, 0)
    return stored({prefix + key: value for key, value in state.items()})


def unet_of_diffusers(folder: Path) -> Path:
    names = {param.ldm: param.diffusers for param in TINY.unet()}
    return stored({names[key]: value for key, value in narrow.random_state(TINY.unet(), 0).items()})(folder)


def beside(make: Maker, name: str, content: str) -> Maker:
    """Make a file that has a further one in the base's folder or beside it."""

    def made(folder: Path) -> Path:
        path = make(folder)
        file = (path if path.is_dir() else folder) / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        return path

    return made


def lora_x(folder: Path) -> Path:
    """Make a LoRA-X file as a transfer saves it."""
    source = str(builders.save(builders.base(), folder / "base.safetensors"))
    lora = str(builders.save_lora(folder / "lora.safetensors", builders.deltas(builders.SOME)))
    written = folder / "x.safetensors"
    bases = ["--source", source, "--target", source, "--output", str(written), "--save-as", "lora-x"]
    assert main(["transfer", lora, *bases]) == 0
    return written


Q = "unet__mid_block__attentions__0__transformer_blocks__0__attn1__to_q"
FILES: dict[str, tuple[Maker, dict[str, object] | str]] = {
    # bases
    "SD 1.x": (whole("sd1"), base(SD1)),
    "SD 1.x, inpainting": (whole("sd1", channels=9), base(SD1, **{"made for": "inpainting (9 input channels)"})),
    "SD 1.x, instruct-pix2pix": (whole("sd1", channels=8), base(SD1, **{"made for": "instruct-pix2pix (8 input channels)"})),
    "SD 1.x, velocity": (
        beside(whole("sd1"), "file.yaml", "model: {params: {parameterization: v, unet_config: {}}}"),
        base(SD1, predicts="velocity"),
    ),
    "SD 1.x, with other parts": (lambda folder: builders.save(builders.base(), folder / "a.safetensors"), base(SD1)),
    "SD 1.x, pickled": (lambda folder: builders.save(builders.base(), folder / "a.ckpt"), base(SD1)),
    "SD 1.x, folder": (lambda folder: builders.save_folder(builders.base(), folder / "a"), base(SD1)),
    "SD 1.x, folder, velocity": (
        beside(
            lambda folder: builders.save_folder(builders.base(), folder / "a"),
            "scheduler/scheduler_config.json",
            '{"prediction_type": "v_prediction"}',
        ),
        base(SD1, predicts="velocity"),
    ),
    "SD 1.x, UNet alone in diffusers' naming": (unet_of_diffusers, base(SD1)),
    "small-sd": (unet("small-sd"), base(SD1, PRUNED)),
    "tiny-sd, UNet alone": (unet("tiny-sd", prefix=""), base(SD1, PRUNED)),
    "SD 2.x": (whole("sd2"), base(SD2)),
    "SD 2.x, 512": (whole("sd2", architecture="stable-diffusion-v2-512"), base(SD2, predicts="noise")),
    "SD 2.x, 768-v": (whole("sd2", architecture="stable-diffusion-v2-768-v"), base(SD2, predicts="velocity")),
    "SD 2.x, inpainting": (whole("sd2", channels=9), base(SD2, **{"made for": "inpainting (9 input channels)"})),
    "SD 2.x, depth": (whole("sd2", channels=5), base(SD2, **{"made for": "depth (5 input channels)"})),
    "SD 1.x, pruned": (
        lambda folder: builders.save(builders.base(size=TINY_PRUNED), folder / "a.safetensors"),
        base(SD1, PRUNED),
    ),
    "SDXL": (lambda folder: xl.save(xl.base(), folder / "a.safetensors"), base(SDXL)),
    "SDXL, folder": (lambda folder: xl.save_folder(xl.base(), folder / "a"), base(SDXL)),
    "SSD-1B": (
        lambda folder: xl.save(xl.base(size=xl.SSD), folder / "a.safetensors"),
        base(SDXL, PRUNED),
    ),
    "Vega": (unet("vega"), base(SDXL, PRUNED)),
    "KOALA 1B": (unet("koala-1b"), base(SDXL, PRUNED)),
    "KOALA 700M": (unet("koala-700m"), base(SDXL, PRUNED)),
    "SDXL, inpainting": (whole("sdxl", channels=9), base(SDXL, **{"made for": "inpainting (9 input channels)"})),
    "SDXL, velocity": (
        whole("sdxl", marks=("v_pred", "ztsnr")),
        base(SDXL, predicts="velocity", **{"noise schedule": "zero terminal SNR"}),
    ),
    "SDXL, noise": (whole("sdxl", prediction_type="epsilon"), base(SDXL, predicts="noise")),
    "SDXL, refiner": (whole("refiner"), base(REFINER)),
    # bases that are refused by name
    "FLUX's base": (saved(double_blocks__0__img_attn__qkv__weight=(8, 8)), refused("FLUX.1")),
    "Chroma's base": (saved(distilled_guidance_layer__in_proj__weight=(8, 8)), refused("Chroma")),
    "Stable Diffusion 3's base": (
        saved(model__diffusion_model__joint_blocks__0__x_block__attn__qkv__weight=(8, 8)),
        refused("Stable Diffusion 3"),
    ),
    "Lumina's base": (saved(cap_embedder__0__weight=(8,)), refused("Lumina")),
    "GGUF": (lambda folder: write(folder / "file.gguf", b"GGUF"), refused("a GGUF file")),
    "NF4": (
        whole("sd1", marks=(f"{builders.UNET}out.2.weight.quant_state.bitsandbytes__nf4",)),
        refused("a base quantized to NF4"),
    ),
    # adapters
    "LoCon": (adapter("LoCon"), facts("LoRA", SD1, (4, 4))),
    "LoCon, SDXL": (adapter("LoCon", sdxl=True), facts("LoRA", SDXL, (4, 4))),
    "LoCon, SDXL's text encoder": (adapter("LoCon", True, "te2"), facts("LoRA", SDXL, (4, 4))),
    "LoCon, Tucker": (adapter("LoCon, Tucker"), facts("LoRA", SD1, (4, 4))),
    "LoHa": (adapter("LoHa"), facts("LoHa", UNTOLD, (4, 4))),
    "LoHa, SDXL": (adapter("LoHa", sdxl=True), facts("LoHa", SDXL, (4, 4))),
    "LoHa, Tucker": (adapter("LoHa, Tucker"), facts("LoHa", UNTOLD, (4, 4))),
    "LoKr": (adapter("LoKr"), facts("LoKr", UNTOLD, (2, 2))),
    "LoKr, SDXL": (adapter("LoKr", sdxl=True), facts("LoKr", SDXL, (2, 2))),
    "LoKr, whole": (adapter("LoKr, whole matrices"), facts("LoKr", UNTOLD)),
    "full": (adapter("full"), facts("full", SD1)),
    "full, SDXL": (adapter("full", sdxl=True), facts("full", SDXL)),
    "GLoRA": (adapter("GLoRA"), facts("GLoRA", UNTOLD, (4, 4))),
    "GLoRA, old": (adapter("GLoRA, old"), facts("GLoRA", UNTOLD, (4, 4))),
    "GLoRA, told by its header": (
        adapter("GLoRA", metadata={"ss_base_model_version": "sd_v1"}),
        facts("GLoRA", f"{SD1}, by its metadata", (4, 4)),
    ),
    "OFT": (adapter("OFT"), facts("OFT", UNTOLD)),
    "OFT, old": (adapter("OFT, old"), facts("OFT", UNTOLD)),
    "BOFT": (adapter("BOFT", sdxl=True), facts("BOFT", SDXL)),
    "(IA)^3": (adapter("(IA)^3"), facts("(IA)^3", UNTOLD)),
    "DoRA of LoCon": (adapter("DoRA of LoCon"), facts("LoRA with DoRA", SD1, (4, 4))),
    "DoRA of LoHa": (adapter("DoRA of LoHa", sdxl=True), facts("LoHa with DoRA", SDXL, (4, 4))),
    "two formats": (
        stored(
            {
                "lora_unet_a.lora_up.weight": torch.ones(8, 2),
                "lora_unet_a.lora_down.weight": torch.ones(2, 8),
                "lora_unet_b.diff": torch.ones(8, 8),
                "lora_unet_c.diff": torch.ones(8, 8),
            }
        ),
        facts("full, LoRA", UNTOLD, (2,), layers=3),
    ),
    "embeddings along": (
        saved(a__lora_up__weight=(8, 2), a__lora_down__weight=(2, 8), bundle_emb__fox__emb_params=(1, 8)),
        facts("LoRA", UNTOLD, (2,), layers=1) | {"embeddings": ["fox"]},
    ),
    "PEFT": (
        peft({"r": 2}, **{f"{Q}__lora_A__weight": (2, 8), f"{Q}__lora_B__weight": (8, 2)}),
        facts("LoRA", UNTOLD, (2,), layers=1),
    ),
    "PEFT, (IA)^3": (peft({}, **{f"{Q}__ia3_l": (8, 1)}), facts("(IA)^3", UNTOLD, layers=1)),
    "diffusers of old": (
        saved(**{f"{Q[:-6]}__processor__to_q_lora__{x}__weight": shape for x, shape in (("up", (8, 2)), ("down", (2, 8)))}),
        facts("LoRA", UNTOLD, (2,), layers=1),
    ),
    "of a base that predicts velocity": (
        stored(
            {"a.lora_up.weight": torch.ones(8, 2), "a.lora_down.weight": torch.ones(2, 8)},
            metadata={"ss_base_model_version": "sd_v2_v"},
        ),
        facts("LoRA", f"{SD2}, by its metadata", (2,), layers=1) | {"prediction": "velocity"},
    ),
    "LoRA-X": (lora_x, {"kind": "LoRA-X", "family": SD1, "layers": len(builders.SOME)}),
    # refused by name
    "FLUX": (
        saved(lora_unet_double_blocks_0_img_attn_qkv__lora_up__weight=(8, 2), lora_unet_x__lora_down__weight=(2, 8)),
        "an adapter for FLUX, Chroma or Hunyuan Video, which is not supported. Supported are LoRA, LoHa",
    ),
    "FLUX, of LyCORIS' own names": (
        saved(lycoris_single_transformer_blocks_0_attn_to_q__lokr_w1=(4, 4), lycoris_x__lokr_w2=(2, 2)),
        "an adapter for FLUX",
    ),
    "Stable Diffusion 3": (
        saved(transformer__transformer_blocks__0__attn__to_q__lora_A__weight=(2, 8)),
        "an adapter for Stable Diffusion 3",
    ),
    "PEFT, VeRA": (peft({}, **{f"{Q}__vera_lambda_b": (8,)}), "a PEFT adapter of the kind VeRA, which is not supported"),
    "PEFT, OFT": (peft({}, **{f"{Q}__oft_R__weight": (8, 6)}), "a PEFT adapter of the kind OFT or BOFT"),
    "ControlLoRA": (
        saved(lora_controlnet=(0,), input_blocks__1__0__in_layers__2__up=(8, 2), input_blocks__1__0__in_layers__2__down=(2, 8)),
        "a ControlLoRA, and no LoRA",
    ),
    "ControlNet": (saved(control_model__zero_convs__0__0__weight=(8, 8, 1, 1)), "a ControlNet, and no LoRA"),
    "IP-Adapter": (saved(ip_adapter__1__to_k_ip__weight=(8, 8)), "an IP-Adapter, and no LoRA"),
    "embedding": (saved(emb_params=(2, 64)), "a textual inversion embedding"),
    "embeddings alone": (saved(bundle_emb__fox__emb_params=(2, 64)), "holds no layers, only embeddings"),
    "autoencoder": (saved(decoder__conv_in__weight=(8, 4, 3, 3)), "an autoencoder, and no LoRA"),
    "anything": (saved(weight=(2,)), "unexpected key weight"),
}


def test_the_table_is_long_enough() -> None:
    assert len(FILES) >= 40


@pytest.mark.parametrize("name", FILES)
def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    make, expected = FILES[name]
    path = make(tmp_path)
    capsys.readouterr()
    code = main(["inspect", str(path), "--json"])
    printed = capsys.readouterr()
    if isinstance(expected, str):
        assert code == 2
        assert expected in printed.err
    else:
        assert code == 0
        found = json.loads(printed.out)
        assert {key: found.get(key) for key in expected} == expected
