"""The declaration of the options and what is made from it."""

from __future__ import annotations

import dataclasses

import pytest

from lorax.cli import main
from lorax.errors import LoraxError
from lorax.options import Batching, Caching, Options, Running, Saving, declared


@pytest.mark.parametrize("declaration", [Options, Running, Saving, Batching, Caching])
def test_every_field_is_declared_with_words_for_an_artist(declaration: type) -> None:
    options = declared(declaration)
    assert [option.name for option in options] == [field.name for field in dataclasses.fields(declaration)]
    for option in options:
        assert option.label
        assert option.help
        assert option.kind is bool or option.choices or option.example or option.bounds
        assert option.choices is None or option.default in option.choices


def test_the_command_line_offers_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["transfer", "--help"])
    shown = capsys.readouterr().out
    assert all(option.flag in shown for option in declared(Options) + declared(Running) + declared(Saving) + declared(Batching))


def test_texts_come_a_line_each() -> None:
    (captions,) = (option for option in declared(Running) if option.lines)
    assert captions.parse(" cat face\n\n red car \n") == ("cat face", "red car")
    assert captions.parse("\n ") == captions.parse(None) == ()


def test_a_number_that_may_be_empty_has_no_slider() -> None:
    """A slider always shows a number, and so would hide that the best one is taken."""
    options = {option.name: option for option in (*declared(Running), *declared(Saving), *declared(Caching))}
    assert {name for name, option in options.items() if option.slider} == {"strength", "cache_size", "cache_memory"}
    assert [options["pictures"].parse(given) for given in ("", None, " 384 ")] == [None, None, 384]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"steps": 0}, "steps 0: expected a whole number of at least 1"),
        ({"lora_rank": 0}, "lora_rank 0: expected a whole number of at least 1"),
        ({"pictures": 15}, "pictures 15: expected a whole number from 16 to 4096"),
        ({"pictures": 5000}, "pictures 5000"),
        ({"captions": ("cat", " ")}, "captions: number 2 of 2 is empty"),
    ],
)
def test_what_models_cannot_be_asked_is_refused(bad: dict, words: str) -> None:
    with pytest.raises(LoraxError, match=words):
        Running(**bad)
