"""What the tab says and draws, without gradio."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from lorax.catalog import Facts, ListedFile
from lorax.methods.auto import strength
from lorax.reasons import Reason, Why
from lorax.transfer import AlreadyThere, Kind, LayerRecord, Report, Status, Verdict, verdict_words
from lorax.ui import telling, words
from lorax.ui.heatmap import heatmap
from lorax.workflow import End, Outcome, Result

LAYERS = {
    "unet.input_blocks.1.1.transformer_blocks.0.attn1.to_q": 0.9,
    "unet.middle_block.1.transformer_blocks.0.attn2.to_k": 0.5,
    "unet.output_blocks.11.0.in_layers.2": 0.25,
    "unet.input_blocks.2.1.proj_in": 1.0,
    "te.text_model.encoder.layers.0.self_attn.q_proj": 0.0,
}


UNMATCHED = LayerRecord("lora_x", Status.UNMATCHED, Reason(Why.NO_LAYER_IN_SOURCE), 1.0)


def moved(name: str, why: Why = Why.COPIED, similarity: float | None = None, **details: object) -> LayerRecord:
    return LayerRecord(name, Status.TRANSFERRED, Reason(why, details), 1.0, name, name, similarity=similarity, overlap=0.4)


def records() -> list[LayerRecord]:
    return [*(moved(name, similarity=value) for name, value in LAYERS.items()), UNMATCHED]


def result(report: Report | None = None, name: str = "style", written: Path | None = None) -> Result:
    path = Path(name)
    return Result(ListedFile(name, path), path, path, report or Report(records(), "auto"), (written,) if written else ())


def ended(name: str = "style", end: End = End.WRITTEN, made: Result | None = None) -> Outcome:
    path = Path(f"out/{name}.safetensors") if end.is_good else None
    error = "a sentence" if end is End.FAILED else ""
    listed = ListedFile(name, Path(name))
    return Outcome(listed, listed, end, listed, path, error, made or (result(written=path) if path else None))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (19, "less than a minute"),
        (21, "about 20 seconds"),
        (84, "about 80 seconds"),
        (95, "about 2 minutes"),
        (5400, "about 1.5 hours"),
    ],
)
def test_a_time_is_told_as_exactly_as_it_is_known(seconds: float, said: str) -> None:
    assert verdict_words.duration(seconds) == said


def test_the_heat_map_is_in_the_networks_order_and_in_words() -> None:
    figure = heatmap(records())
    assert figure is not None
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["text 0", "in 1", "in 2", "mid", "out 11"]
    roles = [label.get_text() for label in axis.get_yticklabels()]
    assert roles == ["attention entry", "convolution 1", "prompt attention k", "self-attention q", "text attention q"]
    values = axis.images[0].get_array()
    assert values is not None
    assert values[3][1] == 0.9
    assert values[2][3] == 0.5


def test_the_heat_map_of_deep_modules_and_two_encoders() -> None:
    """Transformer blocks of one module share a column; the text encoders do not."""
    attention = "unet.input_blocks.7.1.transformer_blocks"
    layers = {
        f"{attention}.0.attn1.to_q": 0.2,
        f"{attention}.9.attn1.to_q": 0.4,
        "te2.text_model.encoder.layers.0.mlp.fc1": 0.7,
        "te1.text_model.encoder.layers.0.mlp.fc1": 0.5,
        "te2.text_projection": 0.9,
    }
    figure = heatmap([moved(name, similarity=value) for name, value in layers.items()])
    assert figure is not None
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["text1 0", "text2 0", "in 7", "text_projection"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["alone", "self-attention q", "text feed-forward in"]
    values = axis.images[0].get_array()
    assert values is not None
    assert values[1][2] == pytest.approx(0.3)
    assert list(values[2][:2]) == [0.5, 0.7]


def test_no_heat_map_without_similarities() -> None:
    assert heatmap([UNMATCHED]) is None


def test_names_are_text_and_not_html() -> None:
    sly = "<img src=x onerror=alert(1)>"
    html = (
        words.summary([result(name=sly)])
        + words.facts_lines([(sly, Facts(trained_on=sly, trigger_words=sly))])
        + words.message(sly)
        + telling.written([ended(sly), ended(sly)], sly)
        + telling.written([ended(sly)], sly)
        + telling.verdicts([sly, sly], [Verdict(Kind.UNREADABLE, reason=sly)] * 2)
        + telling.guess(sly)
        + telling.delete([sly])
        + telling.loaded(sly, None)
    )
    assert "<img" not in html


def test_lines_with_special_words_explain_them() -> None:
    """Both lines of how many layers, the similarity and what was measured; and no other."""
    html = words.summary([result()])
    assert html.count("<abbr title='") == html.count("</abbr>") == 3
    assert "of what the LoRA changes. <abbr title='Layers are" in html


@pytest.mark.parametrize(
    "reason", [Why.PROJECTED, Why.PROJECTED_INSIDE, Why.CARRIED, Why.TWO_PARTS, Why.FOUR_PARTS, Why.COPIED_NOT_PROJECTED]
)
def test_the_reasons_of_methods_explain_themselves(reason: Why) -> None:
    html = words.summary([result(Report([moved("x", reason, rank=5, share=0.09)], "lorax"))])
    line = re.search("<li>(.*?)</li>", html)
    assert line
    assert "<abbr" in line[1]


def test_the_columns_explain_themselves() -> None:
    assert words.columns().count("<abbr title='") == sum(bool(tip) for tip in words.COLUMNS.values())


def test_what_the_target_already_has_is_said() -> None:
    html = words.summary([result(Report([moved("x")], "auto", strength=0.6))])
    assert "<p>The target already has 40% of what the LoRA adds. That is left out: the result is as strong as" in html
    assert "already has" not in words.summary([result()])


@pytest.mark.parametrize(("overlap", "said"), [(0.101, None), (0.12, "A part of that is left out"), (0.15, "That is left out")])
def test_no_more_is_said_to_be_left_out_than_is(overlap: float, said: str | None) -> None:
    record = dataclasses.replace(moved("x"), overlap=overlap)
    html = words.summary([result(Report([record], "auto", strength=strength(overlap), draws_as_original=True))])
    assert ("already has" in html) == bool(said)
    assert (said or "the original LoRA draws the same") in html
    assert "at 1.00" not in html


def test_what_was_not_written_is_said() -> None:
    declined = result(Report(records(), "auto", AlreadyThere(Path("target"), Path("other"), 0.97)), "other")
    assert "Written: <code>out/style.safetensors" in telling.written([ended()], "auto").replace("\\", "/")
    html = telling.written([ended(end=End.DECLINED, made=declined)], "auto")
    assert "target already has 97% of what other adds" in html
    table = telling.written([ended(), ended("other", End.FAILED), ended(end=End.DECLINED, made=declined)], "auto")
    assert [part in table for part in ("style.safetensors", "failed", "a sentence", "declined", "already has 97%")] == [True] * 5


def test_of_thousands_those_that_failed_have_a_line() -> None:
    outcomes = [*(ended(f"style-{number}") for number in range(2000)), ended("bad", End.FAILED), ended("left", End.STOPPED)]
    table = telling.written(outcomes, "auto")
    assert table.count("<tr>") == 1 + telling.LINES
    assert "a sentence" in table
    assert "2002 in all (failed: 1, written: 2000, stopped: 1)" in table


def test_numbers_of_the_table_stay_numbers() -> None:
    rows = words.rows([result()])
    assert rows[0][4] == 0.9
    assert rows[-1] == ["style", "lora_x", "no counterpart", "the source has no such layer", "", "", ""]


def test_tag() -> None:
    assert words.tag("<lora:x:1>", Facts()) == "<lora:x:1>"
    assert words.tag("<lora:x:1>", Facts(trigger_words="origami")) == "<lora:x:1> origami"
