"""What Compare draws and stores, without a browser; the pictures themselves are drawn in ``test_walk.py`` and in the WebUI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from lorax.errors import Interrupted, LoraxError
from lorax.hosts.base import Drawing, Drawn
from lorax.options import Options, Saving
from lorax.workflow import InFolder, Request, transfer

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")
from lorax.hosts.standalone import Standalone
from lorax.ui.comparing import Comparing, chosen_of
from lorax.ui.comparison import ALONE, COPIED, MOST, ON_SOURCE, OTHERS, Comparison, Pace, moved_loras, sheet

VALUES: dict[str, Any] = {
    "last": {"target": "finetune"},
    "prompt": "cat",
    "negative": "",
    "strengths": "1",
    "seeds": "7",
    "steps": 2,
    "cfg": 7,
    "sampler": None,
    "schedule": None,
    "width": None,
    "height": None,
    "others": list(OTHERS),
}


def silent(done: int, total: int, text: str) -> None:
    pass


class Host(Standalone):
    """A folder in which pictures cost nothing: each is of its own grey, and says how it was drawn. One host comment each."""

    comments = ()

    def pictures(self, shots: Any, drawing: Drawing, progress: Any) -> Any:
        self.drawn = list(shots)
        for done, shot in enumerate(shots):
            progress(done, len(shots), shot.title)
            picture = Image.new("RGB", (8, 8), (10 * done,) * 3)
            picture.info["parameters"] = f"{drawing.prompt}, seed {shot.seed}"
            yield Drawn(picture, self.comments)


@pytest.fixture
def host(models: Path) -> Host:
    return Host(models)


def move(host: Host, name: str = "Lora/contrast-base", method: str = "copy", target: str = "finetune", **saving: Any) -> str:
    """Move a LoRA; return its label in the list."""
    request = Request(host.bases()["base"], host.bases()[target], [host.adapters()[name]], Options(method))
    output = f"{Path(name).name}-{target}-{method}" if "save_as" not in saving else ""
    (result,) = transfer(request, InFolder(host.adapter_folder, "", Saving(name=output, **saving)), silent)
    host.refresh()
    (label,) = (label for label, (model, _) in moved_loras(host).items() if model.path == result.written)
    return label


def asked(*which: str, **changed: Any) -> Comparison:
    return Comparison.of(VALUES | {"which": list(which)} | changed)


def titles(host: Host, *which: str, **changed: Any) -> list[str]:
    return [shot.title for shot in sheet(asked(*which, **changed), host).shots]


def test_one_row_for_each_seed(host: Host) -> None:
    label = move(host)
    row = ["base with the LoRA", "finetune alone", "finetune with the LoRA as it is", "finetune with the moved LoRA"]
    assert titles(host, label) == row
    planned = sheet(asked(label, seeds="7, 8"), host)
    assert [shot.title for shot in planned.shots] == [f"{title}, seed {seed}" for seed in (7, 8) for title in row]
    assert [shot.seed for shot in planned.shots] == [7] * 4 + [8] * 4
    assert planned.columns == 4
    assert [planned.shots[i].base.name for i in planned.order] == ["base"] * 2 + ["finetune"] * 6, "each is loaded once"
    assert titles(host, label, others=[ALONE]) == row[1::2]


def test_strengths_stand_side_by_side_and_what_they_are_compared_with_has_the_largest(host: Host) -> None:
    planned = sheet(asked(move(host), strengths="0.4 .6, 0.8;1", others=[ON_SOURCE, ALONE]), host)
    assert planned.columns == 4
    moved = [f"finetune with the moved LoRA at {strength}" for strength in ("0.4", "0.6", "0.8", "1")]
    assert [shot.title for shot in planned.shots] == [*moved, "base with the LoRA at 1", "finetune alone"]
    assert [shot.strength for shot in planned.shots] == [0.4, 0.6, 0.8, 1, 1, 1]


def test_methods_and_results_of_earlier_days_stand_beside_each_other(host: Host, models: Path) -> None:
    first, second, other = move(host), move(host, method="lorax"), move(host, "Lora/contrast-pruned")
    later = Host(models)  # knows nothing of those transfers but the files
    assert first == "Lora/contrast-base-finetune-copy  (copy, for finetune)"
    assert set(moved_loras(later)) == {first, second, other}
    assert titles(later, first, second, others=[COPIED]) == [
        "finetune with the LoRA as it is",
        "finetune with Lora/contrast-base-finetune-copy (copy)",
        "finetune with Lora/contrast-base-finetune-lorax (lorax)",
    ]
    copies = titles(later, first, other, others=[COPIED])[:2]
    assert copies == [f"finetune with the LoRA as it is (Lora/contrast-{name})" for name in ("base", "pruned")]


def test_files_of_one_name_are_told_apart_by_what_is_in_them(host: Host, models: Path) -> None:
    label = move(host)
    shutil.copy(models / "Lora" / "contrast-pruned.safetensors", models / "contrast-base.safetensors")
    host.refresh()
    (shot,) = (shot for shot in sheet(asked(label), host).shots if "as it is" in shot.title)
    assert shot.adapter is not None
    assert shot.adapter.name == "Lora/contrast-base"


def test_a_lorax_file_is_drawn_on_the_last_target_and_makes_no_plain_copy(host: Host) -> None:
    fitted = move(host, save_as="lora-x")
    assert fitted == "Lora/contrast-base-lorax  (copy, LoRA-X file)"
    assert titles(host, fitted)[-1] == "finetune with the moved LoRA"
    assert titles(host, move(host, "Lora/contrast-base-lorax"), others=[COPIED]) == ["finetune with the moved LoRA"]
    with pytest.raises(LoraxError, match="fits many checkpoints"):
        titles(host, fitted, last={})


def test_what_has_vanished_is_said(host: Host, models: Path) -> None:
    label = move(host)
    (models / "Lora" / "contrast-base.safetensors").unlink()
    planned = sheet(asked(label), host)
    assert [shot.title for shot in planned.shots] == ["finetune alone", "finetune with the moved LoRA"]
    assert ["contrast-base.safetensors" in warning for warning in planned.warnings] == [True]
    (models / "finetune.safetensors").unlink()
    with pytest.raises(LoraxError, match=r"moved to finetune\.safetensors, which is not in the list"):
        sheet(asked(label), host)
    (models / "Lora" / "contrast-base-finetune-copy.safetensors").unlink()
    with pytest.raises(LoraxError, match="contrast-base-finetune-copy: not there any more"):
        sheet(asked(label), host)
    with pytest.raises(LoraxError, match="No moved LoRA is chosen"):
        sheet(asked(), host)


def test_so_many_pictures_are_drawn_and_no_more(host: Host) -> None:
    label = move(host)
    seeds = ",".join(map(str, range(MOST // 4)))
    assert len(sheet(asked(label, seeds=seeds), host).shots) == MOST
    with pytest.raises(LoraxError, match=f"would be {MOST + 4} pictures; at most {MOST}"):
        sheet(asked(label, seeds=f"{seeds},99"), host)


@pytest.mark.parametrize(
    "wrong", [{"seeds": "x"}, {"seeds": ""}, {"seeds": "-2"}, {"strengths": "1, much"}, {"strengths": "nan"}]
)
def test_lines_that_are_no_numbers_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(LoraxError, match="Write numbers with commas between them"):
        asked(**wrong)


def test_a_random_seed_is_the_same_for_all_pictures(host: Host) -> None:
    label = move(host)
    seeds = [{shot.seed for shot in sheet(asked(label, seeds="-1"), host).shots} for _ in range(2)]
    assert [len(one) for one in seeds] == [1, 1]
    assert seeds[0] != seeds[1]


def test_the_time_is_told_from_what_was_drawn(host: Host) -> None:
    label, pace = move(host), Pace()
    planned, work = sheet(asked(label), host), asked(label).work
    assert pace.expected(planned.shots, work) is None
    pace.learn({"base": [30], "finetune": [22, 2, 2]}, work)
    assert pace.expected(planned.shots, work) == pytest.approx(30 + 20 + 3 * 2)
    assert pace.expected(planned.shots, 10 * work) == pytest.approx(10 * 30 + 20 + 10 * 3 * 2)
    comparing = Comparing(host)
    values = VALUES | {"which": [label]}
    assert "4 pictures (36 at most). How long they take is told once" in comparing.tell(values)
    told, *_ = comparing.compare(silent, asked(label))
    assert told == comparing.tell(values)
    assert "4 pictures (36 at most), about 10 seconds" in comparing.tell(values)
    assert "cannot be used" in comparing.tell(values | {"seeds": "x"})


def test_captions_belong_to_their_pictures_and_the_host_is_heard(host: Host) -> None:
    label, comparing = move(host), Comparing(host)
    _, gallery, *_, status = comparing.compare(silent, asked(label, seeds="7, 8"))
    drawn = {f"{shot.title}": 10 * done for done, shot in enumerate(host.drawn)}
    assert {title: picture.getpixel((0, 0))[0] for picture, title in gallery["value"]} == drawn
    assert [title for _, title in gallery["value"]] == titles(host, label, seeds="7, 8")
    assert "Done." in status
    host.comments = ["not applied"]
    *_, status = comparing.compare(silent, asked(label, others=[]))
    assert "finetune with the moved LoRA: not applied" in status
    assert "Done." not in status


def test_a_stop_shows_what_was_drawn_and_says_nothing_of_writing(host: Host) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if done == 2:
            raise Interrupted

    _, gallery, drawn, *_, status = Comparing(host).compare(stop, asked(move(host)))
    assert [title for _, title in gallery["value"]] == ["base with the LoRA", "finetune alone"]
    assert len(drawn["pictures"]) == 2
    assert "Stopped after 2 of 4 pictures." in status
    assert "written" not in status


def clicked(comparing: Comparing, drawn: dict, number: int) -> tuple[list[int], list[Any]]:
    chosen, *updates = comparing.choose(drawn, SimpleNamespace(index=number))  # type: ignore[arg-type]
    return chosen, updates


def test_a_picture_becomes_the_preview_and_replaces_none_unasked(host: Host, models: Path) -> None:
    comparing, label = Comparing(host), move(host)
    _, _, drawn, *_ = comparing.compare(silent, asked(label, strengths="0.4, 0.8", others=[ALONE]))
    assert clicked(comparing, drawn, 2)[0] == [], "no moved LoRA is in it"
    chosen, _ = clicked(comparing, drawn, 1)
    preview = models / "Lora" / "contrast-base-finetune-copy.preview.png"
    about, swap = comparing.save(drawn, chosen)
    assert preview.name in about
    assert not swap["visible"]
    with Image.open(preview) as saved:
        assert isinstance(saved, PngImagePlugin.PngImageFile)
        assert saved.info["parameters"] == "cat, seed 7"
    before = preview.read_bytes()
    first, _ = clicked(comparing, drawn, 0)
    about, swap = comparing.save(drawn, first)
    assert "has a preview already" in about
    assert swap["visible"]
    assert preview.read_bytes() == before
    comparing.swap(drawn, first)
    assert preview.read_bytes() != before
    preview.rename(preview.with_suffix(".webp"))
    comparing.swap(drawn, chosen)
    with Image.open(preview.with_suffix(".webp")) as saved:
        assert saved.format == "WEBP", "the kind that the name says"
    for _ in range(6):
        comparing.compare(silent, asked(label))
    assert "Draw them again" in comparing.save(drawn, chosen, overwrite=True)[0]


def test_a_preview_is_drawn_on_the_target_if_one_wants_it(host: Host, models: Path) -> None:
    comparing, label = Comparing(host), move(host)
    _, _, _, chosen, *_ = comparing.preview(silent, asked(label, strengths="0.4, 0.8", seeds="3, 4"))
    assert [(shot.base.name, shot.strength, shot.seed) for shot in host.drawn] == [("finetune", 0.8, 3)]
    assert (models / "Lora" / "contrast-base-finetune-copy.preview.png").is_file()
    assert chosen == [0]
    _, _, _, _, _, about, _, swap, *_ = comparing.preview(silent, asked(label))
    assert "has a preview already" in about
    assert swap["visible"]


def test_the_strength_goes_to_the_card_and_leaves_the_rest_of_it(host: Host, models: Path) -> None:
    comparing, label = Comparing(host), move(host)
    _, _, drawn, *_ = comparing.compare(silent, asked(label, strengths="0.4, 0.8"))
    chosen, updates = clicked(comparing, drawn, 1)
    assert updates[-1]["value"] == "Use this strength (0.8)"
    card = models / "Lora" / "contrast-base-finetune-copy.json"
    card.write_text(json.dumps({"activation text": "crâne", "preferred weight": 0, "extra": [1]}), encoding="utf-8-sig")
    comparing.weigh(drawn, chosen)
    assert json.loads(card.read_text("utf-8")) == {"activation text": "crâne", "preferred weight": 0.8, "extra": [1]}
    card.unlink()
    comparing.weigh(drawn, clicked(comparing, drawn, 0)[0])
    assert json.loads(card.read_text("utf-8")) == {"preferred weight": 0.4}
    card.write_text("{broken", encoding="utf-8")
    assert "card" in comparing.weigh(drawn, chosen)[0]
    assert card.read_text("utf-8") == "{broken"


def test_what_was_just_moved_is_chosen(host: Host) -> None:
    old, new = move(host), move(host, method="lorax")
    update = chosen_of(host, [moved_loras(host)[new][0].path])
    assert set(update["choices"]) == {old, new}
    assert update["value"] == [new]
