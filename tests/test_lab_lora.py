"""Training an adapter in the lab: what is written is what was learned, and what it is measured on it has not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lab import data, lora, vae, xl
from lab.models import Captioner, Model
from lab.xl import XLModel
from lab.zoo import ADAPTERS, CONCEPT, STYLES
from lorax.demo.bundle import BUNDLE
from lorax.formats import open_adapter, ranks
from lorax.runner import Runner
from tests import builders, narrow
from tests.lab_models import NEEDS_ICONS

TINY = replace(ADAPTERS["openmoji-r4"], rank=2, rate=0.2, steps=2, batch=2)  # with convolution layers
ENCODERS = ["text_encoder"]


def new_xl() -> XLModel:
    torch.manual_seed(0)
    return xl.new_xl().eval()


@pytest.mark.parametrize(
    ("make", "encoders"), [(narrow.model, ENCODERS), (new_xl, [*ENCODERS, "text_encoder_2"]), (narrow.model, [])]
)
def test_what_is_saved_is_what_was_learned(
    make: type, encoders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = replace(TINY, text=bool(encoders))
    monkeypatch.setattr(lora, "training_icons", lambda adapter: narrow.icons(4))
    model: Model | XLModel = make()
    runner = Runner(narrow.save(model, tmp_path / "base.safetensors"))
    captioner = Captioner.load(BUNDLE / "tokenizer")
    trained = lora.train_lora(tmp_path / "runs", model, tiny, vae.new(), captioner, name="tiny", seed=3)
    path = tmp_path / "tiny.safetensors"
    lora.save_lora(path, trained, runner.base, tiny)

    adapter = open_adapter(path)
    assert None not in adapter.layers_of(runner.base).values()
    assert set(ranks(adapter)) == {TINY.rank}
    learned = {
        f"{part}.{name}": module.get_delta_weight("default").detach()
        for part in ("unet", *encoders)
        for name, module in getattr(trained, part).named_modules()
        if hasattr(module, "lora_A")
    }
    assert len(learned) == len(adapter.layers)
    assert sum("conv" in name for name in learned) > 10
    before = {name: weight(runner, name).clone() for name in learned}
    with runner.adapted(path):
        for name, dW in learned.items():
            found = weight(runner, name) - before[name]
            assert (found - dW).norm() <= 2e-3 * dW.norm() + 1e-6, name
    changed = {name.partition(".")[0] for name, dW in learned.items() if dW.norm() > 1e-3}
    assert changed == {"unet", *encoders}
    metadata = builders.header(path)
    assert metadata["ss_new_sd_model_hash"] == builders.sha256(tmp_path / "base.safetensors")
    assert metadata["ss_network_dim"] == "2"
    assert metadata["ss_training_comment"] == "icons of @iconify-json/openmoji (CC-BY-SA-4.0)"


def weight(runner: Runner, name: str) -> torch.Tensor:
    part, _, path = name.partition(".")
    module: nn.Module = getattr(runner, part)
    return module.get_submodule(path).weight.data


@NEEDS_ICONS
def test_a_characters_file_names_its_trigger_word_as_kohyas_trainer_would() -> None:
    tags = lora._tags(ADAPTERS["pib-long"])
    assert max(tags, key=tags.__getitem__) == "pib"
    assert tags["anchor"] == 1
    assert "balloon" not in tags, "it is held out"
    assert lora._tags(ADAPTERS["neon-long"]) == {}


@NEEDS_ICONS
@pytest.mark.parametrize("icons", [*STYLES, CONCEPT])
def test_a_style_is_judged_by_subjects_that_it_has_not_seen_and_a_concept_by_what_it_was_taught(icons: str) -> None:
    adapter = ADAPTERS[f"{icons}-r4"]
    seen, judged = lora.training_icons(adapter), lora.judged_icons(adapter)
    assert min(len(seen.subjects), len(judged.subjects)) >= 4
    if adapter.is_concept:
        assert {*seen.subjects, *judged.subjects} == {CONCEPT}
    else:
        assert not set(seen.subjects) & set(judged.subjects)
        assert len(seen.subjects) + len(judged.subjects) == len(data.load_common(icons).subjects)
