"""The command line's side effects: files beside the output, exit codes, stdout and stderr, and what remains when interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from lorax import __version__, cli
from lorax.cli import main
from lorax.formats import writer
from lorax.methods import METHODS
from lorax.report import Report
from tests import builders
from tests.conftest import Files

SOURCE_METADATA = {
    "ss_tag_frequency": '{"10_origami": {"paper": 3}}',
    "ss_output_name": "style",
    "ss_base_model_version": "sd_v1",
    "ss_sd_model_name": "old.safetensors",
    "ss_new_sd_model_hash": "0" * 64,
    "ss_network_dim": "128",
    "ss_network_alpha": "64",
    "ss_network_module": "lycoris.kohya",
    "sshs_model_hash": "1" * 64,
    "sshs_legacy_hash": "12345678",
    "modelspec.title": "Style",
    "modelspec.hash_sha256": "0x" + "2" * 64,
    "modelspec.trigger_phrase": "origami",
}


FAILURES = [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 2)]


def arguments(files: Files, lora: Path | None = None, target: Path | None = None) -> list[str]:
    return [str(lora or files.lora), "--source", str(files.base), "--target", str(target or files.target)]


@pytest.fixture
def styled(files: Files, tmp_path: Path) -> Path:
    """A LoRA with metadata, a preview and a card, as it lies in a WebUI's folder."""
    folder = tmp_path / "models"
    folder.mkdir()
    lora = builders.save_lora(folder / "my style.v2.safetensors", files.deltas, metadata=SOURCE_METADATA)
    (folder / "my style.v2.preview.png").write_bytes(b"preview")
    (folder / "my style.v2.jpg").write_bytes(b"image")
    card = {"description": "Paper folds.", "sd version": "SD1", "activation text": "origami", "preferred weight": 0.7}
    (folder / "my style.v2.json").write_text(json.dumps(card))
    return lora


def test_metadata(files: Files, styled: Path, out: Path) -> None:
    written = out / "moved.safetensors"
    assert main(["transfer", *arguments(files, styled), "--output", str(written), "--method", "copy"]) == 0
    found = builders.header(written)
    expected = {
        "ss_tag_frequency": SOURCE_METADATA["ss_tag_frequency"],
        "ss_output_name": "moved",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_sd_model_name": "target.safetensors",
        "ss_new_sd_model_hash": builders.sha256(files.target),
        "ss_sd_model_hash": hashlib.sha256(files.target.read_bytes()[0x100000:0x110000]).hexdigest()[:8],
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "moved",
        "modelspec.merged_from": "my style.v2",
        "modelspec.trigger_phrase": "origami",
        "lorax_version": __version__,
        "lorax_source_lora": "my style.v2.safetensors",
        "lorax_source_lora_hash": builders.sha256(styled),
        "lorax_source_model": "base.safetensors",
        "lorax_source_model_hash": builders.sha256(files.base),
        "lorax_target_model": "target.safetensors",
        "lorax_target_model_hash": builders.sha256(files.target),
        "lorax_method": "copy",
        "lorax_coverage": "1.0000",
    }
    assert expected.items() <= found.items()
    assert found["modelspec.date"] > "2024"
    assert "modelspec.hash_sha256" not in found
    assert json.loads(found["lorax_settings"])["rank"] == "auto"


def test_alpha_and_rank_that_vary_are_dynamic(files: Files, tmp_path: Path, out: Path) -> None:
    deltas = [*builders.deltas(builders.SOME[:2], rank=2), *builders.deltas(builders.SOME[2:4], rank=4, alpha=1.0)]
    lora = builders.save_lora(tmp_path / "mixed.safetensors", deltas)
    assert main(["transfer", *arguments(files, lora), "--output", str(out), "--method", "copy"]) == 0
    found = builders.header(out / "mixed-target.safetensors")
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("Dynamic", "Dynamic")


def test_network_settings_are_those_of_what_is_written(files: Files, tmp_path: Path, out: Path) -> None:
    """kohya keeps convolutions with a kernel apart; what another trainer's network was made with is no longer true."""
    linear, convolutions = builders.deltas(builders.SOME), builders.deltas(builders.CONVOLUTIONS, rank=3, alpha=1.0)
    stale = SOURCE_METADATA | {"ss_network_args": '{"conv_dim": "64", "conv_alpha": "32", "algo": "loha"}'}
    locon = builders.save_lora(tmp_path / "locon.safetensors", [*linear, *convolutions], metadata=stale)
    plain = builders.save_lora(tmp_path / "plain.safetensors", linear, metadata=stale)
    kernels = builders.save_lora(tmp_path / "kernels.safetensors", convolutions)
    common = ["--output", str(out), "--method", "copy", "--overwrite"]
    for lora, more, dim, alpha, convolution in (
        (locon, (), "4", "2", {"conv_dim": "3", "conv_alpha": "1"}),
        (locon, ("--max-rank", "2"), "2", "1", {"conv_dim": "2", "conv_alpha": "0.666667"}),
        (plain, (), "4", "2", None),
        (kernels, (), "3", "1", {"conv_dim": "3", "conv_alpha": "1"}),
    ):
        assert main(["transfer", *arguments(files, lora), *common, *more]) == 0
        found = builders.header(out / f"{lora.stem}-target.safetensors")
        assert (found["ss_network_module"], found["ss_network_dim"], found["ss_network_alpha"]) == ("networks.lora", dim, alpha)
        assert json.loads(found.get("ss_network_args", "null")) == convolution


def test_alphas_that_differ_by_rounding_are_one(files: Files, tmp_path: Path, out: Path) -> None:
    """0.3 of rank 3 and 0.7 of rank 7 are 0.2 of rank 2, but not to the last digit."""
    deltas = [*builders.deltas(builders.SOME[:2], rank=3, alpha=0.3), *builders.deltas(builders.SOME[2:4], rank=7, alpha=0.7)]
    lora = builders.save_lora(tmp_path / "style.safetensors", deltas)
    assert main(["transfer", *arguments(files, lora), "--output", str(out), "--method", "copy", "--max-rank", "2"]) == 0
    found = builders.header(out / "style-target.safetensors")
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("2", "0.2")


def test_hashes_are_kohyas(files: Files, styled: Path, out: Path) -> None:
    """As sd-scripts computes them: over a file whose header holds the ss_ keys alone."""
    written = out / "moved.safetensors"
    assert main(["transfer", *arguments(files, styled), "--output", str(written), "--method", "copy"]) == 0
    found, content = builders.header(written), written.read_bytes()
    body = content[8 + int.from_bytes(content[:8], "little") :]
    assert found["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    as_kohya = save(load_file(written), {key: value for key, value in found.items() if key.startswith("ss_")})
    assert found["sshs_legacy_hash"] == hashlib.sha256(as_kohya[0x100000:0x110000]).hexdigest()[:8]
    assert found["sshs_model_hash"] != SOURCE_METADATA["sshs_model_hash"]


def test_preview_and_card_are_carried(files: Files, styled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", *arguments(files, styled), "--method", "copy"]) == 0
    folder, stem = styled.parent, "my style.v2-target"
    assert (folder / f"{stem}.preview.png").read_bytes() == b"preview"
    assert (folder / f"{stem}.jpg").read_bytes() == b"image"
    card = json.loads((folder / f"{stem}.json").read_text())
    assert card["activation text"] == "origami"
    assert card["preferred weight"] == 0.7
    assert card["sd version"] == "SD1"
    assert card["description"].startswith("Paper folds.\nmy style.v2, moved from base to target")
    printed = capsys.readouterr().out
    assert all(f"wrote {folder / stem}{suffix}" in printed for suffix in (".safetensors", ".preview.png", ".jpg", ".json"))


def test_sidecars_that_exist_or_are_not_the_webuis_are_left_alone(files: Files, styled: Path, out: Path) -> None:
    (out / "moved.jpg").write_bytes(b"mine")
    styled.with_suffix(".json").write_text("[1, 2]")
    assert main(["transfer", *arguments(files, styled), "--output", str(out / "moved.safetensors"), "--method", "copy"]) == 0
    assert (out / "moved.jpg").read_bytes() == b"mine"
    assert not (out / "moved.json").exists()


def test_a_card_with_odd_content(files: Files, styled: Path, out: Path) -> None:
    styled.with_suffix(".json").write_text('{"description": 5}')
    assert main(["transfer", *arguments(files, styled), "--output", str(out), "--method", "copy"]) == 0
    assert json.loads((out / "my style.v2-target.json").read_text())["description"].startswith("5\n")


def test_output_names(files: Files, styled: Path, out: Path, tmp_path: Path) -> None:
    folder = builders.save_folder(files.target_state, tmp_path / "sd-v1.5")
    assert main(["transfer", *arguments(files, styled), "--output", str(out / "plain"), "--method", "copy"]) == 0
    assert main(["transfer", *arguments(files, styled, folder), "--output", str(out), "--method", "copy"]) == 0
    assert {path.name for path in out.glob("*.safetensors")} == {"plain.safetensors", "my style.v2-sd-v1.5.safetensors"}


def test_a_peft_folder_goes_beside_itself(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my.style"
    folder.mkdir()
    builders.save_lora(folder / "adapter_model.safetensors", files.deltas, "peft")
    assert main(["transfer", *arguments(files, folder), "--method", "copy"]) == 0
    written = tmp_path / "my.style-target.safetensors"
    found = builders.header(written)
    assert (found["modelspec.merged_from"], found["lorax_source_lora"]) == ("my.style", "my.style")
    assert found["lorax_source_lora_hash"] == builders.sha256(folder / "adapter_model.safetensors")
    written.unlink()
    monkeypatch.chdir(folder)
    assert main(["transfer", *arguments(files, Path()), "--method", "copy"]) == 0
    assert written.exists()
    assert [path.name for path in folder.iterdir()] == ["adapter_model.safetensors"]


def test_a_base_folder_that_is_the_current_one(files: Files, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(builders.save_folder(files.target_state, tmp_path / "sd-v1.5"))
    assert main(["transfer", *arguments(files, target=Path()), "--output", str(out), "--method", "copy"]) == 0
    found = builders.header(out / "style-sd-v1.5.safetensors")
    assert found["ss_sd_model_name"] == found["lorax_target_model"] == "sd-v1.5"


@pytest.mark.parametrize("suffix", [".SAFETENSORS", ".SafeTensors", ".CKPT"])
def test_suffixes_in_any_case(files: Files, tmp_path: Path, out: Path, suffix: str) -> None:
    base = builders.save(files.target_state, tmp_path / f"target{suffix.lower()}").rename(tmp_path / f"target{suffix}")
    written = out / "moved.SafeTensors"
    assert main(["transfer", *arguments(files, target=base), "--output", str(written), "--method", "copy"]) == 0
    assert list(out.iterdir()) == [written]


def test_overwrite(files: Files, out: Path) -> None:
    kept = out / "moved.safetensors"
    kept.write_bytes(b"old")
    command = ["transfer", *arguments(files), "--output", str(kept), "--method", "copy"]
    assert main(command) == 2
    assert kept.read_bytes() == b"old"
    assert main([*command, "--overwrite"]) == 0
    assert load_file(kept)


@pytest.mark.parametrize("option", ["--output", "--report"])
@pytest.mark.parametrize("role", ["lora", "source", "target", "link", "folder", "inside"])
def test_what_is_read_is_never_overwritten(
    files: Files, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], option: str, role: str
) -> None:
    """Neither the files themselves, under whatever name, nor anything in a base's folder."""
    given = {"lora": tmp_path / "style.safetensors", "source": tmp_path / "s.safetensors", "target": tmp_path / "t.safetensors"}
    for name, path in given.items():
        shutil.copyfile(getattr(files, {"source": "base"}.get(name, name)), path)
    folder = builders.save_folder(files.target_state, tmp_path / "diffusers")
    (tmp_path / "link.safetensors").symlink_to(given["source"])
    places = {"link": tmp_path / "link.safetensors", "folder": folder, "inside": folder / "unet" / "new.safetensors"}
    target = folder if role in ("folder", "inside") else given["target"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    bases = ["--source", str(given["source"]), "--target", str(target), "--method", "copy", "--overwrite"]
    output = [] if option == "--output" else ["--output", str(out / "moved.safetensors")]
    assert main(["transfer", str(given["lora"]), *bases, *output, option, str((given | places)[role])]) == 2
    message = capsys.readouterr().err
    assert "which is read and must not change" in message
    assert f"Choose another {option}." in message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_adapter_in_a_bases_folder_needs_an_output(files: Files, tmp_path: Path, out: Path) -> None:
    folder = builders.save_folder(files.base_state, tmp_path / "diffusers")
    lora = builders.save_lora(folder / "pytorch_lora_weights.safetensors", files.deltas)
    command = ["transfer", str(lora), "--source", str(folder), "--target", str(files.target), "--method", "copy"]
    assert main(command) == 2
    assert main([*command, "--output", str(out)]) == 0


@pytest.mark.parametrize("option", ["--output", "--report"])
def test_a_folder_that_does_not_exist(files: Files, out: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    """The slash says that a folder is meant, and ``newdir.safetensors`` was not."""
    command = ["transfer", *arguments(files), "--output", str(out), "--method", "copy"]
    assert main([*command, option, f"{out}/newdir/"]) == 2
    assert f"error: {out}/newdir/: no such folder. Create it" in capsys.readouterr().err
    assert list(out.iterdir()) == []
    assert main([*command, "--output", f"{out}/"]) == 0
    assert [path.name for path in out.iterdir()] == ["style-target.safetensors"]


def test_a_report_that_is_a_folder(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "kept").mkdir()
    command = ["transfer", *arguments(files), "--output", str(out), "--method", "copy", "--overwrite"]
    assert main([*command, "--report", str(out / "kept")]) == 2
    assert f"{out / 'kept'}: a folder; expected the name of a file" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["kept"]


def test_json(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["transfer", *arguments(files), "--output", str(out), "--method", "lorax", "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["method"] == "lorax"
    assert report["written"] == [str(out / "style-target.safetensors")]
    assert report["counts"] == {"transferred": len(files.deltas)}
    assert {layer["target"] for layer in report["layers"]} == {delta.layer for delta in files.deltas}
    assert all(0 < layer["kept"] <= 1 for layer in report["layers"])


def test_report_file_is_the_json(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", *arguments(files), "--json", "--report", str(out / "report.json")]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "report.json").read_text())


def test_analyze_writes_no_adapter(files: Files, styled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(styled.parent.iterdir())
    assert main(["analyze", *arguments(files, styled)]) == 0
    assert set(styled.parent.iterdir()) == before
    printed = capsys.readouterr().out
    assert all(delta.layer in printed for delta in files.deltas)
    assert f"{len(files.deltas)} of {len(files.deltas)} layers transferred" in printed


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


def test_any_method_may_decline(
    files: Files, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[float] = []

    def judge(similarities: Any) -> str:
        seen.extend(similarities)
        return "they are too alike"

    monkeypatch.setitem(METHODS, "wary", dataclasses.replace(METHODS["copy"], name="wary", judge=judge))
    assert main(["transfer", *arguments(files), "--output", str(out), "--method", "wary"]) == 3
    assert "are not related: in the unet, they are too alike" in capsys.readouterr().err
    assert len(seen) == sum(delta.component == "unet" for delta in files.deltas)


def test_a_shared_text_encoder_makes_no_relatives(
    files: Files, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most LoRAs have more layers in the text encoder than a median over everything can bear."""
    text = {key: value for key, value in files.base_state.items() if key.startswith(builders.TE)}
    target = builders.save(builders.base(seed=77) | text, tmp_path / "stranger.safetensors")
    layers = [path.removesuffix(".weight") for path in (p.diffusers for p in builders.TINY.text() if p.is_layer)]
    lora = builders.save_lora(tmp_path / "texts.safetensors", builders.deltas([*builders.SOME, *layers]))
    assert main(["transfer", *arguments(files, lora, target), "--output", str(out)]) == 3
    assert "are not related: in the unet, the median similarity of their layers is" in capsys.readouterr().err
    assert list(out.iterdir()) == []
    alone = builders.save_lora(tmp_path / "text-only.safetensors", builders.deltas(layers))
    assert main(["transfer", *arguments(files, alone, target), "--output", str(out)]) == 0


def test_unequal_shapes_speak_against_relatedness(
    files: Files, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = builders.base(3, builders.Size(channels=builders.WIDER.channels))  # the same text encoder's width
    text = {key: value for key, value in files.base_state.items() if key.startswith(builders.TE)}
    report = out / "report.json"
    target = builders.save(wide | text, tmp_path / "wide.safetensors")
    assert main(["transfer", *arguments(files, target=target), "--output", str(out), "--report", str(report)]) == 3
    assert "in the unet, no layers are comparable" in capsys.readouterr().err
    assert list(out.iterdir()) == [report]
    reasons = {layer["reason"] for layer in json.loads(report.read_text())["layers"] if layer["target"].startswith("unet.")}
    assert reasons
    assert all(r.startswith("shapes differ (") and r.endswith("); name lorax to try the least-squares map") for r in reasons)


@pytest.mark.parametrize(("unequal", "code"), [(2, 0), (4, 3)])
def test_the_odd_unequal_layer_is_skipped(files: Files, tmp_path: Path, out: Path, unequal: int, code: int) -> None:
    """Of six layers: where half or more cannot be compared, the bases are no relatives."""
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
    assert "no layer could be transferred" in message
    assert f"{len(files.deltas)} (100.0%): similarity below the threshold 0.8." in message
    assert list(out.iterdir()) == []
    assert main([*command, "--report", str(out / "why.json")]) == 2
    assert list(out.iterdir()) == [out / "why.json"]


def test_interrupted_while_working(
    files: Files, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(bar: Any) -> Callable[[int, int, str], None]:
        def progress(done: int, total: int, name: str) -> None:
            if done == 3:
                raise KeyboardInterrupt

        return progress

    monkeypatch.setattr(cli, "_progress", interrupt)
    assert main(["transfer", *arguments(files), "--output", str(out), "--report", str(out / "report.json")]) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("when", [1, 2])
@pytest.mark.parametrize(("error", "code"), FAILURES)
def test_interrupted_while_writing(
    files: Files, styled: Path, out: Path, monkeypatch: pytest.MonkeyPatch, when: int, error: BaseException, code: int
) -> None:
    calls: list[Path] = []

    def half(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        calls.append(path)
        save_file(tensors, path, metadata)
        if len(calls) == when:
            raise error

    monkeypatch.setattr(writer, "save_file", half)
    assert main(["transfer", *arguments(files, styled), "--output", str(out), "--method", "copy"]) == code
    assert len(calls) == when
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(("error", "code"), FAILURES)
@pytest.mark.parametrize("when", range(1, 6))
def test_interrupted_among_the_files(
    files: Files, styled: Path, out: Path, monkeypatch: pytest.MonkeyPatch, when: int, error: BaseException, code: int
) -> None:
    """Two pictures, the card, the report and the adapter take their places: all, or none."""
    replace, calls = Path.replace, [0]

    def failing(self: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] == when:
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    command = ["transfer", *arguments(files, styled), "--output", str(out), "--method", "copy"]
    assert main([*command, "--report", str(out / "report.json")]) == code
    assert calls == [when]
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(("error", "code"), FAILURES)
def test_interrupted_while_copying_the_preview(
    files: Files, styled: Path, out: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:3])
        raise error

    monkeypatch.setattr(shutil, "copyfile", half)
    assert main(["transfer", *arguments(files, styled), "--output", str(out), "--method", "copy"]) == code
    assert list(out.iterdir()) == []


def test_interrupted_when_all_is_written(
    files: Files, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: Report) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Report, "summary", interrupt)
    assert main(["transfer", *arguments(files), "--output", str(out), "--method", "copy"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert load_file(out / "style-target.safetensors")


def test_an_interrupted_demo_does_not_claim_that_nothing_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(output: Path) -> None:
        raise KeyboardInterrupt("nothing was written")

    monkeypatch.setattr("lorax.demo.run", interrupt)
    assert main(["demo", "--output", str(tmp_path)]) == 130
    assert capsys.readouterr().err == f"interrupted; see {tmp_path} for what was made so far\n"


@pytest.mark.parametrize(("package", "inside"), [("matplotlib", "lorax.demo.grid"), ("diffusers", "lorax.runner")])
def test_a_demo_without_its_packages_says_so_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str, inside: str
) -> None:
    for name in [name for name in sys.modules if name == inside or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 2
    assert capsys.readouterr().err.startswith(f"error: the demo needs {package}. Install its packages with: pip install")
    assert not (tmp_path / "demo").exists()


def test_interrupted_while_the_arguments_are_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parser", interrupt)
    assert main([]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_report_where_the_card_would_go(files: Files, styled: Path, out: Path) -> None:
    report = out / "moved.json"
    command = ["transfer", *arguments(files, styled), "--output", str(out / "moved.safetensors"), "--method", "copy"]
    assert main([*command, "--report", str(report)]) == 0
    assert json.loads(report.read_text())["method"] == "copy"


def test_same_input_same_file(files: Files, styled: Path, out: Path) -> None:
    for name in ("a", "b"):
        assert main(["transfer", *arguments(files, styled), "--output", str(out / name), "--method", "prolora"]) == 0
    a, b = (load_file(out / f"{name}.safetensors") for name in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)


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


@pytest.mark.parametrize(("deep", "title"), [(0, "Stable Diffusion 2.x"), (1, "Stable Diffusion XL")])
def test_inspect_names_bases_that_are_not_supported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], deep: int, title: str
) -> None:
    attention = f"{builders.UNET}input_blocks.4.1"
    keys = (f"{attention}.proj_in.weight", f"{attention}.transformer_blocks.{deep}.attn1.to_q.weight")
    save_file({key: torch.ones(8, 8) for key in keys}, tmp_path / "base.safetensors")
    assert main(["inspect", str(tmp_path / "base.safetensors")]) == 0
    assert capsys.readouterr().out.splitlines() == ["kind: base", f"family: {title}", "status: not supported yet"]


def test_inspect_says_once_what_is_wrong(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.safetensors").write_bytes(files.lora.read_bytes()[:500])
    loha = tmp_path / "loha.safetensors"
    save_file({"lora_unet_x.hada_w1_a": torch.ones(2), "lora_unet_x.alpha": torch.ones(1)}, loha)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, other)
    for path, words in (
        (tmp_path / "gone.safetensors", "no such file"),
        (tmp_path / "cut.safetensors", "truncated"),
        (loha, "LoHa"),
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
