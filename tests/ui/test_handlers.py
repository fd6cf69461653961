"""What the tab's buttons do, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lorax.errors import LoraxError
from lorax.options import Options, Running, Saving, declared
from lorax.ui.requests import Choice, Transfer

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")


def values(adapters: list[str], **changed: Any) -> dict[str, Any]:
    """Values of the tab's controls as they are at first, some of them changed."""
    options = {option.name: option.default for kind in (Options, Running, Saving) for option in declared(kind)}
    first = {"source": "base", "target": "finetune", "adapters": adapters, "name": "", "subfolder": "", "captions": ""}
    return options | first | {"method": "copy"} | changed


def asked(adapters: list[str], **changed: Any) -> Choice:
    """The request for an analysis."""
    return Choice.of(values(adapters, **changed))


def wanted(adapters: list[str], **changed: Any) -> Transfer:
    """The request for a transfer."""
    return Transfer.of(values(adapters, **changed))


def noted(handlers: Any, question: str, before: list, source: str, target: str | None, adapters: list[str], **new: Any) -> Any:
    return handlers.noted(question, before, asked(adapters, source=source, target=target, **new))


def listed(handlers: Any) -> list[str]:
    """Labels in the list of LoRAs."""
    _, _, adapters, _ = handlers.lists(None, None, None)
    return adapters["choices"]


def labels(handlers: Any, *names: str) -> list[str]:
    """Labels of these LoRAs in the list."""
    return [label for label in listed(handlers) if label.partition("  (")[0] in names]


@pytest.fixture
def handlers(models: Path) -> Any:
    from lorax.hosts.standalone import Standalone
    from lorax.ui.handlers import Handlers

    return Handlers(Standalone(models))


def test_save_as_and_precision_reach_the_file(handlers: Any, models: Path) -> None:
    given = wanted(labels(handlers, "Lora/contrast-base"), save_as="lora-x", dtype="fp32", subfolder=" moved ")
    _, written, tag, *_ = handlers.transfer(lambda *given: None, given)
    assert [path.name for path in (models / "Lora" / "moved").iterdir()] == ["contrast-base-lorax.safetensors"]
    assert "fits itself to whatever Stable Diffusion 1.x checkpoint is loaded" in written
    assert tag["value"] == "<lora:contrast-base-lorax:1>"
    assert any(label.startswith("Lora/moved/contrast-base-lorax  (rank 4, LoRA-X,") for label in listed(handlers))


def test_transfer_reuses_what_analyse_computed(handlers: Any, models: Path) -> None:
    def never(done: int, total: int, text: str) -> None:
        assert ": layer" not in text, "computed again"

    chosen = labels(handlers, "Lora/contrast-base")
    handlers.analyse(lambda *given: None, asked(chosen))
    handlers.transfer(never, wanted(chosen))
    assert (models / "Lora" / "contrast-base-finetune.safetensors").is_file()


def silent(*given: Any) -> None:
    pass


def test_a_lora_of_another_family_is_warned_of(handlers: Any, models: Path) -> None:
    layer = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    factors = {f"{layer}.lora_up.weight": torch.ones(5120, 4), f"{layer}.lora_down.weight": torch.ones(4, 1280)}
    save_file(factors, models / "Lora" / "large.safetensors")
    handlers.host.refresh()
    *_, notes, _ = noted(handlers, "7", [[], None], "base", "finetune", labels(handlers, "Lora/large"))
    assert "data-answers='7'" in notes
    assert "Stable Diffusion XL" in notes
    assert "lorax-warning" in notes


def test_what_only_running_uses_is_shown_for_the_methods_that_run(handlers: Any) -> None:
    chosen = labels(handlers, "Lora/contrast-base")
    for method, shown in (("auto", False), ("bridge", True), ("refine", True)):
        *_, running = noted(handlers, "1", [[], None], "base", "finetune", chosen, method=method)
        assert running["visible"] is shown


def test_what_running_takes_is_said_when_the_method_is_chosen(handlers: Any) -> None:
    chosen = labels(handlers, "Lora/contrast-base")
    *_, few, _ = noted(handlers, "1", [[], None], "base", "finetune", chosen, method="refine", pictures=16, steps=1)
    *_, many, _ = noted(handlers, "1", [[], None], "base", "finetune", chosen, method="refine", pictures=4096, steps=1000)
    assert "refine runs both checkpoints. It takes about " in few
    assert "on the CPU" in few
    assert few != many
    assert "runs both checkpoints" not in noted(handlers, "1", [[], None], "base", "finetune", chosen, method="copy")[3]


def test_an_analysis_of_what_runs_the_models_is_quick_and_keeps_nothing(handlers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An analysis needs no package that runs models."""
    kept: list[Any] = []
    monkeypatch.setattr(handlers.memory, "keep", lambda *given: kept.append(given))
    _, summary, _, rows, _ = handlers.analyse(silent, asked(labels(handlers, "Lora/contrast-base"), method="refine"))
    assert "No model was run for this. A transfer takes about " in summary
    assert {row[3] for row in rows} == {"to be trained on what the source draws with the adapter"}
    assert kept == []


def test_what_is_to_be_drawn_reaches_the_request() -> None:
    made = asked([], pictures=20.0, captions="cat\n\ncar\n", trigger=" ink ")
    assert made.of_options(Running) == Running(pictures=20, captions=("cat", "car"), trigger="ink")
    with pytest.raises(LoraxError, match="pictures 3: expected"):
        asked([], pictures=3).of_options(Running)


def test_the_source_that_a_lora_names_is_proposed_once(handlers: Any) -> None:
    """Another choice is not undone by the next question."""
    chosen = labels(handlers, "Lora/contrast-base")
    before, source, *_ = noted(handlers, "1", [[], None], "pruned", "finetune", chosen)
    assert source["value"] == "base"
    _, source, *_ = noted(handlers, "2", before, "pruned", "finetune", chosen)
    assert "value" not in source


def test_the_source_follows_what_is_loaded_until_a_lora_is_chosen(handlers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers.host, "loaded", lambda: "base")
    before, source, *_ = noted(handlers, "1", [[], None], "base", None, [])
    assert "value" not in source
    monkeypatch.setattr(handlers.host, "loaded", lambda: "finetune")
    before, source, loaded, *_ = noted(handlers, "2", before, "base", None, [])
    assert source["value"] == "finetune"
    assert "finetune" in loaded
    _, source, *_ = noted(handlers, "3", before, "pruned", None, [])
    assert "value" not in source, "chosen by hand"


def test_an_error_is_an_answer(handlers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied() -> Any:
        raise PermissionError("Permission denied: 'base.safetensors'")

    chosen = labels(handlers, "Lora/contrast-base")
    monkeypatch.setattr(handlers.host, "bases", denied)
    *_, notes, _ = noted(handlers, "5", [[], None], "base", "finetune", chosen)
    assert "data-answers='5'" in notes
    assert "Permission denied" in notes
