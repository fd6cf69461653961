"""The network type on a stand-in for the WebUI. ``tests/webui/test_network_type.py`` draws with the real one."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lab.writing import save_lorax
from lorax.checkpoint import open_checkpoint
from lorax.files import Cache
from lorax.formats import open_adapter
from lorax.options import Options
from lorax.transfer import plan
from tests import builders
from tests.network_double import Host, Loaded, Weights
from tests.samples import Files


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


@pytest.fixture
def script(host: Host) -> Any:
    from lorax.hosts.a1111 import network

    return network.register(lambda: Cache(None, 0, 1 << 30))


@pytest.fixture
def file(files: Files, out: Path) -> Path:
    base = open_checkpoint(files.base)
    save_lorax(plan(open_adapter(files.lora), base, base, Options("lorax", rank="50%", threshold=0.0)), out / "x.safetensors")
    return out / "x.safetensors"


def loaded(host: Host, file: Path) -> Any:
    """Load a network as the host does: it asks the types in order for each layer's module."""
    net: Any = Loaded()
    net.name = net.mentioned_name = file.stem
    net.mtime = file.stat().st_mtime
    net.network_on_disk = SimpleNamespace(filename=str(file), metadata=builders.header(file))
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(file).items():
        name, _, part = key.partition(".")
        layers.setdefault(name, {})[part] = tensor
    kind = host.networks.module_types[0]
    net.modules = {name: kind.create_module(net, Weights(name, name, parts, None)) for name, parts in layers.items()}
    return net


def test_registering_again_replaces_the_type_and_it_is_asked_first(host: Host, script: type) -> None:
    from lorax.hosts.a1111 import network

    network.register(lambda: Cache(None, 0, 0))
    assert [type(kind).__name__ for kind in host.networks.module_types] == ["ModuleTypeLorax", "str"]


@pytest.mark.parametrize("networks", [None, ModuleType("networks")], ids=["disabled", "another's"])
def test_in_a_host_without_network_types_there_is_nothing_to_register(
    monkeypatch: pytest.MonkeyPatch, networks: ModuleType | None
) -> None:
    from lorax.hosts.a1111 import network

    monkeypatch.setitem(sys.modules, "networks", networks)  # type: ignore[arg-type]
    assert network.register(lambda: Cache(None, 0, 0)) is None


def test_plain_loras_are_left_to_the_host(host: Host, script: type, files: Files) -> None:
    net = loaded(host, files.lora)
    assert set(net.modules.values()) == {None}
    host.load(files.base)
    assert host.activate(script, net) == []
    assert not host.applied_anew


def test_a_plain_lora_whose_file_was_replaced_is_applied_anew(host: Host, script: type, files: Files, out: Path) -> None:
    """As by a transfer with *Replace*: the WebUI reads the file, but compares names alone before it changes weights."""
    host.load(files.base)
    lora = out / "plain.safetensors"
    shutil.copyfile(files.lora, lora)
    for _ in range(2):
        host.activate(script, loaded(host, lora))
    assert not host.applied_anew
    os.utime(lora, (0, lora.stat().st_mtime + 1))
    host.activate(script, loaded(host, lora))
    assert host.applied_anew
    assert host.encoded.cached_c == [None, None]


@pytest.mark.parametrize("kind", ["base", "target", "pruned"])
def test_the_placeholders_give_way_to_the_fitted_layers(host: Host, script: type, files: Files, file: Path, kind: str) -> None:
    host.know(files.base, files.target, files.pruned)
    host.load(getattr(files, kind))
    net = loaded(host, file)
    placeholder = next(iter(net.modules.values()))
    with pytest.raises(RuntimeError, match="not fitted"):
        placeholder.calc_updown(torch.zeros(1))
    assert host.activate(script, net) == []
    assert net.modules
    for name, weights in net.modules.items():
        assert weights.sd_module is host.shared.sd_model.network_layer_mapping[name]
        assert set(weights.w) == {"lora_up.weight", "lora_down.weight", "alpha"}
    assert host.state.textinfo is None
    assert host.applied_anew
    assert host.encoded.cached_c == [None, None]


def test_nothing_is_done_again_until_the_checkpoint_changes(host: Host, script: type, files: Files, file: Path) -> None:
    host.know(files.base)
    host.load(files.target)
    net = loaded(host, file)
    host.activate(script, net)
    first = net.modules
    for module in host.shared.sd_model.network_layer_mapping.values():
        module.network_current_names = (("x", 1.0),)
    host.activate(script, net)
    assert net.modules is first
    assert not host.applied_anew
    host.load(files.pruned)
    host.activate(script, net)
    assert net.modules is not first


def test_a_missing_source_is_told_at_every_prompt_until_it_is_there(host: Host, script: type, files: Files, file: Path) -> None:
    host.load(files.target)
    net = loaded(host, file)
    for _ in range(2):
        assert ["applied by name, since base.safetensors" in message for message in host.activate(script, net)] == [True]
    host.know(files.base)
    assert host.activate(script, net) == []


def test_interrupt_leaves_the_network_out_and_the_next_prompt_fits_it(host: Host, script: type, files: Files, file: Path) -> None:
    host.know(files.base)
    host.load(files.target)
    net = loaded(host, file)
    host.state.interrupted = True
    assert host.activate(script, net) == ["LoRA-X, x: not applied: interrupted."]
    assert net.modules == {}
    host.state.interrupted = False
    assert host.activate(script, net) == []
    assert net.modules


def test_what_goes_wrong_is_told_and_does_not_stop_the_picture(
    host: Host, script: type, files: Files, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorax.workflow import Fitter

    host.load(files.target)
    net = loaded(host, file)
    monkeypatch.setattr(Fitter, "fit", lambda *_: 1 / 0)
    assert host.activate(script, net) == [
        "LoRA-X, x: not applied. An unexpected error (ZeroDivisionError: division by zero). "
        "Please report it, with what the console says."
    ]
    assert net.modules == {}
    file.unlink()
    assert "No such file" in host.activate(script, net)[0]


def test_a_full_graphics_card_is_worked_around(
    host: Host, script: type, files: Files, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorax.workflow import Fit, Fitter

    asked = []

    def fit(self: Fitter, file: Path, target: Path, device: str, progress: object) -> Fit:
        asked.append(device)
        if device != "cpu":
            raise torch.cuda.OutOfMemoryError
        return Fit({})

    sys.modules["modules.devices"].device = torch.device("cuda")  # type: ignore[attr-defined]
    monkeypatch.setattr(Fitter, "fit", fit)
    host.load(files.target)
    assert host.activate(script, loaded(host, file)) == []
    assert asked == ["cuda", "cpu"]


@pytest.mark.parametrize(("wanted", "expected"), [("auto", "cuda"), ("cpu", "cpu")])
def test_the_device_of_the_settings_page_fits(
    host: Host, files: Files, file: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, expected: str
) -> None:
    from lorax.hosts.a1111 import network
    from lorax.workflow import Fit, Fitter

    asked = []
    monkeypatch.setattr(Fitter, "fit", lambda self, file, target, device, progress: asked.append(device) or Fit({}))
    sys.modules["modules.devices"].device = torch.device("cuda")  # type: ignore[attr-defined]
    script: Any = network.register(lambda: Cache(None, 0, 0), lambda: wanted)
    host.load(files.target)
    host.activate(script, loaded(host, file))
    assert asked == [expected]


@pytest.mark.parametrize(
    ("layer", "network", "module"),
    [
        ("unet.output_blocks.2.2.conv", "diffusion_model_output_blocks_2_2_conv", ""),
        ("te.text_model.encoder.layers.0.self_attn.q_proj", "transformer_text_model_encoder_layers_0_self_attn_q_proj", ""),
        ("te1.text_model.encoder.layers.0.mlp.fc1", "0_transformer_text_model_encoder_layers_0_mlp_fc1", ""),
        ("te2.text_model.encoder.layers.31.mlp.fc1", "1_model_transformer_resblocks_31_mlp_c_fc", ""),
        ("te2.text_model.encoder.layers.31.mlp.fc2", "1_model_transformer_resblocks_31_mlp_c_proj", ""),
        ("te2.text_model.encoder.layers.1.self_attn.out_proj", "1_model_transformer_resblocks_1_attn_out_proj", ""),
        (
            "te2.text_model.encoder.layers.1.self_attn.k_proj",
            "1_model_transformer_resblocks_1_attn_k_proj",
            "1_model_transformer_resblocks_1_attn",
        ),
    ],
)
def test_the_hosts_names(host: Host, layer: str, network: str, module: str) -> None:
    from lorax.hosts.a1111.network.module_type import names_of

    assert names_of(layer) == (network, module or network)
