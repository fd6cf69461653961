"""What sd-scripts' own code says of the header of a moved LoRA: its hashes, and what it would write of such a LoRA itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from tests import families
from tests.kohya.trainers import SCRIPTS
from tests.samples import SOURCE_METADATA, changed, transfer

pytestmark = pytest.mark.skipif(not SCRIPTS, reason="LORAX_SD_SCRIPTS_DIR is not set: headers are not read by sd-scripts")


@pytest.mark.parametrize(
    ("source", "target", "layers", "velocity"),
    [("sd1", "sdxl", "te.", False), ("sdxl", "sd1", "te1.", False), ("sd2", "sd2", "te.", False), ("sd2", "sd2", "te.", True)],
)
def test_a_moved_lora(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str, layers: str, velocity: bool
) -> None:
    monkeypatch.setattr(sys, "path", [SCRIPTS, *sys.path])
    from library import sai_model_spec, train_util

    bases = families.make(tmp_path)
    if velocity:
        bases[target].path.with_suffix(".yaml").write_text("model: {params: {parameterization: v, unet_config: {}}}")
    families.save_lora(tmp_path / "a.safetensors", bases[source].path, lambda layer: layer.startswith(layers))
    told = {key: value for key, value in SOURCE_METADATA.items() if "resolution" not in key}
    moved = transfer(changed(tmp_path / "a.safetensors", tmp_path, **told), bases[source].path, bases[target].path, out)
    found = sai_model_spec.load_metadata_from_safetensors(str(moved))
    described = {key for key in found if key.startswith("modelspec.")}
    assert described <= sai_model_spec.BASE_METADATA.keys()
    as_kohya = sai_model_spec.build_metadata(None, target == "sd2", velocity, target == "sdxl", True, False, 0.0, title="moved")
    of_ours = {"modelspec.date", "modelspec.implementation_version", "modelspec.prediction_type"}
    assert {key: found[key] for key in as_kohya.keys() - of_ours} == {key: as_kohya[key] for key in as_kohya.keys() - of_ours}
    assert found.get("modelspec.prediction_type", "epsilon") == as_kohya["modelspec.prediction_type"]
    assert sai_model_spec.build_merged_from([str(moved)]) == "moved"

    with safe_open(str(moved), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in stored(moved)}
    assert found["modelspec.hash_sha256"] == sai_model_spec.precalculate_safetensors_hashes(tensors)
    hashes = train_util.precalculate_safetensors_hashes(tensors, found)
    assert (found["sshs_model_hash"], found["sshs_legacy_hash"]) == hashes


def stored(file: Path) -> list[str]:
    """The names of the tensors in the order of their bytes."""
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header.pop("__metadata__")
    return sorted(header, key=lambda name: header[name]["data_offsets"])
