"""What a base's UNet predicts. Its weights do not show it, but the file's header and the files beside it may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorax.errors import LoraxError
from lorax.files import TensorFile, is_file, read_json, read_yaml

NOISE, VELOCITY, EDM = "noise", "velocity", "a preconditioned picture (EDM)"  # v: arXiv 2202.00512; EDM: arXiv 2206.00364
# Keys that trainers put into a checkpoint as marks, as ComfyUI and Forge read them.
MARKS = {"edm_mean": EDM, "edm_vpred.sigma_max": VELOCITY, "v_pred": VELOCITY}
WORDS = {"epsilon": NOISE, "eps": NOISE, "v": VELOCITY, "v_prediction": VELOCITY}  # of modelspec, ldm and diffusers
SCALINGS = {"EpsScaling": NOISE, "VScaling": VELOCITY, "VScalingWithEDMcNoise": VELOCITY, "EDMScaling": EDM}  # of sgm
ARCHITECTURES = {"stable-diffusion-v2-512": NOISE, "stable-diffusion-v2-768-v": VELOCITY}  # of modelspec
ZERO_SNR = "ztsnr"  # a key beside v_pred: the last step of the schedule is noise alone (arXiv 2305.08891)


def prediction_of(path: Path, file: TensorFile) -> str | None:
    """What the base at ``path``, a file or a folder, predicts; None if nothing tells. ``file`` holds its UNet.

    A ``.yaml`` beside a file comes first, as in A1111, or the scheduler of a folder. The marks among the keys and then the
    metadata follow. What cannot be read is ignored, since a transfer does not need it.
    """
    told = _of_scheduler(path) if path.is_dir() else _of_yaml(path.with_suffix(".yaml"))
    mark = next((what for key, what in MARKS.items() if key in file.shapes), None)
    return told or mark or prediction_in(file.metadata)


def prediction_in(metadata: Mapping[str, str]) -> str | None:
    """What the header of a base or an adapter says in modelspec's words or kohya's; None if it does not say."""
    architecture = metadata.get("modelspec.architecture", "").partition("/")[0]
    kohya = metadata.get("ss_base_model_version", "")
    return (
        WORDS.get(metadata.get("modelspec.prediction_type", ""))
        or ARCHITECTURES.get(architecture)
        or (VELOCITY if kohya in ("sd_v1_v", "sd_v2_v") else None)
    )


@dataclass(frozen=True)
class Mismatch:
    """Two bases, by name, that do not predict the same. A prediction is None if nothing tells it; noise is then the rule."""

    source: str
    of_source: str | None
    target: str
    of_target: str | None


def mismatch(of_source: str | None, source: str, of_target: str | None, target: str) -> Mismatch | None:
    """Return what the bases predict, if that is not the same."""
    if (of_source or NOISE) == (of_target or NOISE):
        return None
    return Mismatch(source, of_source, target, of_target)


def _of_yaml(path: Path) -> str | None:
    """What a ``.yaml`` says: ldm's ``parameterization``, or the scaling of sgm's denoiser."""
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


def _of_scheduler(folder: Path) -> str | None:
    """What the scheduler says of a pipeline's folder, or of the ``unet`` folder inside it."""
    places = (base / "scheduler" / "scheduler_config.json" for base in (folder, folder.parent))
    try:
        settings = read_json(next(path for path in places if is_file(path)), "a scheduler's configuration")
        is_edm = settings.get("_class_name", "").startswith("EDM")
        return EDM if is_edm else WORDS.get(settings.get("prediction_type", "epsilon"))
    except (LoraxError, StopIteration, TypeError, AttributeError):
        return None
