"""Adapters that PEFT and diffusers write today and wrote before, with their own functions as the oracle."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from lorax.checkpoint import open_checkpoint
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from tests import builders, structure
from tests.samples import Files

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"


def text_encoder() -> CLIPTextModel:
    torch.manual_seed(0)
    size = structure.TINY
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=size.vocabulary,
            bos_token_id=0,
            eos_token_id=1,
            hidden_size=size.cross,
            intermediate_size=4 * size.cross,
            num_hidden_layers=size.text_layers,
            num_attention_heads=4,
        )
    )


def with_lora(**options: object) -> PeftModel:
    """Make a model with a LoRA whose alphas and ranks differ by layer, and whose factors are not zero."""
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "out_proj", "fc1"],
        alpha_pattern={r"0\.mlp\.fc1": 2, "1.mlp.fc1": 3, "^encoder.layers.1.self_attn.q_proj": 5},
        rank_pattern={"out_proj": 2},
        init_lora_weights=False,
        **options,
    )
    return get_peft_model(text_encoder(), config)


def deltas(model: PeftModel) -> dict[str, torch.Tensor]:
    """Layer -> dW as PEFT computes it."""
    found = {}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            found["te.text_model." + name.removeprefix("text_model.")] = module.get_delta_weight("default").detach()
    assert len(found) == 6
    return found


def assert_read(path: Path, base: Path, expected: dict[str, torch.Tensor]) -> None:
    adapter = open_adapter(path)
    layers = adapter.layers_of(open_checkpoint(base))
    assert set(layers.values()) == set(expected)
    for name, layer in layers.items():
        assert layer is not None
        delta = adapter.delta(name)
        assert torch.allclose(delta.scale * delta.up @ delta.down, expected[layer], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("rslora", [False, True])
def test_a_folder_that_peft_writes(files: Files, tmp_path: Path, rslora: bool) -> None:
    model = with_lora(use_rslora=rslora)
    model.save_pretrained(tmp_path)
    assert_read(tmp_path, files.base, deltas(model))
    assert_read(tmp_path / "adapter_model.safetensors", files.base, deltas(model))  # as a WebUI lists it


@pytest.mark.parametrize("config", [LoHaConfig, LoKrConfig], ids=lambda config: config.__name__)
@pytest.mark.parametrize("whole", [False, True])
def test_a_folder_of_another_format_that_peft_writes(files: Files, tmp_path: Path, config: type, whole: bool) -> None:
    """Only the configuration has the alpha, and the rank if LoKr's matrices are whole."""
    r = 64 if whole else 4
    chosen = config(r=r, alpha=3, target_modules=["q_proj", "out_proj", "fc1"], init_weights=False, alpha_pattern={"fc1": 5})
    model = get_peft_model(text_encoder(), chosen)
    model.save_pretrained(tmp_path)
    assert_read(tmp_path, files.base, deltas(model))


def test_a_file_that_diffusers_writes(files: Files, tmp_path: Path) -> None:
    model = with_lora()
    model.save_pretrained(tmp_path)
    inside = {k.removeprefix("base_model.model."): v for k, v in model.state_dict().items() if "lora_" in k}
    state = {key.replace(".default.", "."): value for key, value in inside.items()}
    for name, tensors in (("peft", state), ("diffusers", convert_state_dict_to_diffusers(state))):
        StableDiffusionLoraLoaderMixin.save_lora_weights(
            tmp_path / name,
            text_encoder_lora_layers=tensors,
            text_encoder_lora_adapter_metadata=model.peft_config["default"].to_dict(),
        )
        assert_read(tmp_path / name / "pytorch_lora_weights.safetensors", files.base, deltas(model))


@pytest.mark.parametrize("prefix", ["unet.", ""])
def test_attention_processors_of_old(tmp_path: Path, prefix: str) -> None:
    """diffusers' own converter says which module an old name means today."""
    parts = [f"to_{x}_lora.{part}.weight" for x in ("q", "k", "v", "out") for part in ("up", "down")]
    names = [f"{prefix}{ATTENTION}.processor.{part}" for part in parts]
    state = {name: torch.randn(96, 4) if ".up." in name else torch.randn(4, 96) for name in names}
    save_file(state, tmp_path / "old.safetensors")
    adapter = open_adapter(tmp_path / "old.safetensors")
    today = convert_unet_state_dict_to_peft(state)
    assert len(today) == len(state)
    expected = {key.rpartition(".lora_")[0] for key in today}
    assert set(adapter.layers) == expected
    for name in expected:
        delta = adapter.delta(name)
        up, down = (next(v for k, v in today.items() if k.startswith(f"{name}.lora_{x}")) for x in "BA")
        assert torch.equal(delta.scale * delta.up @ delta.down, up @ down)


def test_attention_processors_of_old_belong_to_the_base(files: Files, tmp_path: Path) -> None:
    state = {}
    for x in ("q", "out"):
        for part, tensor in (("up", torch.randn(96, 4)), ("down", torch.randn(4, 96))):
            state[f"unet.{ATTENTION}.processor.to_{x}_lora.{part}.weight"] = tensor
    save_file(state, tmp_path / "old.safetensors")
    layers = open_adapter(tmp_path / "old.safetensors").layers_of(open_checkpoint(files.base))
    assert set(layers.values()) == {f"unet.middle_block.1.transformer_blocks.0.attn1.{x}" for x in ("to_q", "to_out.0")}


def test_text_encoder_attention_of_old(tmp_path: Path) -> None:
    head = "text_encoder.text_model.encoder.layers.0.self_attn"
    parts = [f"to_{x}_lora.{part}.weight" for x in ("q", "k", "v", "out") for part in ("up", "down")]
    state = {f"{head}.{part}": torch.randn(64, 4) if ".up." in part else torch.randn(4, 64) for part in parts}
    save_file(state, tmp_path / "old.safetensors")
    expected = {key.rpartition(".lora_")[0] for key in convert_state_dict_to_peft(state)}
    assert set(open_adapter(tmp_path / "old.safetensors").layers) == expected


PIECES = ["q_proj", "fc1", ".", r"\.", "layers", "0", "1", ".*", r"\d", "^", "encoder", "self_attn", "(mlp|x)", "proj", "$"]
PIECES += [r"\w", "[a-z_]", "[^0-9.]", "(?:q_)?", "(layers|self)", "a+", "x*?", r"\_"]


@settings(max_examples=200, deadline=None)
@given(
    patterns=st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join), min_size=1, max_size=3, unique=True)
)
def test_alpha_patterns_match_as_pefts(tmp_path_factory: pytest.TempPathFactory, patterns: list[str]) -> None:
    path, module = tmp_path_factory.getbasetemp() / "patterns.safetensors", "encoder.layers.1.self_attn.q_proj"
    name = f"text_encoder.{module}"
    table = {pattern: number + 1 for number, pattern in enumerate(patterns)}
    metadata = json.dumps({"text_encoder.lora_alpha": 100, "text_encoder.alpha_pattern": table})
    save_file(
        {f"{name}.lora_A.weight": torch.ones(1, 8), f"{name}.lora_B.weight": torch.ones(8, 1)},
        path,
        {"lora_adapter_metadata": metadata},
    )
    assert open_adapter(path).delta(name).scale == table.get(get_pattern_key(table.keys(), module), 100)


@pytest.mark.parametrize(("patterns", "words"), [({"(": 1}, "expected module names"), ([1], "no table")])
def test_alpha_patterns_that_are_none(tmp_path: Path, patterns: object, words: str) -> None:
    name = "unet.mid_block.attentions.0.proj_in"
    tensors = {f"{name}.lora_A.weight": torch.ones(1, 8), f"{name}.lora_B.weight": torch.ones(8, 1)}
    metadata = {"unet.lora_alpha": 1, "unet.alpha_pattern": patterns}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    with pytest.raises(LoraxError, match=rf"a\.safetensors: its configuration's alpha_pattern.*{words}"):
        open_adapter(tmp_path / "a.safetensors").delta(name)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "fc1"], use_dora=True, init_lora_weights=False),
        IA3Config(target_modules=["k_proj", "fc2"], feedforward_modules=["fc2"], init_ia3_weights=False),
    ],
    ids=["DoRA", "IA3"],
)
def test_what_depends_on_the_base(tmp_path: Path, config: PeftConfig) -> None:
    """The delta is what PEFT's merging changes."""
    plain, model = text_encoder(), get_peft_model(text_encoder(), config)
    for name, parameter in model.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1 + 0.1 * torch.rand(parameter.shape)
    model.save_pretrained(tmp_path / "adapter")
    before = {name.removeprefix("text_model."): weight for name, weight in plain.state_dict().items()}
    after = {name.removeprefix("text_model."): weight for name, weight in model.merge_and_unload().state_dict().items()}
    state = builders.base() | {f"{builders.TE}text_model.{name}": weight for name, weight in before.items()}
    base = open_checkpoint(builders.save(state, tmp_path / "base.safetensors"))
    read = open_adapter(tmp_path / "adapter").deltas_of(base)
    assert len(read) == 4
    for layer, delta in read.items():
        name = layer.removeprefix("te.text_model.") + ".weight"
        expected = after[name] - before[name]
        assert (delta.scale * delta.up @ delta.down - expected).norm() < 1e-5 * expected.norm(), layer


def test_magnitudes_of_another_width(files: Files, tmp_path: Path) -> None:
    name = "unet.mid_block.attentions.0.proj_in"
    state = {f"{name}.lora_A.weight": torch.ones(1, 96, 1, 1), f"{name}.lora_B.weight": torch.ones(96, 1, 1, 1)}
    save_file(state | {f"{name}.lora_magnitude_vector": torch.ones(95)}, tmp_path / "a.safetensors")
    with pytest.raises(LoraxError, match=re.escape("a.safetensors: unet.mid_block.attentions.0.proj_in: the lengths of DoRA")):
        open_adapter(tmp_path / "a.safetensors").deltas_of(open_checkpoint(files.base))
