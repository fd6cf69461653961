"""A real WebUI, started headless on the CPU over a data folder of its own, so that the installation is not changed."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lorax.demo import bundle
from tests.webui.checkout import HAS_TYPES, KIND, PROBE, PYTHON, known_flags

ROOT = Path(__file__).resolve().parents[2]
STARTED, PATIENCE, START = "Startup time", 200, 900  # seconds: for an answer, and for a start
PICTURE = {"prompt": "cat face", "seed": 7, "steps": 3, "width": 64, "height": 64, "cfg_scale": 3.0, "sampler_name": "DDIM"}


class WebUI:
    """``with WebUI(installation, folder) as webui``: with the bundled models, and this checkout installed as extension.

    ``base`` and ``finetune`` share a configuration, as checkpoints of a family do: the host switches between them in place.
    """

    def __init__(self, installation: Path, data: Path, *flags: str, half: bool = False) -> None:
        self.data, self.checkpoints, self.loras = data, data / "models" / "Stable-diffusion", data / "models" / "Lora"
        self.log = data / "log.txt"
        bundle.unpack(self.checkpoints)
        configs = [self.checkpoints / f"{name}.yaml" for name in (bundle.BASE, bundle.FINETUNE)]
        shutil.copy(configs[0], data / "v1-inference.yaml")  # the probe makes it the default
        for config in configs if HAS_TYPES else ():  # elsewhere our runner runs them, which reads each one's own
            config.unlink()
        self.loras.mkdir()
        (data / "extensions").mkdir()
        (data / "extensions" / "lorax").symlink_to(ROOT)
        (data / "extensions" / "probe" / "scripts").mkdir(parents=True)
        for probe in (PROBE.with_name("probe.py"), PROBE):
            shutil.copy(probe, data / "extensions" / "probe" / "scripts")
        preview = {"show_progress_type": "Approx cheap"}  # the other kinds have a model downloaded
        known = {"sd_model_checkpoint": "base.safetensors", "samples_save": False, "grid_save": False, "temp_dir": ""}
        (data / "config.json").write_text(json.dumps(known | preview))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._command = [PYTHON, "launch.py", *known_flags(), "--api", "--server-name", "127.0.0.1", "--port", str(self._port)]
        # A CPU computes in single precision only; the probe has it do so with weights in half precision.
        precision = ["--precision", "full"] if half else ["--no-half"]
        self._command += ["--data-dir", data, *(precision if HAS_TYPES else []), *flags]
        self._installation = installation
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def __enter__(self) -> WebUI:
        # One thread: with more, pictures may differ in the last bit. SD_WEBUI_RESTARTING: no browser is opened.
        quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "SD_WEBUI_RESTARTING": "1"}
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        with self.log.open("w") as log:
            where = {"cwd": self._installation, "env": os.environ | quiet | offline}
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=log, stderr=log, **where)
        assert self._process.stdin
        self._process.stdin.write(b"\n")  # Enter, which Neo wants if a folder's settings do not name its version
        self._process.stdin.close()
        self._wait(starts=1)
        return self

    def reload(self) -> None:
        """What the button Reload UI does."""
        starts = self.log.read_text().count(STARTED)
        self.call("probe/reload", {})
        self._wait(starts + 1)

    def _wait(self, starts: int) -> None:
        """An earlier request would end the start."""
        deadline = time.monotonic() + START
        while self.log.read_text().count(STARTED) < starts or not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError(f"the WebUI did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.5)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            self._knock()
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def _knock(self) -> None:
        self.call("sdapi/v1/options")

    def call(self, path: str, data: dict[str, Any] | None = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/{path}", body, {"Content-Type": "application/json"})
        with self._open(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def options(self, **values: Any) -> None:
        """Change settings. A test of one that the WebUI does not have is skipped."""
        if lacking := values.keys() - self.settings().keys():
            pytest.skip(f"this WebUI has no setting {', '.join(lacking)}")
        self.call("sdapi/v1/options", values)

    def settings(self) -> dict[str, Any]:
        """The values of all settings by name."""
        return dict(self.call("probe/settings"))

    def load(self, checkpoint: str) -> None:
        self.options(sd_model_checkpoint=checkpoint)

    def hires(self) -> dict[str, Any]:
        """What asks for hires fix, by an upscaler that the WebUI has."""
        latent = [mode["name"] for mode in self.call("sdapi/v1/latent-upscale-modes")]
        asked = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": latent[0] if latent else "None", "hr_second_pass_steps": 2}
        modules = {"hr_additional_modules": ["Use same choices"]} if KIND == "forge" else {}  # of the second pass
        return asked | modules | {"denoising_strength": 0.7}

    def draw(self, tags: str = "", job: str = "txt2img", **more: Any) -> Drawn:
        """What the prompt with these network tags gives."""
        (self.data / "messages.txt").unlink(missing_ok=True)
        asked = PICTURE | more
        if tags:
            asked["prompt"] = f"{asked['prompt']} {tags}"
        answer = self.call(f"sdapi/v1/{job}", asked)
        pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB"), int) for one in answer["images"]]
        return Drawn(np.stack(pictures), answer["images"][0], json.loads(answer["info"])["infotexts"][0], self._messages())

    def _messages(self) -> str:
        path = self.data / "messages.txt"
        return path.read_text(encoding="utf-8") if path.is_file() else ""


class Drawn:
    """The pictures (N, H, W, 3) of one request, the first one as base64, its infotext, and the messages in the UI's output."""

    def __init__(self, pictures: np.ndarray, encoded: str, infotext: str, messages: str) -> None:
        self.pictures, self.encoded, self.infotext, self.messages = pictures, encoded, infotext, messages

    def distance(self, other: Drawn) -> int:
        """Distance of two pictures in grey levels, at the pixel that differs most."""
        assert self.pictures.shape == other.pictures.shape
        return int(abs(self.pictures - other.pictures).max())
