"""The declaration of the options and what is made from it."""

from __future__ import annotations

import dataclasses

import pytest

from lorax.cli import main
from lorax.options import Caching, Options, Saving, declared


@pytest.mark.parametrize("declaration", [Options, Saving, Caching])
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
    assert all(option.flag in shown for option in declared(Options) + declared(Saving))
