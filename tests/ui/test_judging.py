"""The tab's verdicts follow what the cache holds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from lorax.catalog import sha256
from lorax.checkpoint import open_checkpoint
from lorax.files import Cache, Entry
from lorax.formats import open_adapter
from lorax.models import Answers, NoisyBatch
from lorax.options import Options, Running
from lorax.transfer import Do, plan
from lorax.transfer.resume import Store
from lorax.transfer.teaching import prompts_of

pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")


def test_pictures_that_come_or_go_change_the_time_that_is_told(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a second job too, and although the question is the same."""
    from lorax.hosts.standalone import Standalone
    from lorax.ui.judging import Asked, Judging

    monkeypatch.setattr("lorax.models.speed.REMEMBERED", float("inf"))
    cache, lora = Cache(tmp_path / "cache", 1 << 30, 0), models / "Lora" / "contrast-base.safetensors"
    host = Standalone(models, cache)
    judging = Judging(host)
    monkeypatch.setattr(judging.verdicts, "_lacking", "")  # an estimate needs no diffusers
    source, target = (host.bases()[name] for name in ("base", "finetune"))
    adapters = [host.adapters()["Lora/contrast-base"]]
    for path in (lora, source.path):
        sha256(path)

    def told(count: int) -> float:
        asked = Asked(adapters, target, source, (), Running(pictures=count, steps=1))
        deadline = time.monotonic() + 600
        while (found := judging.ask("1", asked)) is None:
            assert time.monotonic() < deadline
        return next(action.seconds for action in found[0].actions if action.do is Do.REFINE)

    def drawn(count: int) -> None:
        bases = open_checkpoint(source.path, sha256(source.path)), open_checkpoint(target.path)
        planned = plan(open_adapter(lora), *bases, Options("refine"), Running(pictures=count, steps=1))
        store = Store.of(planned, cache)
        values = torch.zeros(count, 4, 8, 8).half()
        store.save_answers(Answers(NoisyBatch(values, values.clone(), torch.zeros(count), prompts_of(planned, count)), count))

    before = told(16), told(32)
    asked = len(judging._found)
    cache.put("of another kind", Entry({"x": torch.ones(1)}, {}))
    assert (told(16), told(32)) == before
    assert len(judging._found) == asked, "what is kept is not asked anew for whatever comes into the cache"
    drawn(16)
    first = told(16), told(32)
    drawn(32)
    second = told(16), told(32)
    cache.clear()
    assert first[0] < 0.7 * before[0]
    assert first[1] == before[1]
    assert second[0] == first[0]
    assert second[1] < 0.7 * before[1]
    assert (told(16), told(32)) == before
