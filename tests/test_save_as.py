"""A moved adapter is saved as a plain LoRA or as a LoRA-X file, in which the target plays no part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.catalog import facts
from lorax.cli import main
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.options import Options, Saving
from lorax.progress import READING
from lorax.workflow import InFolder, transfer
from tests import builders, library
from tests.library import made, request, silent
from tests.samples import Files, arguments

LORAX = Saving(save_as="lora-x")


@pytest.fixture
def folder(files: Files, tmp_path: Path) -> Path:
    return library.make(tmp_path, files)


def test_a_lorax_file_is_called_after_no_target_and_does_not_depend_on_it(
    files: Files, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for target in (files.target, files.pruned):
        command = ["transfer", *arguments(files, target=target), "--save-as", "lora-x", "--output", str(out), "--overwrite"]
        assert main(command) == 0
        assert sorted(path.name for path in out.iterdir()) == ["style-lorax.json", "style-lorax.safetensors"]
        found.append(load_file(out / "style-lorax.safetensors"))
        printed = capsys.readouterr().out
        assert "fits itself to whatever Stable Diffusion 1.x checkpoint is loaded" in printed
        assert f"what it does on {target.stem}" in printed
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert found[0].keys() == found[1].keys()
    assert facts(out / "style-lorax.safetensors").format == "LoRA-X"
    assert facts(out / "style-lorax.safetensors").trained_on == "base.safetensors"


def test_a_pair_that_is_declined_does_not_stop_it_and_is_told(
    files: Files, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transfer", *arguments(files, target=files.stranger), "--output", str(out), "--json"]
    assert main(command) == 3
    assert list(out.iterdir()) == []
    capsys.readouterr()
    assert main([*command, "--save-as", "lora-x"]) == 0
    assert open_adapter(out / "style-lorax.safetensors").header
    printed = json.loads(capsys.readouterr().out)
    assert printed["written"] == [str(out / "style-lorax.safetensors"), str(out / "style-lorax.json")]
    assert "On stranger it will not be applied:" in printed["note"]
    assert "are not related" in printed["note"]


def test_where_no_layer_can_be_moved_it_is_saved_too(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["transfer", *arguments(files), "--output", str(out), "--method", "lorax", "--threshold", "1"]
    assert main(command) == 2
    assert main([*command, "--save-as", "lora-x"]) == 0
    assert "On target it will not be applied: no layer can be moved." in capsys.readouterr().out


def test_what_diverged_is_refused_as_it_is_for_a_plain_lora(files: Files, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(files.lora)
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    tensors[key].view(-1)[0] = float("nan")
    save_file(tensors, out / "diverged.safetensors")
    for kind in ("lora", "lora-x"):
        assert main(["transfer", *arguments(files, out / "diverged.safetensors"), "--save-as", kind]) == 2
    assert [path.name for path in out.iterdir()] == ["diverged.safetensors"]
    assert "Traceback" not in capsys.readouterr().err


def test_the_tab_and_the_api_save_either(folder: Path) -> None:
    destination = InFolder(folder / "Lora", "moved", saving=LORAX)
    results = transfer(request(folder, "one", "styles/two"), destination, silent)
    assert [result.written for result in results] == [
        folder / "Lora" / "moved" / f"{name}-lorax.safetensors" for name in ("one", "two")
    ]
    assert all("fits itself to whatever" in result.note for result in results)
    (plain,) = transfer(request(folder, "one"), InFolder(folder / "Lora"), silent)
    assert (plain.written, plain.note) == (folder / "Lora" / "one-target.safetensors", "")


def test_a_declined_pair_leaves_no_empty_folder(folder: Path, files: Files) -> None:
    builders.save(builders.base(seed=77), folder / "target.safetensors")
    (result,) = transfer(request(folder, "one", options=Options()), InFolder(folder / "Lora", "moved"), silent)
    assert result.report.declined
    assert result.written is None
    assert not (folder / "Lora" / "moved").exists()


def test_existing_files_are_found_before_any_work_and_inputs_are_never_replaced(folder: Path) -> None:
    def never(done: int, total: int, text: str) -> None:
        assert text == READING

    (folder / "Lora" / "one-lorax.safetensors").write_bytes(b"mine")
    with pytest.raises(LoraxError, match=r"exists already\. Choose another output name, or have it replaced"):
        transfer(request(folder, "one"), InFolder(folder / "Lora", saving=LORAX), never)
    with pytest.raises(LoraxError, match="which is read and must not change"):
        transfer(request(folder, "one"), InFolder(folder / "Lora", saving=Saving(overwrite=True, name="one")), never)
    assert made(folder) == []


def test_other_kinds_are_refused(files: Files) -> None:
    with pytest.raises(LoraxError, match="save as 'loha': expected one of lora, lora-x"):
        Saving(save_as="loha")
