"""The doubles of the WebUI's modules offer names and signatures of a real checkout, and no others."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from lorax.demo.bundle import unpack
from tests import network_double
from tests.ui import double
from tests.webui.server import INSTALLATION, needs_webui

pytestmark = needs_webui

CLASSES = {
    double.CheckpointInfo: "modules/sd_models.py",
    double.OptionInfo: "modules/options.py",
    double.Options: "modules/options.py",
    double.ScriptRunner: "modules/scripts.py",
    double.State: "modules/shared_state.py",
    double.AxisOption: "scripts/xyz_grid.py",
    double.NetworkOnDisk: "extensions-builtin/Lora/network.py",
}


def source(path: str) -> ast.Module:
    return ast.parse((INSTALLATION / path).read_text(encoding="utf-8"))


def class_of(path: str, name: str) -> ast.ClassDef:
    (found,) = (node for node in source(path).body if isinstance(node, ast.ClassDef) and node.name == name)
    return found


def signature(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def real_signature(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]


def assert_offered(path: str, module: Any) -> None:
    """The real module has all that its stand-in has, and its functions take the same."""
    tree = source(path)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    assigned = {target.id for target in targets if isinstance(target, ast.Name)}
    for entry, value in vars(module).items():
        if entry.startswith("__"):
            continue
        assert entry in functions.keys() | classes | assigned, f"{path} has no {entry}"
        if entry in functions:
            assert signature(value) == real_signature(functions[entry]), f"{path}: {entry}"


def test_modules(tmp_path: Path) -> None:
    unpack(tmp_path / "Stable-diffusion")
    for name, module in double.Double(tmp_path).modules.items():
        assert_offered("extensions-builtin/Lora/networks.py" if name == "networks" else f"modules/{name}.py", module)


def test_modules_of_the_network_type(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = network_double.Host(monkeypatch)
    for name, module in stand_in.modules.items():
        if name != "modules":
            folder, _, file = name.rpartition(".")
            assert_offered(f"{folder or 'extensions-builtin/Lora'}/{file}.py", module)
    fields = list(network_double.Weights._fields)
    assert f"NetworkWeights = namedtuple('NetworkWeights', {fields})" in ast.unparse(source("extensions-builtin/Lora/network.py"))
    for path, name, module in (
        ("modules/shared_state.py", "State", stand_in.state),
        ("modules/processing.py", "StableDiffusionProcessingTxt2Img", stand_in.encoded),
    ):
        text = ast.unparse(class_of(path, name)) + ast.unparse(class_of("modules/processing.py", "StableDiffusionProcessing"))
        assert all(entry in text for entry in vars(module)), path
    assert "mentioned_name" in ast.unparse(class_of("extensions-builtin/Lora/network.py", "Network"))


@pytest.mark.parametrize(("stand_in", "path"), CLASSES.items())
def test_classes(stand_in: type, path: str) -> None:
    real = class_of(path, stand_in.__name__)
    methods = {node.name: node for node in real.body if isinstance(node, ast.FunctionDef)}
    for name, method in inspect.getmembers(stand_in, inspect.isfunction):
        if name.startswith("__"):
            continue
        assert signature(method) == real_signature(methods[name]), f"{path}: {stand_in.__name__}.{name}"
    text = ast.unparse(real)
    attributes = {name for name in vars(stand_in) if not name.startswith("_") and name not in methods}
    assert all(name in text for name in attributes)
