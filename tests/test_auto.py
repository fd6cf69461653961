"""When ``auto`` transfers, when it declines a pair of bases, and when nothing is left to write."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from lorax.cli import main
from lorax.methods import METHODS, weight_method
from tests import builders, structure
from tests.measures import HALF, distance
from tests.samples import Files, arguments


def test_auto_copies_between_relatives(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", *arguments(files), "--output", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["declined"] is None
    assert all(layer["reason"].startswith("copied") for layer in report["layers"])


def test_auto_declines_strangers(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["transfer", "--output", str(out)], ["analyze"]):
        assert main([command[0], *arguments(files, target=files.stranger), *command[1:]]) == 3
        captured = capsys.readouterr()
        assert "are not related" in captured.err
        assert "Traceback" not in captured.err
        assert list(out.iterdir()) == []


def test_a_declined_transfer_writes_its_report_alone(files: Files, styled: Path, out: Path) -> None:
    report = out / "report.json"
    assert main(["transfer", *arguments(files, styled, files.stranger), "--output", str(out), "--report", str(report)]) == 3
    assert list(out.iterdir()) == [report]
    found = json.loads(report.read_text())
    assert "are not related" in found["declined"]
    assert all(layer["status"] == "skipped" and layer["rank"] is layer["kept"] is None for layer in found["layers"])


def test_any_method_may_decline(files: Files, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "wary", dataclasses.replace(weight_method("copy"), name="wary", declines=True))
    for target, code in ((files.stranger, 3), (files.target, 0)):
        assert main(["transfer", *arguments(files, target=target), "--output", str(out), "--method", "wary"]) == code


def test_other_methods_say_that_the_bases_are_strangers(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target, strangers in ((files.stranger, True), (files.target, False)):
        more = ["--output", str(out), "--method", "copy", "--overwrite"]
        assert main(["transfer", *arguments(files, target=target), *more]) == 0
        assert ("are not related: in the UNet, layers are typically alike" in capsys.readouterr().out) is strangers


def test_the_same_weights_take_the_adapter_as_it_is(files: Files, tmp_path: Path, out: Path) -> None:
    """The source is stored in half precision, so the weights are the same but for rounding."""
    source = builders.save(files.base_state, tmp_path / "half.safetensors", torch.float16)
    written = out / "moved.safetensors"
    more = ["--source", str(source), "--target", str(files.base), "--output", str(written), "--report", str(out / "report.json")]
    assert main(["transfer", str(files.lora), *more]) == 0
    for record in json.loads((out / "report.json").read_text())["layers"]:
        assert record["reason"] == "copied, since the weights are the same"
    found = builders.dense(written)
    assert all(distance(found[delta.named("kohya")], delta.dense) < HALF for delta in files.deltas)


def test_a_shared_text_encoder_makes_no_relatives(
    files: Files, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most LoRAs have more layers in the text encoder than a median over everything can bear."""
    text = {key: value for key, value in files.base_state.items() if key.startswith(builders.TE)}
    target = builders.save(builders.base(seed=77) | text, tmp_path / "stranger.safetensors")
    layers = [path.removesuffix(".weight") for path in (p.diffusers for p in structure.TINY.text() if p.is_layer)]
    lora = builders.save_lora(tmp_path / "texts.safetensors", builders.deltas([*builders.SOME, *layers]))
    assert main(["transfer", *arguments(files, lora, target), "--output", str(out)]) == 3
    assert "are not related: in the UNet, layers are typically alike by" in capsys.readouterr().err
    assert list(out.iterdir()) == []
    alone = builders.save_lora(tmp_path / "text-only.safetensors", builders.deltas(layers))
    assert main(["transfer", *arguments(files, alone, files.stranger), "--output", str(out)]) == 3
    assert "are not related: in the text encoder, layers are typically alike by" in capsys.readouterr().err
    assert main(["transfer", *arguments(files, alone, target), "--output", str(out)]) == 0


def test_unequal_shapes_speak_against_relatedness(
    files: Files, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = builders.base(3, structure.Size(channels=structure.WIDER.channels))  # the same text encoder's width
    text = {key: value for key, value in files.base_state.items() if key.startswith(builders.TE)}
    report = out / "report.json"
    target = builders.save(wide | text, tmp_path / "wide.safetensors")
    assert main(["transfer", *arguments(files, target=target), "--output", str(out), "--report", str(report)]) == 3
    assert "in the UNet, no layers are comparable" in capsys.readouterr().err
    assert list(out.iterdir()) == [report]
    reasons = {layer["reason"] for layer in json.loads(report.read_text())["layers"] if layer["target"].startswith("unet.")}
    assert reasons
    assert all(r.startswith("shapes differ (") and r.endswith("); name lorax to try the least-squares map") for r in reasons)


@pytest.mark.parametrize(("unequal", "code"), [(2, 0), (4, 3)])
def test_the_odd_unequal_layer_is_skipped(files: Files, tmp_path: Path, out: Path, unequal: int, code: int) -> None:
    """If half or more of the six layers cannot be compared, the bases are no relatives."""
    deltas = builders.deltas()
    layers = [delta for delta in deltas if delta.component == "unet"]
    keys = {f"{builders.UNET}{delta.ldm}.weight" for delta in layers[:unequal]}
    state = {k: torch.cat([v, v[:8]]) if k in keys else v for k, v in files.target_state.items()}
    target = builders.save(state, tmp_path / "odd.safetensors")
    lora, report = builders.save_lora(tmp_path / "style.safetensors", deltas), out / "report.json"
    assert main(["transfer", *arguments(files, lora, target), "--output", str(out), "--report", str(report)]) == code
    records = json.loads(report.read_text())["layers"]
    assert sum(record["reason"].startswith("shapes differ") for record in records) == unequal
    assert sum(record["status"] == "transferred" for record in records) == (len(deltas) - unequal if code == 0 else 0)


def test_a_named_method_is_not_declined(files: Files, out: Path) -> None:
    assert main(["transfer", *arguments(files, target=files.stranger), "--output", str(out), "--method", "copy"]) == 0


def test_when_every_layer_is_skipped_nothing_is_written(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["transfer", *arguments(files, target=files.stranger), "--output", str(out), "--method", "lorax"]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "no layer could be moved" in message
    assert f"{len(files.deltas)} (100.0%): similarity below the threshold 0.8." in message
    assert list(out.iterdir()) == []
    assert main([*command, "--report", str(out / "why.json")]) == 2
    assert list(out.iterdir()) == [out / "why.json"]
