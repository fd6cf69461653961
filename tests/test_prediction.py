"""What a base predicts, from its keys, its header and what lies beside it; and what is said where source and target differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.checkpoint import NOISE, VELOCITY, open_checkpoint
from lorax.checkpoint.prediction import EDM
from lorax.cli import main
from tests import builders
from tests.samples import SOURCE_METADATA, Files, arguments

SGM = "model: {{params: {{denoiser_config: {{params: {{scaling_config: {{target: a.b.{}}}}}}}, network_config: x}}}}"
LDM = "model:\n  params:\n{}    unet_config:\n      params: {{}}\n"


def marked(files: Files, path: Path, *keys: str, metadata: dict[str, str] | None = None, content: str | None = None) -> Path:
    """The base with these keys and header, and a ``.yaml`` beside it."""
    save_file(load_file(files.base) | {key: torch.ones(1) for key in keys}, path, metadata)
    if content is not None:
        path.with_suffix(".yaml").write_text(content)
    return path


@pytest.mark.parametrize(
    ("keys", "metadata", "content", "expected"),
    [
        ((), {}, None, None),
        (("v_pred",), {}, None, VELOCITY),
        (("v_pred", "ztsnr"), {}, None, VELOCITY),
        (("ztsnr",), {}, None, None),
        (("edm_vpred.sigma_max",), {}, None, VELOCITY),
        (("edm_mean", "edm_std"), {}, None, EDM),
        ((), {"modelspec.prediction_type": "v"}, None, VELOCITY),
        ((), {"modelspec.prediction_type": "epsilon"}, None, NOISE),
        ((), {"modelspec.architecture": "stable-diffusion-v2-768-v"}, None, VELOCITY),
        ((), {"modelspec.architecture": "stable-diffusion-v2-512"}, None, NOISE),
        ((), {"modelspec.architecture": "stable-diffusion-v1"}, None, None),
        ((), {}, LDM.format('    parameterization: "v"\n'), VELOCITY),
        ((), {}, LDM.format("    parameterization: eps\n"), NOISE),
        ((), {}, LDM.format(""), None),
        ((), {}, SGM.format("VScaling"), VELOCITY),
        ((), {}, SGM.format("EpsScaling"), NOISE),
        ((), {}, SGM.format("EDMScaling"), EDM),
        (("v_pred",), {}, SGM.format("EpsScaling"), NOISE),
        (("v_pred",), {}, LDM.format(""), VELOCITY),
        (("v_pred",), {"modelspec.prediction_type": "epsilon"}, None, VELOCITY),
        (("v_pred",), {}, "model: [", VELOCITY),
        ((), {}, "- a\n- list", None),
    ],
)
def test_of_a_file(
    files: Files, tmp_path: Path, keys: tuple[str, ...], metadata: dict[str, str], content: str | None, expected: str | None
) -> None:
    base = open_checkpoint(marked(files, tmp_path / "a.safetensors", *keys, metadata=metadata, content=content))
    assert base.prediction == expected
    assert base.has_zero_snr == ("ztsnr" in keys)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (None, None),
        ("{", None),
        ("{}", NOISE),  # diffusers' default
        ('{"prediction_type": "epsilon"}', NOISE),
        ('{"prediction_type": "v_prediction"}', VELOCITY),
        ('{"prediction_type": "sample"}', None),
        ('{"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"}', EDM),
    ],
)
def test_of_a_folder(tmp_path: Path, scheduler: str | None, expected: str | None) -> None:
    folder = builders.save_folder(builders.base(), tmp_path / "base")
    if scheduler is not None:
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(scheduler)
    assert open_checkpoint(folder).prediction == open_checkpoint(folder / "unet").prediction == expected


def moved(files: Files, capsys: pytest.CaptureFixture[str], source: Path, target: Path, lora: Path | None = None) -> str | None:
    """What the report says; the summary says the same."""
    command = ["analyze", str(lora or files.lora), "--source", str(source), "--target", str(target), "--method", "copy"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    said: str | None = json.loads(capsys.readouterr().out)["mismatch"]
    assert said is None or said in text.splitlines()
    return said


def test_a_difference_is_said(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    velocity, noise = marked(files, tmp_path / "v.safetensors", "v_pred"), tmp_path / "n.safetensors"
    marked(files, noise, metadata={"modelspec.prediction_type": "epsilon"})
    end = "Weights are moved all the same; the effect may be weaker or another one there, so compare."
    forth = f"The LoRA is for a base that predicts velocity, but n.safetensors predicts noise. {end}"
    assert moved(files, capsys, velocity, noise) == forth
    back = f"The LoRA is for a base that predicts noise, but v.safetensors predicts velocity. {end}"
    assert moved(files, capsys, noise, velocity) == back
    untold = f"base.safetensors does not say what it predicts, but v.safetensors predicts velocity. {end}"
    assert moved(files, capsys, files.base, velocity) == untold
    assert moved(files, capsys, files.base, noise) is None
    assert moved(files, capsys, velocity, velocity) is None
    lora = builders.save_lora(tmp_path / "a.safetensors", files.deltas, metadata={"ss_base_model_version": "sd_v1_v"})
    assert moved(files, capsys, files.base, velocity, lora) is None
    other = f"The LoRA is for a base that predicts velocity, but target.safetensors does not say what it predicts. {end}"
    assert moved(files, capsys, files.base, files.target, lora) == other
    assert moved(files, capsys, files.base, files.base, lora) is None  # nothing is moved


@pytest.mark.parametrize(
    ("kind", "version", "told"), [("v", "sd_v1_v", "v"), ("epsilon", "sd_v1", "epsilon"), (None, "sd_v1", None)]
)
def test_what_is_written_says_what_its_own_base_predicts(
    files: Files, tmp_path: Path, kind: str | None, version: str, told: str | None
) -> None:
    metadata = {"modelspec.prediction_type": kind} if kind else None
    target = marked(files, tmp_path / "target.safetensors", metadata=metadata)
    lora = builders.save_lora(
        tmp_path / "a.safetensors", files.deltas, metadata=SOURCE_METADATA | {"modelspec.prediction_type": "stale"}
    )
    assert main(["transfer", *arguments(files, lora, target), "--method", "copy"]) == 0
    found = builders.header(tmp_path / "a-target.safetensors")
    assert found["ss_base_model_version"] == version
    assert found.get("modelspec.prediction_type") == told


def test_a_pickle_tells_by_its_keys(files: Files, tmp_path: Path) -> None:
    path = builders.save(files.base_state, tmp_path / "a.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    torch.save({"state_dict": state | {"v_pred": torch.ones(1)}}, path)
    assert open_checkpoint(path).prediction == VELOCITY


def test_a_copy_elsewhere_has_no_yaml(files: Files, tmp_path: Path) -> None:
    path = marked(files, tmp_path / "a.safetensors", content=LDM.format('    parameterization: "v"\n'))
    (tmp_path / "b").mkdir()
    assert open_checkpoint(Path(shutil.copy(path, tmp_path / "b"))).prediction is None
