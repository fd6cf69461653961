"""Places where a transfer writes, and files that it must not write over."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lorax.cli import main
from tests import builders
from tests.samples import Files, arguments


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
    assert set(out.iterdir()) == {written, out / "moved.json"}


def test_overwrite(files: Files, out: Path) -> None:
    kept = out / "moved.safetensors"
    kept.write_bytes(b"old")
    command = ["transfer", *arguments(files), "--output", str(kept), "--method", "copy"]
    assert main(command) == 2
    assert kept.read_bytes() == b"old"
    assert main([*command, "--overwrite"]) == 0
    assert load_file(kept)


def test_a_link_to_nowhere_is_seen_before_the_work(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in (".safetensors", ".json"):
        (out / f"moved{suffix}").symlink_to("nowhere")
    command = ["transfer", *arguments(files), "--output", str(out / "moved.safetensors"), "--method", "copy"]
    assert main(command) == 2
    assert "moved.safetensors: exists already" in capsys.readouterr().err
    (out / "moved.safetensors").unlink()
    assert main(command) == 0
    assert load_file(out / "moved.safetensors")
    assert (out / "moved.json").is_symlink()


def test_a_lora_x_file_has_the_ending_by_which_it_is_known(files: Files, out: Path) -> None:
    command = [
        "transfer",
        *arguments(files),
        "--output",
        str(out / "moved.SAFETENSORS"),
        "--method",
        "copy",
        "--save-as",
        "lora-x",
    ]
    assert main(command) == 0
    assert load_file(out / "moved.safetensors")


@pytest.mark.parametrize("option", ["--output", "--report"])
@pytest.mark.parametrize("role", ["lora", "source", "target", "link", "folder", "inside"])
def test_what_is_read_is_never_overwritten(
    files: Files, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], option: str, role: str
) -> None:
    """Safe are the files themselves, under whatever name, and all that is in a base's folder."""
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


BESIDE = ["style.json", "style.civitai.info", "style.png", "style.preview.webp", "adapter_config.json", "s.yaml", "t.yaml"]


@pytest.mark.parametrize("name", BESIDE)
def test_a_report_replaces_no_file_beside_what_is_read(
    files: Files, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A card, a preview, a PEFT folder's configuration and a base's settings are read, or copied, too."""
    for path, copy in ((files.lora, "style"), (files.base, "s"), (files.target, "t")):
        shutil.copyfile(path, tmp_path / f"{copy}.safetensors")
    (tmp_path / name).write_text("{}")
    lora, *bases = (str(tmp_path / f"{copy}.safetensors") for copy in ("style", "s", "t"))
    command = ["transfer", lora, "--source", bases[0], "--target", bases[1], "--method", "copy", "--output", str(out)]
    assert main([*command, "--report", str(tmp_path / name), "--overwrite"]) == 2
    assert f"{name}: is or lies in {tmp_path / name}, which is read and must not change." in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "{}"
    assert not list(out.iterdir())


def test_a_report_does_not_replace_the_captions(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = out / "captions.txt"
    captions.write_text("a cat")
    command = ["transfer", *arguments(files), "--method", "bridge", "--captions", str(captions)]
    assert main([*command, "--output", str(out / "moved.safetensors"), "--report", str(captions), "--overwrite"]) == 2
    assert f"{captions}: is or lies in {captions}, which is read and must not change." in capsys.readouterr().err
    assert captions.read_text() == "a cat"


def test_a_report_replaces_no_file_that_a_bases_folder_links_to(files: Files, tmp_path: Path, out: Path) -> None:
    """Downloaded pipelines are folders of links into a store; a UNet's folder alone is told by the scheduler beside it."""
    folder = builders.save_folder(files.base_state, tmp_path / "pipeline")
    weights = next((folder / "unet").glob("*.safetensors"))
    blob = weights.rename(tmp_path / "blob.safetensors")
    weights.symlink_to(blob)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir(exist_ok=True)
    scheduler.write_text("{}")
    for source, report in ((folder, blob), (folder / "unet", scheduler)):
        before = report.read_bytes()
        command = ["transfer", str(files.lora), "--source", str(source), "--target", str(files.target), "--output", str(out)]
        assert main([*command, "--report", str(report), "--overwrite"]) == 2
        assert report.read_bytes() == before


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
    assert sorted(path.name for path in out.iterdir()) == ["style-target.json", "style-target.safetensors"]


def test_a_report_that_is_a_folder(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "kept").mkdir()
    command = ["transfer", *arguments(files), "--output", str(out), "--method", "copy", "--overwrite"]
    assert main([*command, "--report", str(out / "kept")]) == 2
    assert f"{out / 'kept'}: a folder; expected the name of a file" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["kept"]
