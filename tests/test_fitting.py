"""A LoRA-X file fitted to a checkpoint is the plain LoRA that a transfer with its settings writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.writing import save_lorax
from lorax.checkpoint import open_checkpoint
from lorax.errors import LoraxError
from lorax.files import Cache, Staging
from lorax.formats import open_adapter
from lorax.options import Options, Saving
from lorax.output import writing
from lorax.transfer import plan, run
from lorax.workflow import Fitter, fitting
from tests import builders
from tests.fitted import Shelf, assert_equal, fit, saved, tensors
from tests.samples import Files, changed


@pytest.fixture
def file(files: Files, out: Path) -> Path:
    base = open_checkpoint(files.base)
    path = out / "style-x.safetensors"
    save_lorax(plan(open_adapter(files.lora), base, base, Options("lorax", rank="50%", threshold=0.0)), path)
    return path


@pytest.mark.parametrize("kind", ["target", "pruned"])
def test_it_is_what_a_transfer_writes(files: Files, file: Path, out: Path, kind: str) -> None:
    target = getattr(files, kind)
    found = fit(file, target, files.stranger, files.base)
    assert not found.message
    assert found.final
    assert_equal(tensors(found, target), saved(file, files.base, target, out))


def test_on_its_own_source_it_is_the_lora_it_came_from(files: Files, file: Path) -> None:
    found = fit(file, files.base)
    assert found.final
    for delta in files.deltas:
        parts = found.layers[delta.layer]
        up, down = (parts[f"lora_{part}.weight"].float().flatten(1) for part in ("up", "down"))
        dense = parts["alpha"] / len(down) * up @ down
        assert torch.allclose(dense.double(), torch.from_numpy(delta.dense), atol=2e-3 * abs(delta.dense).max())


def test_a_half_precision_copy_under_another_name_is_its_own_source_too(files: Files, file: Path, out: Path) -> None:
    half = builders.save(files.base_state, out / "renamed.safetensors", torch.float16)
    assert_equal(tensors(fit(file, half), half), tensors(fit(file, files.base), files.base))


def test_without_the_source_it_is_applied_by_name_and_the_user_is_told_which_is_missing(files: Files, file: Path) -> None:
    cache = Cache(None, 0, 1 << 30)
    found = fit(file, files.target, files.stranger, cache=cache)
    assert not found.final
    assert "base.safetensors" in found.message
    assert builders.sha256(files.base)[:10] in found.message
    assert_equal(tensors(found, files.target), tensors(fit(file, files.base), files.base))
    assert fit(file, files.target, files.base, cache=cache).final  # once it is there


def test_what_running_the_models_found_is_fitted_from_its_target_on(files: Files, out: Path) -> None:
    source, target = open_checkpoint(files.base), open_checkpoint(files.target)
    asked = plan(open_adapter(files.lora), source, target, Options("refine"))
    moved = run(dataclasses.replace(asked, options=Options("copy")))
    plain, file = out / "there.safetensors", out / "x.safetensors"
    with Staging() as staging:
        writing.stage(asked, moved, plain, staging, Saving("lora"))
        writing.stage(asked, moved, file, staging, Saving("lora-x"))
    assert_equal(tensors(fit(file, files.target), files.target), load_file(plain))
    on = fit(file, files.pruned, files.base, files.target)
    assert on.final
    assert_equal(tensors(on, files.pruned), saved(file, files.target, files.pruned, out))
    assert builders.header(file)["lorax_moved_from_model"] == files.base.name
    assert builders.header(file)["lorax_moved_by"] == "refine"


def test_unrelated_checkpoints_are_declined_once(files: Files, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, path, cache = open_checkpoint(files.base), out / "auto.safetensors", Cache(out, 1 << 30, 0)
    save_lorax(plan(open_adapter(files.lora), base, base, Options()), path)
    declined = fit(path, files.stranger, files.base, cache=cache)
    assert not declined.layers
    assert "not related" in declined.message
    monkeypatch.setattr(fitting, "run", lambda *_: pytest.fail("fitted again"))
    assert fit(path, files.stranger, files.base, cache=cache) == declined


def test_the_second_time_comes_from_the_cache(files: Files, file: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fit(file, files.pruned, files.base, cache=Cache(out / "cache", 1 << 30, 0))
    monkeypatch.setattr(fitting, "run", lambda *_: pytest.fail("fitted again"))
    again = fit(file, files.pruned, cache=Cache(out / "cache", 1 << 30, 0))  # nor is the source needed any more
    assert_equal(tensors(again, files.pruned), tensors(first, files.pruned))


def test_another_file_is_fitted_with_what_was_found_of_the_bases(files: Files, file: Path, out: Path, large: list[int]) -> None:
    other = out / "other-x.safetensors"
    lora, base = builders.save_lora(out / "other.safetensors", builders.deltas(rank=2)), open_checkpoint(files.base)
    save_lorax(plan(open_adapter(lora), base, base, Options("lorax", rank="50%", threshold=0.0)), other)
    cache = Cache(out / "cache", 1 << 30, 0)
    expected = fit(other, files.target, files.base)
    fit(file, files.target, files.base, cache=cache)
    large.clear()
    found = fit(other, files.target, files.base, cache=cache)
    assert large == []
    assert_equal(tensors(found, files.target), tensors(expected, files.target))


def test_other_settings_and_another_target_are_fitted_for_themselves(files: Files, file: Path, out: Path) -> None:
    cache = Cache(None, 0, 1 << 30)
    other = changed(file, out, lorax_settings=builders.header(file)["lorax_settings"].replace("50%", "10%"))
    found = [
        tensors(fit(one, target, files.base, cache=cache), target)
        for one, target in ((file, files.target), (other, files.target), (file, files.pruned))
    ]
    up = next(key for key in found[0] if key.endswith("attn1_to_q.lora_up.weight"))
    assert not torch.equal(found[0][up], found[1][up])
    assert found[0].keys() != found[2].keys()


def test_a_replaced_file_is_fitted_anew(files: Files, file: Path) -> None:
    fitter = Fitter(Cache(None, 0, 1 << 30), Shelf(files.base))
    before = fitter.fit(file, files.target, "cpu")
    doubled = {key: 2 * value if key.endswith("alpha") else value for key, value in load_file(file).items()}
    save_file(doubled, file, builders.header(file))
    after = fitter.fit(file, files.target, "cpu")
    for layer, parts in before.layers.items():
        assert torch.equal(after.layers[layer]["alpha"], 2 * parts["alpha"])


def test_cancelling_leaves_nothing_behind(files: Files, file: Path, out: Path) -> None:
    class Stop(Exception):
        pass

    def stop_at_two(done: int, total: int, name: str) -> None:
        if name.startswith("moving layers, 2 of "):
            raise Stop

    fitter = Fitter(Cache(out / "cache", 1 << 30, 1 << 30), Shelf(files.base))
    with pytest.raises(Stop):
        fitter.fit(file, files.target, "cpu", stop_at_two)
    assert not (out / "cache").exists()
    assert fitter.fit(file, files.target, "cpu").final


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"lorax_family": "sdxl"}, "made for Stable Diffusion XL, but"),
        ({"lorax_method": "magic"}, "its settings are not understood"),
        ({"lorax_settings": "{}"}, "its settings are not understood"),
        ({"lorax_settings": '{"dtype": "fp16", "rank": "many"}'}, "its settings are not understood"),
        ({"lorax_settings": '{"dtype": "fp16", "speed": 3}'}, "its settings are not understood"),
    ],
)
def test_what_does_not_fit_is_said(files: Files, file: Path, out: Path, metadata: dict[str, str | None], words: str) -> None:
    with pytest.raises(LoraxError) as error:
        fit(changed(file, out, **metadata), files.target, files.base)
    assert words in str(error.value)


def test_a_checkpoint_of_another_family_is_named(files: Files, file: Path, out: Path) -> None:
    state = {key.replace("transformer_blocks.0.", "transformer_blocks.1."): value for key, value in files.base_state.items()}
    state = {key: value.flatten(1) if key.endswith("proj_in.weight") else value for key, value in state.items()}
    other = builders.save(state, out / "xl.safetensors")
    with pytest.raises(LoraxError, match=r"made for Stable Diffusion 1\.x, but .*xl\.safetensors is Stable Diffusion XL"):
        fit(file, other, files.base)


def test_a_plain_lora_needs_no_fitting(files: Files) -> None:
    with pytest.raises(LoraxError, match="not a LoRA-X file"):
        fit(files.lora, files.target)
