"""Runs inside the WebUI: writes down the messages that a picture's output shows, which the host's API does not carry.

It also has the host take the bundled models' configuration for SD 1.x's, so that checkpoints without their own share it.
"""

from pathlib import Path

from modules import scripts, sd_models_config
from modules.paths_internal import data_path

sd_models_config.config_default = str(Path(data_path) / "v1-inference.yaml")


class Probe(scripts.Script):
    def title(self):
        return "probe of the tests"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def postprocess(self, p, processed, *args):
        (Path(data_path) / "messages.txt").write_text(processed.comments, encoding="utf-8")
