"""What the extension adds to the WebUI's start, in a process of its own, where nothing of it is loaded yet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

gradio = pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")

ROOT = Path(__file__).resolve().parents[2]
START = """
import gc, runpy, sys, time
from pathlib import Path
import gradio, pytest, safetensors.torch, sqlite3, torch  # the WebUI has them by then
from tests.ui.double import Double

host = Double(Path(sys.argv[1]), sys.argv[2])
host.install(pytest.MonkeyPatch())
assert not any(name.startswith("lorax") for name in sys.modules)
with gradio.Blocks():
    gradio.HTML()  # as the WebUI has built its own page by then
gc.disable()  # a collection of all that the WebUI holds is not ours
began = time.process_time()
runpy.run_path("scripts/lorax_webui.py")
host.callbacks["settings"]()
host.callbacks["tabs"]()
spent = time.process_time() - began
print(spent, *({"scipy", "diffusers", "transformers"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("kind", ["a1111", "forge"])  # with network types, and with LoRAs that are patched in
def test_the_start_is_quick_and_imports_nothing_heavy(models: Path, kind: str) -> None:
    models.rename(models.with_name("Stable-diffusion"))
    command = [sys.executable, "-c", START, str(models.parent), kind]
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds = []
    for _ in range(3):  # the first may compile our modules; a busy machine lengthens the seconds of computing, too
        started = subprocess.run(command, cwd=ROOT, env=compiled, capture_output=True, text=True)
        assert started.returncode == 0, started.stderr
        spent, *heavy = started.stdout.split()
        assert heavy == []
        seconds.append(float(spent))
        is_third = gradio.__version__.startswith("3.")  # version 4 imports matplotlib for any table, by itself more than this
        if seconds[-1] < 0.3 or not is_third:
            return
    pytest.fail(f"{min(seconds):.2f} seconds of computing that the WebUI's start would take longer")
