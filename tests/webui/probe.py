"""Runs inside the WebUI, whose API does not carry the messages in a picture's output and cannot reload the UI.

It also has the host take the bundled models' configuration for SD 1.x's, so that checkpoints without their own share it.
"""

from pathlib import Path

from modules import script_callbacks, scripts, sd_models_config, shared
from modules.paths_internal import data_path

sd_models_config.config_default = str(Path(data_path) / "v1-inference.yaml")


class Probe(scripts.Script):
    def title(self):
        return "probe of the tests"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def postprocess(self, p, processed, *args):
        (Path(data_path) / "messages.txt").write_text(processed.comments, encoding="utf-8")


def add_routes(demo, app):
    @app.post("/probe/reload")
    def reload():
        shared.state.request_restart()

    @app.get("/probe/network-types")
    def network_types():
        import networks

        return [type(kind).__name__ for kind in networks.module_types]


script_callbacks.on_app_started(add_routes)
