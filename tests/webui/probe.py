"""Runs inside the WebUI, whose API cannot reload the UI, tells no messages of an output, and in Forge not all settings.

What a WebUI needs besides to draw with the small models is in ``probe_a1111.py`` and ``probe_forge.py``.
"""

import runpy
from pathlib import Path

import torch
from modules import script_callbacks, scripts, sd_models, shared
from modules.paths_internal import data_path
from safetensors.torch import save_file


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

    @app.get("/probe/settings")
    def settings():
        """Every setting's value. Forge makes the API's list of them before any extension has added its own."""
        return {name: shared.opts.data.get(name, info.default) for name, info in shared.opts.data_labels.items()}

    @app.get("/probe/hooks")
    def hooks():
        """How often we are in the built-in extension Lora, by whichever way."""
        import networks

        if hasattr(networks, "module_types"):
            return sum(type(kind).__name__ == "ModuleTypeLorax" for kind in networks.module_types)
        found, function = 0, networks.load_lora_state_dict
        while hasattr(function, "lorax_original"):
            found, function = found + 1, function.lorax_original
        return found

    @app.post("/probe/decode")
    def decode(asked: dict):
        """What the network adds to each layer's weight, in a file whose path is returned."""
        import networks

        name = asked["network"]
        networks.list_available_networks()
        network = networks.load_network(name, networks.available_networks[name])
        with torch.no_grad():
            deltas = {key: module.calc_updown(weight(key, module.sd_module))[0] for key, module in network.modules.items()}
        path = Path(data_path) / f"{name}-decoded.safetensors"
        save_file({key: delta.contiguous() for key, delta in deltas.items()}, path)
        return str(path)

    @app.post("/probe/compute")
    def compute(asked: dict):
        """What a base computes, run by what the host offers for it, in a file whose path is returned; or why it cannot be.

        If ``unread``, there is no memory for reading it.
        """
        from lorax.checkpoint import open_checkpoint
        from lorax.errors import LoraxError
        from lorax.hosts.a1111.host import A1111

        computed = runpy.run_path(str(Path(data_path) / "extensions/lorax/tests/webui/computed.py"))["computed"]

        def work(progress):
            with A1111().models().opened(open_checkpoint(asked["base"])) as model:
                return computed(model, Path(asked["lora"]))

        read = sd_models.get_checkpoint_state_dict
        if asked.get("unread"):

            def fail(info, timer):
                if info.filename == asked["base"]:
                    raise MemoryError("no room")
                return read(info, timer)

            sd_models.get_checkpoint_state_dict = fail
        path = Path(data_path) / "computed.safetensors"
        try:
            save_file(A1111().run(work, lambda done, total, text: None), path)
        except LoraxError as error:
            return str(error)
        finally:
            sd_models.get_checkpoint_state_dict = read
        return str(path)


def weight(key, module):
    """Return a layer's weight. OpenCLIP's attention keeps q, k and v in one, of which it is a third."""
    if isinstance(module, torch.nn.MultiheadAttention):
        return module.in_proj_weight.chunk(3)["qkv".index(key.removesuffix("_proj")[-1])]
    return module.weight


script_callbacks.on_app_started(add_routes)
