"""What other programs' own code reads of a moved LoRA and of the files beside it. Each needs a variable that names a checkout.

LORAX_LORA_MANAGER_DIR: willmiao/ComfyUI-Lora-Manager, which needs platformdirs and piexif; LORAX_NEO_DIR: Forge Neo;
LORAX_WEBUI_DIR: a WebUI v1.10.1 with its venv, and with it LORAX_CIVITAI_HELPER_DIR: zixaphir's Civitai Helper.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorax.checkpoint import families
from tests import builders
from tests.samples import SOURCE_METADATA, Files, transfer
from tests.test_sidecars import CIVITAI, MANAGER

MANAGER_READS = """
import asyncio, json, os, sys
from py.utils.file_utils import calculate_autov3, find_preview_file
from py.utils.metadata_manager import MetadataManager
from py.utils.models import LoraMetadata

lora = sys.argv[1]
stem = os.path.splitext(lora)[0]
read, skipped = asyncio.run(MetadataManager.load_metadata(lora, LoraMetadata))
info = json.load(open(stem + ".civitai.info", encoding="utf-8"))
primary = next(file for file in info["files"] if file["primary"])  # as ModelScanner takes it
from_info = LoraMetadata.from_civitai_info(info, primary, lora)
told = {"read": read.to_dict(), "skipped": skipped, "from_info": from_info.to_dict(), "autov3": calculate_autov3(lora)}
print(json.dumps(told | {"preview": find_preview_file(os.path.basename(stem), os.path.dirname(lora))}))
"""
WEBUI_READS = """
import json, os, sys
LORA, HELPER, DATA = sys.argv[1:]
sys.argv[1:] = ["--skip-torch-cuda-test", "--use-cpu", "all", "--data-dir", DATA]
from modules import paths, shared_init
shared_init.initialize()
sys.path.append(os.path.join("extensions-builtin", "Lora"))
import network, networks
from modules import shared
from ui_extra_networks_lora import ExtraNetworksPageLora

networks.available_networks["moved"] = network.NetworkOnDisk("moved", LORA)
shared.opts.data |= {"lora_show_all": True, "lora_preferred_name": "Filename"}  # of a script that is not run
item = ExtraNetworksPageLora().create_item("moved")
keys = ("sd_version", "preview", "description", "prompt", "shorthash")
told = {key: item[key] for key in keys} | {"metadata": networks.available_networks["moved"].metadata}
if HELPER:
    sys.path.insert(0, HELPER)
    from ch_lib import civitai, duplicate_check, model

    info, card = model.get_model_info_paths(LORA)
    told["replaces"] = model.metadata_needed_for_type(info, "civitai", True)
    told["overwrites"] = model.verify_overwrite_eligibility(info, {"id": "", "description": ""})
    told["page"] = model.load_model_info(info)["modelId"]
    told["versions"] = civitai.get_model_id_from_model_path(LORA)
print("TOLD" + json.dumps(told))
"""


def checkout(variable: str) -> Path:
    """The folder that the variable names. Skips the test if it names none."""
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set: the program's own code does not read what is written")
    return Path(os.environ[variable])


def told(folder: Path, code: str, *arguments: str, python: Path | None = None) -> Any:
    """What the code prints, run in the folder by this Python or by another one."""
    path = "" if python else os.environ.get("PYTHONPATH", "")
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [python or sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1].removeprefix("TOLD"))


@pytest.fixture
def moved(files: Files, tmp_path: Path, out: Path) -> Path:
    """A moved LoRA of one with all that people have beside it."""
    lora = builders.save_lora(tmp_path / "my.style.safetensors", files.deltas, metadata=SOURCE_METADATA)
    card = {"description": "Mine.", "activation text": "crane", "preferred weight": 0.7}
    for suffix, known in {".json": card, ".civitai.info": CIVITAI, ".metadata.json": MANAGER}.items():
        lora.with_suffix(suffix).write_text(json.dumps(known), encoding="utf-8")
    lora.with_suffix(".preview.png").write_bytes(b"picture")
    return transfer(lora, files.base, files.target, out, "--method", "copy")


def test_lora_manager(moved: Path) -> None:
    found = told(checkout("LORAX_LORA_MANAGER_DIR"), MANAGER_READS, str(moved))
    read, from_info, header = found["read"], found["from_info"], builders.header(moved)
    assert not found["skipped"]
    assert (read["file_name"], read["file_path"], read["size"]) == ("moved", moved.as_posix(), moved.stat().st_size)
    assert (read["base_model"], from_info["base_model"]) == ("SD 1.5", "SD 1.5")
    assert (read["trainedWords"], json.loads(read["usage_tips"])["strength"]) == (["fold"], 0.8)
    assert read["notes"].startswith("Lovely.\nmy.style, moved from base to target by LoRA-X (copy).")
    assert (read["sha256"], from_info["sha256"]) == ("", ""), "so that it is computed, and is not the original's"
    assert (read["preview_url"], found["preview"]) == (moved.with_suffix(".preview.png").as_posix(),) * 2
    assert from_info["model_name"] == "Origami"
    assert from_info["size"] == moved.stat().st_size
    assert found["autov3"] == header["modelspec.hash_sha256"][2:14]


def test_neo() -> None:
    """Its Lora extension reads a card's version if it is the name of a preset, and else has the LoRA shown in all of them."""
    root = checkout("LORAX_NEO_DIR")
    names = told(root, "import json; from modules_forge.presets import PresetArch as P; print(json.dumps(P.choices()))")
    written = {family.name: family.card_versions[0] for family in families.FAMILIES}
    assert {name: version in names for name, version in written.items()} == {
        "sd1": True,
        "sd2": False,  # it has none
        "sdxl": True,
        "sdxl_refiner": True,
    }


def test_the_webui_and_civitai_helper(moved: Path, tmp_path: Path) -> None:
    """The card's version is Neo's, which this WebUI leaves aside for what the header says."""
    root, helper = checkout("LORAX_WEBUI_DIR"), os.environ.get("LORAX_CIVITAI_HELPER_DIR", "")
    found = told(root, WEBUI_READS, str(moved), helper, str(tmp_path), python=root / "venv" / "bin" / "python")
    header = builders.header(moved)
    assert json.loads(moved.with_suffix(".json").read_text("utf-8"))["sd version"] == "sd"
    assert found["sd_version"] == "SD1"
    assert found["description"].startswith("Mine.\nmy.style, moved from base to target by LoRA-X (copy).")
    assert "moved.preview.png" in found["preview"]
    assert all(part in found["prompt"] for part in ("<lora:moved:", "0.7", "crane"))
    assert found["shorthash"] == header["modelspec.hash_sha256"][2:14]
    assert found["metadata"]["modelspec.trigger_phrase"] == "crane"
    if helper:
        assert not found["replaces"]
        assert not found["overwrites"]
        assert found["page"] == 678
        assert found["versions"] is None, "it does not offer the original's next version for it"
