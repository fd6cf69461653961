"""What the tab answers to choices and clicks, without a browser."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.catalog import record
from lorax.errors import LoraxError
from lorax.options import Batching, Options, Running, Saving, declared
from lorax.transfer import Kind, Verdict
from lorax.ui.requests import Choice

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")


def values(adapters: list[str], **changed: Any) -> dict[str, Any]:
    """Values of the tab's controls as they are at first, some of them changed."""
    options = {option.name: option.default for kind in (Options, Running, Saving, Batching) for option in declared(kind)}
    first = {"source": "base", "target": "pruned", "also": [], "adapters": adapters, "subfolder": "", "captions": ""}
    return options | first | changed


@pytest.fixture
def page(handlers: Any) -> Any:
    return handlers.pages.of("1")


def labels(handlers: Any, *names: str) -> list[str]:
    """Labels of these LoRAs in the list."""
    return [handlers.chooser.label(name) for name in names]


def finished(handlers: Any, page: Any) -> dict[str, Any]:
    """What the page shows once its job has ended."""
    deadline = time.monotonic() + 600
    while any(job.state == "running" for job in handlers.host.jobs.of(page.id)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return dict(handlers.poll(page, "1 ", page.values or values([])))


def judged(handlers: Any, page: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The answer to a choice, once the verdict is there."""
    deadline = time.monotonic() + 600
    while "data-pending" in (answer := handlers.noted(page, "1", given))["verdict"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return dict(answer)


def moved(handlers: Any, page: Any, *names: str, **changed: Any) -> dict[str, Any]:
    handlers.transfer(page, "", values(labels(handlers, *names), **changed))
    return finished(handlers, page)


def test_what_is_chosen_reaches_the_file(handlers: Any, page: Any, models: Path) -> None:
    shown = moved(handlers, page, "Lora/contrast-base", save_as="lora-x", dtype="fp32", subfolder=" moved ", method="copy")
    assert [path.name for path in (models / "Lora" / "moved").glob("*.safetensors")] == ["contrast-base-lorax.safetensors"]
    assert "fits itself to whatever Stable Diffusion 1.x checkpoint is loaded" in shown["written"]
    assert shown["tag"] == "<lora:contrast-base-lorax:1>"
    assert (shown["sent_to"], shown["originals"]) == ("pruned", "<lora:contrast-base:1>")
    assert any(label.startswith("Lora/moved/contrast-base-lorax  (rank 4, LoRA-X,") for label in shown["adapters"]["choices"])


def test_the_tag_has_the_cards_weight_and_trigger_words(handlers: Any, page: Any, models: Path) -> None:
    card = {"activation text": "in contrast", "preferred weight": 0.7}
    (models / "Lora" / "contrast-base.json").write_text(json.dumps(card))
    shown = moved(handlers, page, "Lora/contrast-base", name="{lora} for {target}")
    assert shown["tag"] == "<lora:contrast-base for pruned:0.7> in contrast"


def test_of_a_large_batch_a_few_are_compared_and_none_is_sent_to_the_prompt(
    handlers: Any, page: Any, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers.host, "has_prompt", True)
    names = [f"one-{number}" for number in range(6)]
    for name in names:
        shutil.copy(models / "Lora" / "contrast-base.safetensors", models / "Lora" / f"{name}.safetensors")
    handlers.host.refresh()
    shown = moved(handlers, page, *(f"Lora/{name}" for name in names[:1]), method="copy")
    assert shown["send"]["visible"]
    shown = moved(handlers, page, *(f"Lora/{name}" for name in names), method="copy", skip_existing=True)
    assert shown["tag"].count("<lora:") == 6, "to be copied"
    assert not shown["send"]["visible"]
    first = {f"Lora/one-{number}" for number in (1, 2, 3, 4)}  # the one of before is not new
    assert {label.partition("  ")[0].removesuffix("-pruned") for label in shown["compare_which"]["value"]} == first
    assert {row[0] for row in shown["table"]} == first


def test_the_end_of_a_job_changes_nothing_that_is_chosen_on_another_page(handlers: Any, page: Any) -> None:
    """Two tabs of a browser are one page to the server, and each has its own choices."""
    handlers.transfer(page, "", values(labels(handlers, "Lora/contrast-base")))
    page.values = values(labels(handlers, "Lora/contrast-base"))  # of the other tab
    finished(handlers, page)
    given = values(labels(handlers, "Lora/contrast-finetune"), source="finetune")
    answer = handlers.poll(page, "2 ", given)
    assert answer["adapters"]["value"] == given["adapters"]
    assert "value" not in answer["source"]


def test_the_end_of_a_job_leaves_what_was_filled_in_meanwhile(handlers: Any, page: Any) -> None:
    shown = moved(handlers, page, "Lora/contrast-base", method="copy")
    (made,) = shown["compare_which"]["value"]
    asked = {"which": [], "prompt": "a cat", "last": {}}
    compare = handlers.comparison(lambda progress, asked: ["sheet", "drawn"], lambda given: given, ["drawn_0"])
    assert "compare_which" not in compare(page, "", asked), "others may be chosen by now"
    shown = finished(handlers, page)
    assert (shown["drawn_0"], shown["status"], shown["comparison"]["open"]) == ("sheet", "drawn", True)
    assert not {"compare_which", "compare_prompt"} & shown.keys()
    opened = handlers.load(page, "", values([]))
    assert (opened["compare_prompt"]["value"], opened["compare_which"]["value"]) == ("a cat", [])
    moved(handlers, page, "Lora/contrast-base", method="copy", skip_existing=True)
    opened = handlers.load(page, "", values([]))
    assert (opened["compare_which"]["value"], "compare_prompt" in opened) == ([made], False)


def test_a_lora_whose_file_was_gone_for_a_moment(handlers: Any, page: Any, models: Path) -> None:
    """As while a trainer writes it again."""
    file = models / "Lora" / "contrast-base.safetensors"
    content = file.read_bytes()
    file.unlink()
    record(file)
    answer = handlers.use_card(page, "Lora/contrast-base", values([]))
    assert "its file is not there" in answer["status"]
    assert "adapters" not in answer
    file.write_bytes(content)
    assert handlers.use_card(page, "Lora/contrast-base", values([]))["adapters"]["value"] == ["Lora/contrast-base"]
    assert handlers.chooser.looking(), "it is to be read"


def test_a_move_reuses_what_was_measured(handlers: Any, page: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = values(labels(handlers, "Lora/contrast-base"))
    handlers.analyse(page, "", chosen)
    shown = finished(handlers, page)
    assert "Nothing was written" in shown["status"]
    assert "layers would be moved" in shown["summary"]
    kept: list[Any] = []
    monkeypatch.setattr(handlers.memory, "keep", lambda *given: kept.append(given))
    handlers.transfer(page, "", chosen)
    finished(handlers, page)
    assert kept == [], "nothing new was computed"
    assert (models / "Lora" / "contrast-base-pruned.safetensors").is_file()


@pytest.mark.parametrize(
    ("target", "changed", "said", "shown"),
    [
        ("pruned", {}, "A slimmed-down relative", {"move": "primary", "refine": "secondary"}),
        ("finetune", {}, "the original already works here", {"refine": "secondary"}),
        ("finetune", {"method": "copy"}, "the original already works here", {"move": "secondary", "refine": "secondary"}),
        ("finetune", {"also": ["pruned"]}, "the original already works here", {"move": "secondary", "refine": "secondary"}),
        ("base", {}, "It was trained on this checkpoint", {}),
        ("base", {"save_as": "lora-x"}, "It was trained on this checkpoint", {"move": "secondary"}),
    ],
)
def test_the_buttons_are_those_of_the_verdict(
    handlers: Any, page: Any, target: str, changed: dict[str, Any], said: str, shown: dict[str, str]
) -> None:
    pytest.importorskip("diffusers", reason="without it nothing can be refined here")
    answer = judged(handlers, page, values(labels(handlers, "Lora/contrast-base"), target=target, **changed))
    assert said in answer["verdict"]
    buttons = {name: answer[name] for name in ("move", "refine", "bridge", "original")}
    assert {name: one["variant"] for name, one in buttons.items() if one["visible"]} == shown


def test_a_lora_becomes_a_lora_x_file_on_its_own_checkpoint(handlers: Any, page: Any) -> None:
    chosen = values(labels(handlers, "Lora/contrast-base"), target="base", save_as="lora-x")
    judged(handlers, page, chosen)
    handlers.transfer(page, "", chosen)
    shown = finished(handlers, page)
    assert "contrast-base-lorax.safetensors" in shown["written"], shown


def test_the_verdicts_time_is_that_of_the_pictures_and_steps_that_are_chosen(
    handlers: Any, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers.judging.verdicts, "_lacking", "")  # an estimate needs no diffusers

    def said(**changed: Any) -> str:
        chosen = values(labels(handlers, "Lora/contrast-base"), target="finetune", **changed)
        return str(judged(handlers, page, chosen)["verdict"])

    usual, many, long = said(), said(pictures=4096), said(steps="200000")
    assert len({usual, many, long}) == 3
    assert "hours" in long, "on the fastest machine"
    assert said() == usual, "and stays the same"
    assert said(trigger="ink") == usual
    assert "expected a whole number of at least 1" in said(steps="-3")


def test_nothing_is_offered_before_something_is_chosen_and_known(handlers: Any, page: Any) -> None:
    def offered(answer: dict[str, Any]) -> dict[str, str]:
        buttons = {name: answer[name] for name in ("move", "refine", "bridge", "original")}
        return {name: one["variant"] for name, one in buttons.items() if one["visible"] and one["interactive"]}

    assert offered(handlers.noted(page, "1", values([]))) == {}
    chosen = values(labels(handlers, "Lora/contrast-base"))
    with handlers.judging.verdicts._lock:  # the verdict takes a while
        answer = handlers.noted(page, "2", chosen)
        assert "data-pending" in answer["verdict"]
        assert offered(answer) == {}
    assert offered(judged(handlers, page, chosen))["move"] == "primary"
    assert offered(judged(handlers, page, chosen | {"source": "finetune"}))["move"] == "secondary", "the file names another one"
    assert offered(judged(handlers, page, chosen | {"pictures": 3})) == {}


def test_a_moved_lora_is_not_called_trained_on_its_target(handlers: Any, page: Any) -> None:
    shown = moved(handlers, page, "Lora/contrast-base")
    assert "for pruned, by Move, " in shown["written"]
    assert shown["comparison"]["open"], "now there is something to compare"
    (label,) = labels(handlers, "Lora/contrast-base-pruned")
    assert label.endswith("made from contrast-base for pruned)")
    answer = judged(handlers, page, values([label], source="pruned"))
    assert "It was made for this checkpoint, from contrast-base: use it as it is." in answer["verdict"]
    assert "says that it was made for pruned" in judged(handlers, page, values([label], source="finetune"))["verdict"]


def test_where_there_is_txt2img_the_original_is_sent_there(handlers: Any, page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(handlers.host), "has_prompt", True)
    answer = judged(handlers, page, values(labels(handlers, "Lora/contrast-base"), target="finetune"))
    assert (answer["original"]["visible"], answer["original"]["variant"]) == (True, "primary")
    assert answer["original_tag"] == "<lora:contrast-base:1>"


@pytest.mark.parametrize(("strength", "tagged"), [(1.0, 0.7), (0.98, 0.7), (0.8, 0.8)])
def test_a_lower_strength_goes_before_the_cards_weight(handlers: Any, models: Path, strength: float, tagged: float) -> None:
    from lorax.ui.results import original_tag

    (models / "Lora" / "contrast-base.json").write_text(json.dumps({"preferred weight": 0.7}))
    adapters = [handlers.host.adapters()["Lora/contrast-base"]]
    assert original_tag(handlers.host, adapters, [Verdict(Kind.WORKS, strength=strength)]) == f"<lora:contrast-base:{tagged}>"


def test_a_lora_of_another_family_cannot_be_moved(handlers: Any, page: Any, models: Path) -> None:
    layer = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    factors = {f"{layer}.lora_up.weight": torch.ones(5120, 4), f"{layer}.lora_down.weight": torch.ones(4, 1280)}
    save_file(factors, models / "Lora" / "large.safetensors")
    handlers.host.refresh()
    given = values(labels(handlers, "Lora/large"))
    assert handlers.noted(page, "1", given)["source"]["value"] is None
    answer = judged(handlers, page, given)  # the source is chosen by hand
    assert "Stable Diffusion XL" in answer["verdict"]
    assert not any(answer[name]["visible"] for name in ("move", "refine", "bridge", "original"))


def test_the_source_is_what_the_lora_names_until_another_is_chosen(handlers: Any, page: Any) -> None:
    given = values(labels(handlers, "Lora/contrast-base"), source=None)
    assert handlers.noted(page, "1", given)["source"]["value"] == "base"
    answer = handlers.noted(page, "2", given | {"source": "pruned"})
    assert "source" not in answer
    assert "says that it was trained on base" in answer["verdict"]


def test_who_presses_before_the_source_is_filled_in_is_served(handlers: Any, page: Any) -> None:
    handlers.transfer(page, "", values(labels(handlers, "Lora/contrast-base"), source=None, method="copy"))
    assert "lorax-done" in finished(handlers, page)["written"]


def test_a_guess_is_asked_and_not_taken(handlers: Any, page: Any, models: Path) -> None:
    save_file(load_file(models / "Lora" / "contrast-base.safetensors"), models / "Lora" / "nameless.safetensors")
    handlers.host.refresh()
    given = values(labels(handlers, "Lora/nameless"), source="pruned")
    answer = handlers.noted(page, "1", given)
    assert (answer["source"]["value"], answer["asking"]["visible"]) == (None, True)
    assert "Was it trained on base? If not, choose above." in answer["guess"]
    with pytest.raises(LoraxError, match="No source is chosen"):
        handlers.transfer(page, "", given | {"source": None})
    assert handlers.confirm(page, "", given)["source"]["value"] == "base"
    handlers.noted(page, "2", given | {"source": "base"})
    handlers.noted(page, "3", values(labels(handlers, "Lora/contrast-pruned")))
    again = handlers.noted(page, "4", given)
    assert (again["source"]["value"], again["asking"]["visible"]) == ("base", False), "who has said it is not asked again"


def test_the_target_follows_what_is_loaded_until_another_is_chosen(
    handlers: Any, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers.host, "loaded", lambda: "base")
    assert handlers.noted(page, "1", values([], target=None))["target"]["value"] == "base"
    monkeypatch.setattr(handlers.host, "loaded", lambda: "finetune")
    assert handlers.noted(page, "2", values([], target="base"))["target"]["value"] == "finetune"
    answer = handlers.noted(page, "3", values([], target="pruned"))
    assert "Loaded now: finetune" in answer["notes"]
    monkeypatch.setattr(handlers.host, "loaded", lambda: "base")
    assert "target" not in handlers.noted(page, "4", values([], target="pruned")), "chosen by hand"


def test_lists_that_are_read_again_change_no_selection_that_is_still_there(handlers: Any, page: Any, models: Path) -> None:
    """The user may have chosen something else meanwhile. Of a list of several, gradio 4 keeps the places alone."""
    chosen = values(labels(handlers, "Lora/contrast-base"))
    answer = handlers.refresh(page, "", chosen)
    set_anew = {name: one["value"] for name, one in answer.items() if isinstance(one, dict) and "value" in one}
    assert set_anew == {"adapters": chosen["adapters"]}
    (models / "Lora" / "contrast-base.safetensors").unlink()
    answer = handlers.refresh(page, "", chosen)
    assert answer["adapters"]["value"] == []
    assert "value" not in answer["target"]


def test_a_new_choice_takes_away_what_came_of_the_old_one(handlers: Any, page: Any) -> None:
    chosen = values(labels(handlers, "Lora/contrast-base"))
    handlers.noted(page, "1", chosen)
    assert moved(handlers, page, "Lora/contrast-base")["result"]["visible"]
    assert "result" not in handlers.noted(page, "2", chosen | {"threshold": 0.5}), "an option takes nothing away"
    answer = handlers.noted(page, "3", chosen | {"target": "finetune"})
    assert (answer["result"]["visible"], answer["tag"], answer["written"], answer["plot"]) == (False, "", "", "")
    assert not handlers.outcome(page)["result"]["visible"], "nor is it there again after F5"


def test_if_nothing_was_moved_there_is_nothing_to_send(handlers: Any, page: Any) -> None:
    assert moved(handlers, page, "Lora/contrast-base")["using"]["visible"]
    shown = moved(handlers, page, "Lora/contrast-base")
    assert shown["tag"] == ""
    assert not shown["using"]["visible"]
    assert "exists already" in shown["written"]


def test_only_what_is_as_it_was_written_is_deleted(handlers: Any, page: Any, models: Path) -> None:
    moved(handlers, page, "Lora/contrast-base", "Lora/contrast-finetune", source=None)
    (models / "Lora" / "contrast-finetune-pruned.safetensors").write_bytes(b"another")
    told = handlers.delete(page, "", values([]))["status"]
    assert "Deleted: contrast-base-pruned.safetensors, contrast-base-pruned.json, " in told
    assert "Changed since, and kept: contrast-finetune-pruned.safetensors." in told
    assert not (models / "Lora" / "contrast-base-pruned.safetensors").exists()
    assert (models / "Lora" / "contrast-finetune-pruned.safetensors").exists()


def test_a_page_has_one_job_at_a_time_and_another_page_its_own(handlers: Any, page: Any) -> None:
    def endless(progress: Any) -> Any:
        while True:
            progress(1, 4, "working")
            time.sleep(0.01)

    other = handlers.pages.of("2")
    handlers.start(page, "compare", "Drawing", endless)
    with pytest.raises(LoraxError, match="A job is running already"):
        handlers.start(page, "compare", "Drawing", endless)
    handlers.start(other, "compare", "Drawing", endless)
    deadline = time.monotonic() + 20
    while "width: 25.0%" not in (shown := handlers.progress(page))["progress"]:
        assert time.monotonic() < deadline
    assert shown["interrupt"]["visible"]
    assert not shown["actions"]["visible"]
    assert "Waiting for its turn" in handlers.progress(other)["progress"]
    assert "Stopping after this step" in handlers.interrupt(page, "", values([]))["progress"]
    status = finished(handlers, page)["status"]
    assert ("Stopped." in status, "Nothing was written" in status) == (True, False), "pictures write nothing anyway"
    handlers.interrupt(other, "", values([]))
    finished(handlers, other)


def test_a_job_that_waits_is_stopped_with_the_click(handlers: Any, page: Any) -> None:
    with handlers.host._alone:  # somebody else's job runs
        handlers.start(page, "compare", "Drawing", lambda progress: None)
        answer = handlers.interrupt(page, "", values([]))
    assert "Stopped." in answer["status"]
    assert (answer["interrupt"]["visible"], answer["actions"]["visible"]) == (False, True)


def test_an_analysis_of_what_runs_the_models_is_quick_and_keeps_nothing(
    handlers: Any, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An analysis needs no package that runs models."""
    kept: list[Any] = []
    monkeypatch.setattr(handlers.memory, "keep", lambda *given: kept.append(given))
    handlers.analyse(page, "", values(labels(handlers, "Lora/contrast-base"), target="finetune", method="refine"))
    shown = finished(handlers, page)
    assert "No model was run for this. A transfer takes about " in shown["summary"]
    assert {row[3] for row in shown["table"]} == {"to be trained on what the source draws with the adapter"}
    assert kept == []


def test_what_is_to_be_drawn_reaches_the_request() -> None:
    made = Choice.of(values([], pictures=20.0, captions="cat\n\ncar\n", trigger=" ink "))
    assert made.of_options(Running) == Running(pictures=20, captions=("cat", "car"), trigger="ink")
    with pytest.raises(LoraxError, match="pictures 3: expected"):
        Choice.of(values([], pictures=3)).of_options(Running)


def test_an_error_is_an_answer(handlers: Any, page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied() -> Any:
        raise PermissionError("Permission denied: 'base.safetensors'")

    chosen = labels(handlers, "Lora/contrast-base")
    monkeypatch.setattr(handlers.host, "bases", denied)
    answer = handlers.noted(page, "5", values(chosen))
    assert "data-answers='5'" in answer["notes"]
    assert "Permission denied" in answer["verdict"]
