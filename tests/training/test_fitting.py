"""The small form in the WebUI: rebuilt on its source, moved from there to another checkpoint, and not applied without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lorax.checkpoint import open_checkpoint
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.runner import Runner
from lorax.training import Network, save
from tests.fitted import assert_equal, fit, saved, tensors


@pytest.fixture
def small(network: Callable[..., Network], out: Path) -> Path:
    save(network(), out / "small.safetensors")
    return out / "small.safetensors"


def test_it_is_what_a_transfer_writes(runner: Runner, small: Path, finetune: Path, out: Path) -> None:
    source = runner.base.path
    moved = fit(small, finetune, source)
    assert moved.message == ""
    assert_equal(tensors(moved, finetune), saved(small, source, finetune, out))
    own = tensors(fit(small, source), source)
    (out / "plain.safetensors").unlink()
    expected = saved(small, source, source, out)
    assert own.keys() == expected.keys()
    for layer, dW in open_adapter(small).deltas_of(open_checkpoint(source)).items():
        up = own[f"{runner.base.names.kohya(layer)}.lora_up.weight"]
        assert up.shape[1] == dW.rank


def test_without_its_source_it_is_not_applied(runner: Runner, small: Path, finetune: Path) -> None:
    with pytest.raises(LoraxError, match=r"rebuilt from base.safetensors \(sha256 \w{10}\), which is not here") as error:
        fit(small, finetune)
    assert "form with factors" in str(error.value)


def test_progress_is_told_while_it_is_rebuilt(runner: Runner, small: Path) -> None:
    from lorax.files import Cache
    from lorax.workflow import Fitter
    from tests.fitted import Shelf

    told: list[str] = []
    Fitter(Cache(None, 0, 0), Shelf()).fit(small, runner.base.path, "cpu", lambda done, total, text: told.append(text))
    count = len(open_adapter(small).layers)
    assert [text.split(", about")[0] for text in told] == [f"moving layers, {done} of {count}" for done in range(count)]
