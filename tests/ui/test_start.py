"""What the extension imports when the WebUI starts, in a process of its own, where nothing of it is loaded yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")

START = """
import runpy, sys
from pathlib import Path
import gradio, pytest, safetensors.torch, torch  # the WebUI has them by then
from tests.ui.double import Double

host = Double(Path(sys.argv[1]))
host.install(pytest.MonkeyPatch())
assert not any(name.startswith("lorax") for name in sys.modules)
runpy.run_path("scripts/lorax_webui.py")
host.callbacks["settings"]()
host.callbacks["tabs"]()
print(*({"scipy", "diffusers", "transformers"} & sys.modules.keys()))
"""


def test_the_start_imports_nothing_heavy(models: Path) -> None:
    models.rename(models.with_name("Stable-diffusion"))
    command = [sys.executable, "-c", START, str(models.parent)]
    started = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=True)
    assert started.stdout.split() == []
