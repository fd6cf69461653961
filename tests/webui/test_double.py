"""The doubles of the WebUI's modules offer names and signatures of real checkouts, and no others.

``LORAX_WEBUI_DIR`` names one of AUTOMATIC1111, and ``LORAX_FORKS_DIR`` any of Forge, Forge Neo and reForge, with the system's
separator of paths between them. They are read, not run.
"""

from __future__ import annotations

import ast
import inspect
import os
from pathlib import Path
from typing import Any

import pytest

from lorax.demo.bundle import unpack
from tests import network_double
from tests.ui import double
from tests.webui.checkout import INSTALLATION, extension, kind_of, needs_types, needs_webui

FORKS = [Path(folder) for folder in os.environ.get("LORAX_FORKS_DIR", "").split(os.pathsep) if folder]
CHECKOUTS = [*([] if Path() == INSTALLATION else [INSTALLATION]), *FORKS]
pytestmark = pytest.mark.skipif(
    not CHECKOUTS, reason="neither LORAX_WEBUI_DIR nor LORAX_FORKS_DIR is set: doubles are not compared"
)
CLASSES = {
    double.CheckpointInfo: "modules/sd_models.py",
    double.OptionInfo: "modules/options.py",
    double.Options: "modules/options.py",
    double.ScriptRunner: "modules/scripts.py",
    double.State: "modules/shared_state.py",
    double.AxisOption: "scripts/xyz_grid.py",
    double.NetworkOnDisk: "extensions-builtin/Lora/network.py",
}


def source(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def class_of(path: Path, name: str) -> ast.ClassDef:
    (found,) = (node for node in source(path).body if isinstance(node, ast.ClassDef) and node.name == name)
    return found


def signature(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def real_signature(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]


def assert_offered(path: Path, module: Any) -> None:
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


@pytest.mark.parametrize("checkout", CHECKOUTS, ids=str)
def test_modules(checkout: Path, tmp_path: Path) -> None:
    unpack(tmp_path / "Stable-diffusion")
    for name, module in double.Double(tmp_path, kind_of(checkout)).modules.items():
        if name in double.EXTENSION:
            assert_offered(checkout / extension(checkout) / f"{name}.py", module)
        else:
            folder, _, file = f"modules.{name}".rpartition(".") if "." not in name else name.rpartition(".")
            assert_offered(checkout / folder.replace(".", "/") / f"{file}.py", module)


@pytest.mark.parametrize("checkout", CHECKOUTS, ids=str)
def test_a_lazy_webui_lacks_what_its_double_lacks(checkout: Path, tmp_path: Path) -> None:
    """What a WebUI loads for a picture, and what may be missing before it, are why there is a lazy shape at all."""
    networks = ast.unparse(source(checkout / extension(checkout) / "networks.py"))
    models = ast.unparse(source(checkout / "modules" / "sd_models.py"))
    lazy, manager = double.KINDS[kind_of(checkout)]
    assert ("module_types" in networks, "load_lora_state_dict" in networks) == (not manager, bool(manager))
    assert all((name in models) == lazy for name in ("FakeInitialModel", "forge_loading_parameters"))
    if manager:
        tokenizer = checkout / manager.replace(".", "/")
        assert (tokenizer.parent / double.TOKENIZERS[kind_of(checkout)] / "vocab.json").is_file()


@needs_webui
@needs_types
def test_modules_of_the_network_type(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in, lora = network_double.Host(monkeypatch), INSTALLATION / extension(INSTALLATION)
    for name, module in stand_in.modules.items():
        if name != "modules":
            folder, _, file = name.rpartition(".")
            assert_offered((INSTALLATION / folder if folder else lora) / f"{file}.py", module)
    fields = list(network_double.Weights._fields)
    assert f"NetworkWeights = namedtuple('NetworkWeights', {fields})" in ast.unparse(source(lora / "network.py"))
    processing = INSTALLATION / "modules" / "processing.py"
    for path, name, module in (
        (INSTALLATION / "modules" / "shared_state.py", "State", stand_in.state),
        (processing, "StableDiffusionProcessingTxt2Img", stand_in.encoded),
    ):
        text = ast.unparse(class_of(path, name)) + ast.unparse(class_of(processing, "StableDiffusionProcessing"))
        assert all(entry in text for entry in vars(module)), path
    assert "mentioned_name" in ast.unparse(class_of(lora / "network.py", "Network"))


@pytest.mark.parametrize("checkout", CHECKOUTS, ids=str)
@pytest.mark.parametrize(("stand_in", "path"), CLASSES.items())
def test_classes(stand_in: type, path: str, checkout: Path) -> None:
    file = checkout / path.replace("extensions-builtin/Lora", extension(checkout))
    real = class_of(file, stand_in.__name__)
    methods = {node.name: node for node in real.body if isinstance(node, ast.FunctionDef)}
    for name, method in inspect.getmembers(stand_in, inspect.isfunction):
        if name.startswith("__"):
            continue
        assert signature(method) == real_signature(methods[name]), f"{file}: {stand_in.__name__}.{name}"
    text = ast.unparse(real)
    attributes = {name for name in vars(stand_in) if not name.startswith("_") and name not in methods}
    assert all(name in text for name in attributes)
