"""What the tab's buttons do, without a browser."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from lorax.errors import LoraxError
from lorax.options import Options, Saving, declared

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")


def values(adapters: list[str], **changed: Any) -> list[Any]:
    """Of the tab's controls as they are at first, some of them changed."""
    found = {option.name: option.default for option in declared(Options) + declared(Saving)} | {"method": "copy"} | changed
    options, saving = ([found[option.name] for option in declared(declaration)] for declaration in (Options, Saving))
    return ["base", "finetune", adapters, *options, found.get("name", ""), found.get("subfolder", ""), *saving]


def label(handlers: Any, name: str) -> str:
    """What the list of LoRAs shows for it."""
    return next(label for label, known in handlers._labels().items() if known == name)


@pytest.fixture
def handlers(models: Path) -> Any:
    from lorax.hosts.standalone import Standalone
    from lorax.ui.handlers import Handlers

    return Handlers(Standalone(models))


def test_save_as_and_precision_reach_the_file(handlers: Any, models: Path) -> None:
    asked = values([label(handlers, "Lora/contrast-base")], save_as="lora-x", dtype="fp32", subfolder=" moved ")
    _, written, tag, *_ = handlers.transfer(lambda *given: None, *asked)
    assert [path.name for path in (models / "Lora" / "moved").iterdir()] == ["contrast-base-lorax.safetensors"]
    assert "fits itself to whatever Stable Diffusion 1.x checkpoint is loaded" in written
    assert tag["value"] == "<lora:contrast-base-lorax:1>"
    assert any(label.startswith("Lora/moved/contrast-base-lorax  (rank 4, LoRA-X,") for label in handlers._labels())


def test_transfer_reuses_what_analyse_computed(handlers: Any, models: Path) -> None:
    def never(done: int, total: int, text: str) -> None:
        assert ": layer" not in text, "computed again"

    asked = values([label(handlers, "Lora/contrast-base")])
    handlers.analyse(lambda *given: None, *asked[: 3 + len(declared(Options))])
    handlers.transfer(never, *asked)
    assert (models / "Lora" / "contrast-base-finetune.safetensors").is_file()


def silent(*given: Any) -> None:
    pass


def compared(handlers: Any, monkeypatch: pytest.MonkeyPatch, state: Any, which: str, said: list[str]) -> tuple[list[str], str]:
    """Captions and status line of Compare, in a host that draws nothing and says something."""

    def pictures(shots: Any, *given: Any) -> tuple[list[str], list[str]]:
        return ["picture"] * len(shots), said

    monkeypatch.setattr(handlers.host, "pictures", pictures)
    gallery, status = handlers.compare(silent, state, which, "cat", 7, 2, None)
    return [caption for _, caption in gallery["value"]], status


def test_compare_tells_what_the_host_says_of_its_pictures(handlers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, _, state, *_ = handlers.transfer(silent, *values([label(handlers, "Lora/contrast-base")]))
    assert compared(handlers, monkeypatch, state, "contrast-base-finetune", [])[1].count("Done.") == 1
    captions, status = compared(handlers, monkeypatch, state, "contrast-base-finetune", ["not applied", "not found"])
    assert captions == ["base with the LoRA", "finetune alone", "finetune with a plain copy", "finetune with the moved LoRA"]
    assert (status.count("lorax-warning"), "not applied" in status, "Done." in status) == (2, True, False)


def test_a_lorax_file_makes_no_plain_copy(handlers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers.transfer(silent, *values([label(handlers, "Lora/contrast-base")], save_as="lora-x"))
    _, _, _, state, *_ = handlers.transfer(silent, *values([label(handlers, "Lora/contrast-base-lorax")]))
    captions, _ = compared(handlers, monkeypatch, state, "contrast-base-lorax-finetune", [])
    assert captions == ["base with the LoRA", "finetune alone", "finetune with the moved LoRA"]


@pytest.mark.parametrize("gone", ["finetune", "Lora/contrast-base"])
def test_compare_says_what_has_vanished_since_the_transfer(handlers: Any, models: Path, gone: str) -> None:
    _, _, _, state, *_ = handlers.transfer(silent, *values([label(handlers, "Lora/contrast-base")]))
    (models / f"{gone}.safetensors").unlink()
    for refreshed in (False, True):
        if refreshed:
            handlers.refresh(None, None, None)
        with pytest.raises(LoraxError, match=f"{gone}: not there any more"):
            handlers.compare(silent, state, "contrast-base-finetune", "cat", 7, 2, None)


def test_files_of_one_name_in_two_folders_are_told_apart(handlers: Any, models: Path) -> None:
    for folder in "xy":
        (models / "Lora" / folder).mkdir()
        shutil.copy(models / "Lora" / "contrast-base.safetensors", models / "Lora" / folder / "a.safetensors")
    handlers.host.refresh()
    labels = [label(handlers, f"Lora/{folder}/a") for folder in "xy"]
    _, _, _, state, which, *_ = handlers.transfer(silent, *values(labels))
    assert which["choices"] == ["x/a-finetune", "y/a-finetune"]
    assert [state["moved"][name][0] for name in which["choices"]] == ["Lora/x/a", "Lora/y/a"]
