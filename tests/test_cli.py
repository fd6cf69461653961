"""The command line's exit codes, stdout and stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.cli import main
from tests.samples import SOURCE_METADATA, Files, arguments


def test_json(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["transfer", *arguments(files), "--output", str(out), "--method", "lorax", "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["method"] == "lorax"
    assert report["written"] == [str(out / f"style-target{suffix}") for suffix in (".safetensors", ".json")]
    assert report["counts"] == {"transferred": len(files.deltas)}
    assert {layer["target"] for layer in report["layers"]} == {delta.layer for delta in files.deltas}
    assert all(0 < layer["kept"] <= 1 for layer in report["layers"])


def test_report_file_is_the_json(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", *arguments(files), "--json", "--report", str(out / "report.json")]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "report.json").read_text())


def test_analyze_measures_every_layer(files: Files, large: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", *arguments(files), "--json"]) == 0
    assert all(layer["similarity"] is not None for layer in json.loads(capsys.readouterr().out)["layers"])


def test_analyze_writes_no_adapter(files: Files, styled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(styled.parent.iterdir())
    assert main(["analyze", *arguments(files, styled)]) == 0
    assert set(styled.parent.iterdir()) == before
    printed = capsys.readouterr().out
    assert all(delta.layer in printed for delta in files.deltas)
    assert f"{len(files.deltas)} of {len(files.deltas)} layers moved" in printed


def test_what_a_file_says_gives_the_terminal_no_orders(
    files: Files, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_file(files.lora) | {"bundle_emb.\x1b]0;mine\x07.string_to_param": torch.ones(1, 32)}
    state |= {f"lora_unet_\x1b[2J.lora_{part}.weight": torch.ones(2, 2) for part in ("up", "down")}
    odd = tmp_path / "\x1b[31mred.safetensors"
    save_file(state, odd, SOURCE_METADATA)
    for command in (
        ["transfer", "--output", str(out), "--method", "copy"],
        ["analyze", "--method", "copy"],
        ["transfer", "--skip-existing"],
    ):
        main([command[0], *arguments(files, odd), *command[1:]])
    main(["library", "--models", str(tmp_path), "--target", str(files.target)])
    said = capsys.readouterr()
    assert said.out.count("\\x1b[31mred") >= 3
    assert "\x1b" not in said.out + said.err


@pytest.mark.parametrize(("package", "inside"), [("matplotlib", "lorax.demo.grid"), ("diffusers", "lorax.runner")])
def test_a_demo_without_its_packages_says_so_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str, inside: str
) -> None:
    for name in [name for name in sys.modules if name == inside or name.startswith((f"{package}.", f"{inside}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 2
    assert capsys.readouterr().err.startswith(f"error: the demo needs {package}. Install its packages with: pip install")
    assert not (tmp_path / "demo").exists()


def test_inspect(files: Files, styled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for path in (files.base, files.pruned, styled):
        assert main(["inspect", str(path), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
        assert main(["inspect", str(path)]) == 0
        assert capsys.readouterr().out
    base, pruned, lora = found
    assert (base["kind"], base["family"], base["blocks"]) == ("base", "Stable Diffusion 1.x", "standard")
    assert pruned["blocks"] == "pruned or otherwise changed"
    assert base["layers"] == {"unet": 282, "te": 12}
    assert (lora["kind"], lora["layers"], lora["ranks"]) == ("LoRA", len(files.deltas), {"4": len(files.deltas)})
    assert lora["metadata"] == SOURCE_METADATA


def test_inspect_names_bases_that_are_not_supported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"joint_blocks.0.x_block.attn.qkv.weight": torch.ones(8, 8)}, tmp_path / "base.safetensors")
    assert main(["inspect", str(tmp_path / "base.safetensors")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["kind: base", "family: Stable Diffusion 3", "status: not supported"]


def test_inspect_says_once_what_is_wrong(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.safetensors").write_bytes(files.lora.read_bytes()[:500])
    loha = tmp_path / "loha.safetensors"
    save_file({"lora_unet_x.hada_w1_a": torch.ones(2), "lora_unet_x.alpha": torch.ones(1)}, loha)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, other)
    for path, words in (
        (tmp_path / "gone.safetensors", "no such file"),
        (tmp_path / "cut.safetensors", "truncated"),
        (loha, "lora_unet_x: hada_w1_b is missing"),
    ):
        assert main(["inspect", str(path)]) == 2
        message = capsys.readouterr().err
        assert words in message
        assert message.count(str(path)) == 1
        assert "Nor is it a base" not in message
    for path, words in ((other, "unexpected key weight"), (tmp_path, "no adapter in this folder")):
        assert main(["inspect", str(path)]) == 2
        message = capsys.readouterr().err
        assert words in message
        assert "Nor is it a base" in message


@pytest.mark.parametrize("command", ["", "transfer", "analyze", "inspect", "demo"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "usage: lorax" in printed
    assert "%%" not in printed
