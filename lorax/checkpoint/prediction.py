"""Finds what a base's UNet predicts, from the file's header and the files beside it. The weights do not tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorax.errors import LoraxError
from lorax.files import TensorFile, is_file, read_json, read_yaml

NOISE, VELOCITY, EDM = "noise", "velocity", "a preconditioned picture (EDM)"  # v: arXiv 2202.00512; EDM: arXiv 2206.00364
# Keys that trainers put into a checkpoint as marks, for ComfyUI and Forge.
MARKS = {"edm_mean": EDM, "edm_vpred.sigma_max": VELOCITY, "v_pred": VELOCITY}
WORDS = {"epsilon": NOISE, "eps": NOISE, "v": VELOCITY, "v_prediction": VELOCITY}  # of modelspec, ldm and diffusers
SCALINGS = {"EpsScaling": NOISE, "VScaling": VELOCITY, "VScalingWithEDMcNoise": VELOCITY, "EDMScaling": EDM}  # of sgm
ARCHITECTURES = {"stable-diffusion-v2-512": NOISE, "stable-diffusion-v2-768-v": VELOCITY}  # of modelspec
ZERO_SNR = "ztsnr"  # a key beside v_pred: the last step of the schedule is noise alone (arXiv 2305.08891)


def told_by(path: Path) -> Path:
    """The file outside of the weights that may say what the base at ``path`` predicts, whether there is such a file or not.

    A file has a ``.yaml`` beside it, and a pipeline's folder, or the folder around a ``unet`` folder, a scheduler.
    """
    if not path.is_dir():
        return path.with_suffix(".yaml")
    places = [base / "scheduler" / "scheduler_config.json" for base in (path, path.parent)]
    return next((place for place in places if place.is_file()), places[0])


def prediction_of(path: Path, file: TensorFile) -> str | None:
    """Return what the base at ``path``, a file or a folder, predicts; None if unknown. ``file`` holds its UNet.

    The sources are, in this order, a ``.yaml`` beside a file, as in A1111, or a folder's scheduler; marks among the keys; and the
    metadata. Unreadable ones are ignored.
    """
    configured = (_of_scheduler if path.is_dir() else _of_yaml)(told_by(path))
    marked = next((predicts for key, predicts in MARKS.items() if key in file.shapes), None)
    return configured or marked or prediction_in(file.metadata)


def prediction_in(metadata: Mapping[str, str]) -> str | None:
    """Return the prediction that a base's or an adapter's header states in modelspec's words or kohya's, or None."""
    architecture = metadata.get("modelspec.architecture", "").partition("/")[0]
    kohya = metadata.get("ss_base_model_version", "")
    return (
        WORDS.get(metadata.get("modelspec.prediction_type", ""))
        or ARCHITECTURES.get(architecture)
        or (VELOCITY if kohya in ("sd_v1_v", "sd_v2_v") else None)
    )


@dataclass(frozen=True)
class Mismatch:
    """Two bases, by name, with different predictions. None is an unknown prediction, which is usually noise."""

    source: str
    of_source: str | None
    target: str
    of_target: str | None


def mismatch(of_source: str | None, source: str, of_target: str | None, target: str) -> Mismatch | None:
    """Return the predictions of two bases, if they differ."""
    if (of_source or NOISE) == (of_target or NOISE):
        return None
    return Mismatch(source, of_source, target, of_target)


def _of_yaml(path: Path) -> str | None:
    """Return the prediction in a ``.yaml``: ldm's ``parameterization``, or the scaling of sgm's denoiser."""
    if not is_file(path):
        return None
    try:
        params: dict[str, Any] = read_yaml(path, "a model's configuration")["model"]["params"]
        if "unet_config" in params:
            return WORDS.get(params.get("parameterization", ""))
        denoiser = params["denoiser_config"]["params"]
        return SCALINGS.get(denoiser["scaling_config"]["target"].rpartition(".")[2])
    except (LoraxError, LookupError, TypeError, AttributeError):
        return None


def _of_scheduler(path: Path) -> str | None:
    """Return the prediction in a scheduler's settings."""
    try:
        settings = read_json(path, "a scheduler's configuration")
        is_edm = settings.get("_class_name", "").startswith("EDM")
        return EDM if is_edm else WORDS.get(settings.get("prediction_type", "epsilon"))
    except (LoraxError, TypeError, AttributeError):
        return None
