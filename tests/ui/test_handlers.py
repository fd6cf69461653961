"""What the tab's buttons do, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorax.options import Options, Saving, declared

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")


def values(adapters: list[str], **changed: Any) -> list[Any]:
    """Of the tab's controls as they are at first, some of them changed."""
    found = {option.name: option.default for option in declared(Options) + declared(Saving)} | {"method": "copy"} | changed
    options, saving = ([found[option.name] for option in declared(declaration)] for declaration in (Options, Saving))
    return ["base", "finetune", adapters, *options, found.get("name", ""), found.get("subfolder", ""), *saving]


@pytest.fixture
def handlers(models: Path) -> Any:
    from lorax.hosts.standalone import Standalone
    from lorax.ui.handlers import Handlers

    return Handlers(Standalone(models))


def test_save_as_and_precision_reach_the_file(handlers: Any, models: Path) -> None:
    label = next(label for label in handlers._labels() if label.startswith("Lora/contrast-base "))
    asked = values([label], save_as="lora-x", dtype="fp32", subfolder=" moved ")
    _, written, tag, *_ = handlers.transfer(lambda *given: None, *asked)
    assert [path.name for path in (models / "Lora" / "moved").iterdir()] == ["contrast-base-lorax.safetensors"]
    assert "fits itself to whatever Stable Diffusion 1.x checkpoint is loaded" in written
    assert tag["value"] == "<lora:contrast-base-lorax:1>"
    assert any(label.startswith("Lora/moved/contrast-base-lorax  (rank 4, LoRA-X,") for label in handlers._labels())


def test_transfer_reuses_what_analyse_computed(handlers: Any, models: Path) -> None:
    def never(*given: Any) -> None:
        raise AssertionError("computed again")

    label = next(label for label in handlers._labels() if label.startswith("Lora/contrast-base "))
    asked = values([label])
    handlers.analyse(lambda *given: None, *asked[: 3 + len(declared(Options))])
    handlers.transfer(never, *asked)
    assert (models / "Lora" / "contrast-base-finetune.safetensors").is_file()
