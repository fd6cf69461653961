"""The lists are there at once, with names alone; what the files are is read once somebody looks at the tab."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lorax.catalog import Facts, Record, known
from lorax.catalog.index import Index
from tests.ui.chromium import pick, shoot
from tests.ui.double import CheckpointInfo, Double, in_each_shape
from tests.ui.test_handlers import values

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")
NAMES = ["contrast-base", "contrast-finetune", "contrast-pruned"]
BASES = ["base.safetensors", "finetune.safetensors", "pruned.safetensors"]
OTHERS = {  # checkpoints that newer WebUIs list, by a parameter that each has
    "anima.safetensors": ("net.llm_adapter.blocks.0.cross_attn.q_proj.weight", "Anima"),
    "flux-unet-only.safetensors": ("double_blocks.0.img_attn.proj.weight", "FLUX.1"),
    "qwen.safetensors": ("transformer_blocks.0.img_mod.1.weight", "Qwen-Image"),
    "wan.safetensors": ("model.diffusion_model.head.modulation", "Wan"),
    "z-image.safetensors": ("cap_pad_token", "Z-Image"),
}
opened: list[str] = []  # the files that were opened, as long as ``watching``
watching = threading.Event()
sys.addaudithook(lambda event, about: opened.append(str(about[0])) if event == "open" and watching.is_set() else None)


@pytest.fixture
def reads(models: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """This test's LoRAs and checkpoints that are read, by a process that knows nothing yet.

    A verdict that the test before it asked for may still be on its way.
    """
    found: list[str] = []
    read = known.read

    def counted(path: Path) -> Record:
        if path.is_relative_to(models.parent):
            found.append(path.name)
        return read(path)

    monkeypatch.setattr(known, "read", counted)
    monkeypatch.setattr(known, "_index", Index())
    return found


@pytest.fixture
def handlers(double: Double, reads: list[str]) -> Any:
    from lorax.hosts.a1111.host import A1111
    from lorax.ui.handlers import Handlers

    return Handlers(A1111())


def looked(handlers: Any, page: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The answer once all is read."""
    deadline = time.monotonic() + 60
    while "data-look" in (answer := handlers.look(page, "1", given))["looking"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return dict(answer)


def judged(handlers: Any, page: Any, given: dict[str, Any]) -> str:
    """The verdict once it is known."""
    deadline = time.monotonic() + 60
    while "data-pending" in (verdict := handlers.noted(page, "1", given)["verdict"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return str(verdict)


def test_nothing_is_read_before_the_tab_is_looked_at(handlers: Any, reads: list[str]) -> None:
    page, given = handlers.pages.of("1"), values([], source=None, target=None)
    watching.set()
    answer = handlers.load(page, "", given)
    assert answer["adapters"]["choices"] == NAMES
    assert "data-look='look'" in answer["looking"], "which the page's script answers once it is in view"
    handlers.noted(page, "1", given)
    handlers.poll(page, "1 0", given)
    watching.clear()
    assert reads == []
    assert [file for file in opened if file.endswith((".safetensors", ".json", ".info"))] == []
    answer = looked(handlers, page, given)
    assert answer["adapters"]["choices"][0] == "contrast-base  (rank 4, LoRA, Stable Diffusion 1.x, trained on base.safetensors)"
    assert sorted(reads) == sorted([*BASES, *(f"{name}.safetensors" for name in NAMES)])
    reads.clear()
    other = handlers.load(handlers.pages.of("2"), "", given)
    assert (other["looking"], other["adapters"]["choices"]) == ("", answer["adapters"]["choices"])
    assert reads == []


def test_a_choice_by_name_stays_when_the_label_tells_more(handlers: Any) -> None:
    page, given = handlers.pages.of("1"), values(["contrast-base"], source=None)
    given["target"] = "finetune.safetensors"
    assert handlers.noted(page, "1", given)["source"]["value"] == "base.safetensors"
    given["source"] = "pruned.safetensors"  # by hand
    handlers.noted(page, "2", given)
    (label,) = looked(handlers, page, given)["adapters"]["value"]
    assert label.startswith("contrast-base  (rank 4")
    assert "source" not in handlers.noted(page, "3", given | {"adapters": [label]}), "it is the same choice"
    assert [model.name for model in handlers.chooser.adapters(["contrast-base", label, "gone", "gone  (rank 4)"])] == [
        "contrast-base",
        "contrast-base",
    ]


def test_a_new_file_is_read_when_somebody_looks_and_a_lost_one_goes(handlers: Any, reads: list[str], double: Double) -> None:
    page, given = handlers.pages.of("1"), values([], source=None, target=None)
    looked(handlers, page, given)
    reads.clear()
    folder = handlers.host.adapter_folder
    (folder / "contrast-pruned.safetensors").rename(folder / "new.safetensors")
    answer = handlers.refresh(page, "", given)
    assert "data-look" in answer["looking"]
    answer = looked(handlers, page, given)
    assert [label.partition("  (")[0] for label in answer["adapters"]["choices"]] == [*NAMES[:2], "new"]
    assert reads == ["new.safetensors"]


@in_each_shape
def test_checkpoints_of_other_kinds_are_named_in_the_lists_and_declined_in_words(double: Double, handlers: Any) -> None:
    """Forge and Neo list them all. A UNet alone is recognised as one in a whole checkpoint is."""
    labels = {"flux-Q4.gguf": "flux-Q4.gguf  (a GGUF file: not supported)"}
    labels |= {name: f"{name}  ({title}: not supported)" for name, (_, title) in OTHERS.items()}
    for name in labels:
        file = Path(double.infos[0].filename).with_name(name)
        if name in OTHERS:
            save_file({OTHERS[name][0]: torch.zeros(2, 2)}, file)
        else:
            file.write_bytes(b"GGUF\x03\x00\x00\x00")
        double.modules["sd_models"].checkpoints_list[name] = CheckpointInfo(str(file))
    page, chooser = handlers.pages.of("1"), handlers.chooser
    given = values(["contrast-base"], source="base.safetensors") | {"target": "wan.safetensors"}
    assert chooser.labelled(handlers.load(page, "", given))["target"]["choices"] == [*BASES, *labels], "as long as none was read"
    shown = chooser.labelled(looked(handlers, page, given))
    assert all(shown[field]["choices"] == [*BASES, *labels.values()] for field in ("source", "target", "also"))
    assert (shown["target"]["value"], "value" in shown["source"]) == (labels["wan.safetensors"], False)
    for name, label in labels.items():
        title = label.removeprefix(f"{name}  (").removesuffix(": not supported)")
        for asked in ({"target": label}, {"source": label, "target": "finetune.safetensors"}):
            assert title in judged(handlers, page, chooser.named(given | asked))
    assert chooser.named({"also": [labels["qwen.safetensors"], *BASES]}) == {"also": ["qwen.safetensors", *BASES]}


def test_thousands_cost_no_event_anything(handlers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice looks at what is chosen, and at no other file."""
    asked: list[str] = []
    state = known._state

    def counted(path: Path) -> str | None:
        asked.append(path.name)
        return state(path)

    page, given = handlers.pages.of("1"), values(["contrast-base"], source="base.safetensors")
    looked(handlers, page, given)
    monkeypatch.setattr(known, "_state", counted)
    told: list[str] = []
    monkeypatch.setattr(Facts, "__str__", lambda facts: told.append(facts.trained_on) or "told")
    handlers.noted(page, "1", given)
    assert set(asked) == {"contrast-base.safetensors"}
    assert set(told) == {"base.safetensors"}, "and makes no other label"


AWAY = """document.addEventListener("DOMContentLoaded", () => {
    const style = document.createElement("style");
    style.id = "away";
    style.textContent = "#lorax { display: none; }"; // as in a WebUI that shows another tab
    document.head.append(style);
});"""


def test_a_page_asks_once_the_tab_comes_into_view(models: Path, server: str, reads: list[str], browser: Any) -> None:
    save_file({"double_blocks.0.img_attn.proj.weight": torch.zeros(2, 2)}, models / "pruned.safetensors")
    page = browser.new_context().new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(AWAY)
    page.goto(server)
    page.wait_for_selector("#lorax_looking [data-look]", state="attached")  # the lists are there
    page.wait_for_timeout(3000)
    assert reads == []
    assert page.locator("#lorax_notes [data-answers]").count() == 0, "each answer would have the WebUI's whole page drawn anew"
    page.evaluate("document.querySelector('#away').remove()")
    page.wait_for_selector("#lorax_looking [data-look]", state="detached")
    assert sorted(reads) == sorted([*BASES, *(f"{name}.safetensors" for name in NAMES)])
    pick(page, "#lorax_adapters", "Lora/contrast-base  (rank 4")
    pick(page, "#lorax_target", "pruned  (FLUX.1: not supported)")
    page.wait_for_selector("#lorax_verdict :text('is FLUX.1')")
    shoot(page, "unsupported")
    page.context.close()
