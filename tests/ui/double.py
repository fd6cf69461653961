"""A stand-in for the WebUI's modules: what ``lorax/hosts/a1111/`` and ``scripts/`` use of them, and no more.

It has the shape of AUTOMATIC1111, of reForge or of Forge and Neo: see ``KINDS``. ``tests/webui/test_double.py`` compares names
and signatures with those of real checkouts.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections import namedtuple
from pathlib import Path
from types import ModuleType as Module
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from PIL import Image

# What the shapes differ in: whether a checkpoint is loaded before the first picture, and the module that manages memory, if the
# WebUI has one. Where there is one, LoRAs are patched in from the tensors of their files, and there are no network types.
KINDS: dict[str, tuple[bool, str]] = {
    "a1111": (False, ""),
    "reforge": (False, "ldm_patched.modules.model_management"),
    "forge": (True, "backend.memory_management"),
}
TOKENIZERS = {"reforge": "sd1_tokenizer", "forge": "huggingface/runwayml/stable-diffusion-v1-5/tokenizer"}
in_each_shape = pytest.mark.parametrize("double", KINDS, indirect=True)  # without it, a test has A1111's
EXTENSION = ("networks", "network", "network_lora")  # modules of the built-in extension


class CheckpointInfo:
    def __init__(self, filename):
        self.filename, self.name, self.sha256 = filename, Path(filename).name, None


class NetworkOnDisk:
    def __init__(self, name, filename):
        self.name, self.filename, self.alias, self.metadata = name, filename, f"{name} by its author", {}

    def get_alias(self):
        return self.name  # as the setting "When adding to prompt, refer to Lora by" may say


class OptionInfo:
    def __init__(self, default=None, label="", component=None, component_args=None, onchange=None, section=None):
        self.default, self.label, self.component, self.component_args, self.section = (
            default,
            label,
            component,
            component_args,
            section,
        )
        self.comment_after = ""

    def info(self, info):
        self.comment_after += info
        return self

    def needs_reload_ui(self):
        return self


class Options:
    def __init__(self, **data):
        self.data, self.data_labels = data, {}

    def __getattr__(self, item):
        return self.data[item]

    def add_option(self, key, info):
        self.data_labels[key] = info

    def set(self, key, value, is_api=False, run_callbacks=True):
        self.data[key] = value
        return True

    def save(self, filename):
        Path(filename).write_text(json.dumps(self.data), encoding="utf-8")


class State:
    interrupted = skipped = stopping_generation = False
    job_count, job_no, textinfo, job = 0, 0, None, ""

    def begin(self, job="(unknown)"):
        self.job, self.interrupted = job, False

    def end(self):
        self.job = ""

    def interrupt(self):
        self.interrupted = True


class FakeInitialModel:
    """What a lazy WebUI has before the first picture."""


class Script:
    pass


class ModuleType:
    pass


class NetworkModuleLora:
    pass


class ScriptRunner:
    def __init__(self):
        self.alwayson_scripts = []


class SdSamplerData:
    def __init__(self, name):
        self.name = name


class Scheduler:
    def __init__(self, label):
        self.label = label


class AxisOption:
    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


NetworkWeights = namedtuple("NetworkWeights", ["network_key", "sd_key", "w", "sd_module"])


class StableDiffusionProcessing:
    cached_c: ClassVar = [None, None]
    cached_uc: ClassVar = [None, None]


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    cached_hr_c: ClassVar = [None, None]
    cached_hr_uc: ClassVar = [None, None]
    scripts, script_args = None, {}  # which has no slices, as scripts want them

    def __init__(self, **given):
        self.given = given

    def close(self):
        pass


class Double:
    """The modules by name.

    ``callbacks`` are those that were registered, ``drawn`` is what pictures were asked for, and ``comments`` what the host says
    of one. ``reloaded`` counts loads of the chosen checkpoint, ``returns`` names those of a certain one, ``temporary`` counts
    what is done for the folder of temporary files, and ``made_room`` is what the memory manager did.
    """

    def __init__(self, models: Path, kind: str = "a1111") -> None:
        self.kind = kind
        checkpoints, loras = models / "Stable-diffusion", models / "Lora"
        self.callbacks: dict[str, Any] = {}
        self.reloaded = self.temporary = 0
        self.returns: list[str] = []
        self.drawn: list[dict] = []
        self.opened: list[str] = []  # folders
        self.comments = ""
        self.plot = SimpleNamespace(AxisOption=AxisOption, axis_options=[AxisOption("Nothing", str, None)])  # of the X/Y/Z plot
        infos = self.infos = [CheckpointInfo(str(path)) for path in sorted(checkpoints.glob("*.safetensors"))]

        def on_ui_tabs(callback, *, name=None):
            self.callbacks["tabs"] = callback

        def on_ui_settings(callback, *, name=None):
            self.callbacks["settings"] = callback

        def on_app_started(callback, *, name=None):
            self.callbacks["started"] = callback

        def on_before_ui(callback, *, name=None):
            self.callbacks["before_ui"] = callback

        def visible_samplers():
            return [SdSamplerData("DPM++ 2M"), SdSamplerData("DDIM")]

        def list_models():
            pass

        def get_closet_checkpoint_match(search_string):
            return next((info for info in infos if info.name == search_string), None)

        def reload_model_weights(sd_model=None, info=None, forced_reload=False):
            self.reloaded += 1
            self.returns += [info.name] if info else []

        def torch_gc():
            pass

        class SkipWritingToConfig:
            def __enter__(self):
                return self

            def __exit__(self, exc_type, exc_value, exc_traceback):
                pass

        def apply_unet(option=None):
            pass

        def process_images(p):
            self.drawn.append({**p.given, "scripts": p.scripts, "script_args": p.script_args})
            return SimpleNamespace(images=[Image.new("RGB", (8, 8))], comments=self.comments)

        queue_lock, state = threading.Lock(), State()

        def on_tmpdir_changed():
            self.temporary += 1

        def open_folder(path):
            self.opened.append(path)

        def list_available_networks():
            found = {path.stem: NetworkOnDisk(path.stem, str(path)) for path in sorted(loras.rglob("*.safetensors"))}
            self.modules["networks"].available_networks.clear()
            self.modules["networks"].available_networks.update(found)
            aliases = self.modules["networks"].available_network_aliases
            aliases.clear()
            aliases.update({name: network for network in found.values() for name in (network.name, network.alias)})

        contents: dict[str, dict[str, Any]] = {
            "script_callbacks": {
                "on_ui_tabs": on_ui_tabs,
                "on_ui_settings": on_ui_settings,
                "on_app_started": on_app_started,
                "on_before_ui": on_before_ui,
            },
            "call_queue": {"queue_lock": queue_lock},
            "devices": {"device": SimpleNamespace(type="cpu"), "torch_gc": torch_gc},
            "paths_internal": {"models_path": str(models), "data_path": str(models / "data")},
            "processing": {
                "StableDiffusionProcessing": StableDiffusionProcessing,
                "StableDiffusionProcessingTxt2Img": StableDiffusionProcessingTxt2Img,
                "process_images": process_images,
            },
            "scripts": {
                "ScriptRunner": ScriptRunner,
                "Script": Script,
                "AlwaysVisible": object(),
                "scripts_txt2img": ScriptRunner(),
                "scripts_data": [SimpleNamespace(module=SimpleNamespace()), SimpleNamespace(module=self.plot)],
            },
            "sd_samplers": {"visible_samplers": visible_samplers},
            "sd_schedulers": {"schedulers": [Scheduler("Automatic"), Scheduler("Karras")]},
            "sd_models": {
                "checkpoints_list": {info.name: info for info in infos},
                "model_data": SimpleNamespace(sd_model=SimpleNamespace(sd_checkpoint_info=infos[0])),
                "list_models": list_models,
                "get_closet_checkpoint_match": get_closet_checkpoint_match,
                "reload_model_weights": reload_model_weights,
                "SkipWritingToConfig": SkipWritingToConfig,
            },
            "sd_unet": {"apply_unet": apply_unet},
            "ui_tempdir": {"on_tmpdir_changed": on_tmpdir_changed},
            "shared": {
                "cmd_opts": SimpleNamespace(lora_dir=str(loras), hide_ui_dir_config=False, webui_is_non_local=False),
                "opts": Options(sd_model_checkpoint=infos[0].name),
                "state": state,
                "OptionInfo": OptionInfo,
                "config_filename": str(models / "config.json"),
            },
            "util": {"open_folder": open_folder},
            "networks": {
                "available_networks": {},
                "available_network_aliases": {},
                "list_available_networks": list_available_networks,
                "loaded_networks": [],
                "module_types": [],
            },
            "network": {"ModuleType": ModuleType, "NetworkWeights": NetworkWeights},
            "network_lora": {"NetworkModuleLora": NetworkModuleLora},
        }
        self._shape(contents, models)
        self.modules = {name: Module(name) for name in contents}
        for name, content in contents.items():
            vars(self.modules[name]).update(content)
        list_available_networks()

    def _shape(self, contents: dict[str, dict[str, Any]], models: Path) -> None:
        """Give the modules the shape of the kind."""
        lazy, manager = KINDS[self.kind]
        self.made_room: list[str] = []
        if not manager:
            return

        def load_lora_state_dict(filename):
            return {}

        def unload_all_models():
            self.made_room.append("unloaded")

        def soft_empty_cache(force=False):
            self.made_room.append("emptied")

        file = models / "host" / "memory.py"
        tokenizer = file.parent / TOKENIZERS[self.kind]
        shutil.copytree(models / "Stable-diffusion" / "tokenizer", tokenizer, dirs_exist_ok=True)  # a folder that was used before
        contents[manager] = {"unload_all_models": unload_all_models, "soft_empty_cache": soft_empty_cache, "__file__": str(file)}
        del contents["networks"]["module_types"], contents["network_lora"], contents["network"]
        contents["networks"]["load_lora_state_dict"] = load_lora_state_dict
        if lazy:
            loading = {"checkpoint_info": self.infos[0]}
            data = SimpleNamespace(sd_model=FakeInitialModel(), forge_loading_parameters=loading)
            contents["sd_models"]["model_data"] = data
            del contents["sd_models"]["reload_model_weights"], contents["sd_models"]["SkipWritingToConfig"]  # Neo has none

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        package = Module("modules")
        monkeypatch.setitem(sys.modules, "modules", package)
        for name, module in self.modules.items():
            if name in EXTENSION or name == KINDS[self.kind][1]:
                monkeypatch.setitem(sys.modules, name, module)
            else:
                setattr(package, name, module)
                monkeypatch.setitem(sys.modules, f"modules.{name}", module)
        for name in [name for name in sys.modules if name.startswith("lorax.hosts.a1111")]:  # they bind them on import
            monkeypatch.delitem(sys.modules, name)
