"""Our runner in WebUIs that manage the memory of their models by themselves: Forge, Neo, reForge."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from lorax.checkpoint import open_checkpoint
from lorax.demo.bundle import unpack

pytest.importorskip("diffusers", reason="needs diffusers")
MANAGERS = {
    "backend.memory_management": "huggingface/runwayml/stable-diffusion-v1-5/tokenizer",
    "ldm_patched.modules.model_management": "sd1_tokenizer",
}


@pytest.mark.parametrize(("manager", "tokenizer"), MANAGERS.items())
def test_a_base_runs_with_the_webuis_tokenizer_after_it_made_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: str, tokenizer: str
) -> None:
    """The WebUI loads models in inference mode, in which nothing can be trained; the runner's are not."""
    unpack(tmp_path)
    shutil.move(tmp_path / "tokenizer", tmp_path / "host" / tokenizer)
    done: list[str] = []
    module: Any = ModuleType(manager)
    module.__file__ = str(tmp_path / "host" / "memory.py")
    module.unload_all_models, module.soft_empty_cache = lambda: done.append("unloaded"), lambda: done.append("emptied")
    package: Any = ModuleType("modules")
    package.devices = SimpleNamespace(device=torch.device("cpu"))
    for name, made in {manager: module, "modules": package, "modules.devices": package.devices}.items():
        monkeypatch.setitem(sys.modules, name, made)
    monkeypatch.delitem(sys.modules, "lorax.hosts.a1111.runners", raising=False)
    from lorax.hosts.a1111.runners import HostRunners, manages_memory

    assert manages_memory()
    with torch.inference_mode(), HostRunners().opened(open_checkpoint(tmp_path / "base.safetensors")) as model:
        assert done == ["unloaded", "emptied"]
        with torch.no_grad():
            conditioning = model.encode(["cat face"])
        factor = torch.ones((), requires_grad=True)
        predicted = model.predict(factor * torch.ones(1, 4, 8, 8), torch.tensor(500), conditioning)
        predicted.square().mean().backward()
    assert factor.grad is not None
    assert factor.grad.isfinite()
