"""sd-scripts' trainers, and a folder with what their user has: a base, a tokenizer, pictures with captions.

Needs ``LORAX_SD_SCRIPTS_DIR``, a checkout of sd-scripts, and its requirements in the Python that runs the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SCRIPTS = os.environ.get("LORAX_SD_SCRIPTS_DIR", "")
LAUNCH = Path(__file__).with_name("launch.py")
ROOT = LAUNCH.parents[2]
TOKENIZERS = (
    "openai_clip-vit-large-patch14",
    "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "stabilityai_stable-diffusion-2",
)
Trainer = Callable[..., Path]


class Folder:
    def __init__(self, path: Path) -> None:
        from PIL import Image

        from lorax.demo.bundle import BASE, unpack

        self.path, self.tokenizer = path, unpack(path / "checkpoints")
        self.checkpoint = path / "checkpoints" / f"{BASE}.safetensors"
        for name in TOKENIZERS:
            shutil.copytree(self.tokenizer, path / "tokenizers" / name)
        pictures = path / "pictures" / "4_cat"
        pictures.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (64, 64), (60 * number, 100, 200)).save(pictures / f"{number}.png")
            (pictures / f"{number}.txt").write_text("a red cat")

    def train(self, script: str, widths: list[int], base: Path, name: str, *arguments: str, steps: int = 2) -> Path:
        """Run the trainer; return the file that it must have written. ``widths`` are those of the base's UNet."""
        command = [sys.executable, str(LAUNCH), json.dumps(widths), str(Path(SCRIPTS) / script)]
        command += [f"--pretrained_model_name_or_path={base}", f"--tokenizer_cache_dir={self.path / 'tokenizers'}"]
        command += [f"--train_data_dir={self.path / 'pictures'}", "--caption_extension=.txt", "--resolution=64"]
        command += [f"--output_dir={self.path / 'out'}", f"--output_name={name}", "--network_module=lorax.training.kohya"]
        command += ["--learning_rate=1e-2", f"--max_train_steps={steps}", "--train_batch_size=1", "--optimizer_type=AdamW"]
        command += ["--max_data_loader_n_workers=0", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
        self.said = done.stdout + done.stderr
        written = self.path / "out" / f"{name}.safetensors"
        if done.returncode or not written.exists():
            raise AssertionError(self.said[-6000:])
        return written
