"""Runs inside the WebUI, whose API does not carry the messages in a picture's output and cannot reload the UI.

It also has the host take the small models' configurations for those of SD 1.x and SDXL, so that checkpoints without their own
share them; and read prompts for the lab's SDXL, whose text encoders know few words, by the tokenizer of these words. If weights
are in half precision, it has the host cast them as for graphics cards without autocast, since a CPU computes in single
precision only.
"""

import runpy
from contextlib import nullcontext
from pathlib import Path

import open_clip
import torch
from modules import devices, script_callbacks, scripts, sd_hijack_open_clip, sd_models, sd_models_config, shared
from modules.paths_internal import data_path
from safetensors.torch import save_file
from transformers import CLIPTokenizer

sd_models_config.config_default = str(Path(data_path) / "v1-inference.yaml")
sd_models_config.config_sdxl = str(Path(data_path) / "sd_xl_base.yaml")
open_clip.add_model_config(Path(data_path) / "open_clip")


class OpenCLIPOfFewWords(sd_hijack_open_clip.FrozenOpenCLIPEmbedder2WithCustomWords):
    """OpenCLIP with the first text encoder's tokenizer, for a second one that knows no more words than that."""

    def __init__(self, wrapped, hijack):
        super().__init__(wrapped, hijack)
        self.few = CLIPTokenizer.from_pretrained(Path(data_path) / "models/Stable-diffusion/tokenizer")
        if wrapped.model.token_embedding.wrapped.num_embeddings > len(self.few):
            self.few = None
        else:
            self.id_start, self.id_end = self.few.bos_token_id, self.few.eos_token_id
            self.comma_token = self.few.get_vocab()[",</w>"]

    def tokenize(self, texts):
        return self.few(texts, add_special_tokens=False)["input_ids"] if self.few else super().tokenize(texts)


sd_hijack_open_clip.FrozenOpenCLIPEmbedder2WithCustomWords = OpenCLIPOfFewWords


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


def keep_single(model):
    """What the host does not cast, of OpenCLIP."""
    for embedder in getattr(getattr(model, "conditioner", None), "embedders", ()):
        for module in embedder.modules() if "OpenCLIP" in type(embedder).__name__ else ():
            if not isinstance(module, (torch.nn.Linear, torch.nn.MultiheadAttention)):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.float()


if not shared.cmd_opts.no_half:
    devices.dtype = torch.float32  # of a LoRA's factors
    devices.autocast = lambda disable=False: nullcontext() if disable else devices.manual_cast(torch.float32)
    script_callbacks.on_model_loaded(keep_single)
