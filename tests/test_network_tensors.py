"""LoRA-X files in a stand-in for WebUIs that patch LoRAs in from the tensors of their files: Forge, Neo, reForge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.writing import save_lorax
from lorax.checkpoint import open_checkpoint
from lorax.files import Cache
from lorax.formats import open_adapter
from lorax.options import Options
from lorax.transfer import plan
from tests import fitted, xl
from tests.network_double import PatchingHost
from tests.samples import Files


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> PatchingHost:
    return PatchingHost(monkeypatch)


def registered() -> Any:
    from lorax.hosts.a1111 import network

    made = network.register(lambda: Cache(None, 0, 1 << 30))
    assert made is not None
    return made()


@pytest.fixture
def script(host: PatchingHost) -> Any:
    return registered()


def made_of(lora: Path, base: Path, file: Path) -> Path:
    """A LoRA-X file."""
    opened = open_checkpoint(base)
    save_lorax(plan(open_adapter(lora), opened, opened, Options("lorax", rank="50%", threshold=0.0)), file)
    return file


@pytest.fixture
def file(files: Files, out: Path) -> Path:
    return made_of(files.lora, files.base, out / "x.safetensors")


@pytest.mark.parametrize("kind", ["base", "target", "pruned"])
def test_the_webui_is_given_the_tensors_of_the_plain_lora(
    host: PatchingHost, script: Any, files: Files, file: Path, tmp_path: Path, kind: str
) -> None:
    host.know(files.base, files.target, files.pruned)
    host.load(getattr(files, kind))
    messages, applied = host.draw(script, file, files.lora, file)
    assert messages == []
    assert applied is not None
    assert applied[0].keys() == applied[2].keys()
    assert host.reads == [files.lora.name], "plain LoRAs are left to the WebUI"
    fitted.assert_equal(applied[0], fitted.tensors(fitted.fit(file, getattr(files, kind), files.base), getattr(files, kind)))
    assert host.state.textinfo is None
    assert host.encoded.cached_c == [None, None]


def test_nothing_is_loaded_again_until_the_checkpoint_changes(host: PatchingHost, script: Any, files: Files, file: Path) -> None:
    host.know(files.base)
    host.load(files.target)
    host.draw(script, file, files.lora)
    host.encoded.cached_c = [1, 2]
    assert host.draw(script, file, files.lora) == ([], None)
    assert host.encoded.cached_c == [1, 2]
    host.load(files.pruned)
    _, applied = host.draw(script, file)
    assert applied is not None
    assert applied[0].keys() <= fitted.tensors(fitted.fit(file, files.pruned, files.base), files.pruned).keys()


@pytest.mark.parametrize("plain", [False, True])
def test_a_file_that_was_replaced_is_loaded_again(
    host: PatchingHost, script: Any, files: Files, file: Path, out: Path, plain: bool
) -> None:
    """The WebUI compares names and strengths, and keeps what it has read."""
    used = out / "used.safetensors"
    host.know(files.base)
    host.load(files.target)
    used.write_bytes((files.lora if plain else file).read_bytes())
    host.draw(script, used)
    host.encoded.cached_c = [1, 2]
    used.write_bytes((file if plain else files.lora).read_bytes())
    messages, applied = host.draw(script, used)
    assert messages == []
    assert applied is not None
    assert host.encoded.cached_c == [None, None]
    expected = fitted.tensors(fitted.fit(file, files.target, files.base), files.target) if plain else open_adapter(files.lora)
    assert len(applied[0]) == len(expected) if plain else host.reads == ["used.safetensors"]


def test_a_missing_source_is_told_at_every_prompt_until_it_is_there(
    host: PatchingHost, script: Any, files: Files, file: Path
) -> None:
    host.load(files.target)
    messages, applied = host.draw(script, file)
    assert ["applied by name, since base.safetensors" in message for message in messages] == [True]
    assert host.draw(script, file) == (messages, None), "what is applied already is not applied again"
    host.know(files.base)
    messages, applied = host.draw(script, file)
    assert messages == []
    assert applied is not None


def test_one_that_cannot_be_applied_is_told_and_others_still_are(
    host: PatchingHost, script: Any, files: Files, file: Path, tmp_path: Path
) -> None:
    damaged, bare = tmp_path / "damaged.safetensors", tmp_path / "bare.safetensors"
    damaged.write_bytes(file.read_bytes()[:-100])
    save_file(load_file(file), bare)  # without the metadata that make it a LoRA-X file
    host.know(files.base)
    host.load(files.target)
    messages, applied = host.draw(script, damaged, bare, files.lora)
    assert [message.partition(": ")[0] for message in messages] == ["LoRA-X, damaged", "LoRA-X, bare"]
    assert applied is not None
    assert [list(tensors) for tensors in applied[:2]] == [["lorax_not_applied"]] * 2, "Neo divides by how many there are"
    assert len(applied[2]) > 1
    host.load(xl.save(xl.base(), tmp_path / "xl.safetensors"))
    messages, applied = host.draw(script, file, files.lora)
    assert ["made for Stable Diffusion 1.x" in message for message in messages] == [True]
    assert applied is not None
    assert [len(tensors) > 1 for tensors in applied] == [False, True]


def test_interrupt_leaves_it_out_and_the_next_prompt_fits_it(host: PatchingHost, script: Any, files: Files, file: Path) -> None:
    host.know(files.base)
    host.load(files.target)
    host.state.interrupted = True
    messages, applied = host.draw(script, file)
    assert messages == ["LoRA-X, x: not applied: interrupted."]
    host.state.interrupted = False
    messages, applied = host.draw(script, file)
    assert messages == []
    assert applied is not None
    assert len(applied[0]) > 1


def test_reload_ui_puts_ours_in_the_place_of_the_original_and_not_of_ours(
    host: PatchingHost, script: Any, files: Files, file: Path
) -> None:
    original = host.networks.load_lora_state_dict.lorax_original
    again = registered()
    assert host.networks.load_lora_state_dict.lorax_original is original
    host.know(files.base)
    host.load(files.target)
    messages, applied = host.draw(again, file, files.lora)
    assert messages == []
    assert applied is not None
    assert host.reads == [files.lora.name]


def test_fits_are_made_outside_of_the_inference_mode_in_which_the_webui_draws(
    host: PatchingHost, script: Any, files: Files, file: Path
) -> None:
    host.know(files.base)
    host.load(files.target)
    with torch.inference_mode():
        _, applied = host.draw(script, file)
    assert applied is not None
    assert not any(tensor.is_inference() for tensor in applied[0].values())
