"""What a job of minutes or hours keeps of itself: asked for again after it was stopped, it goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from lorax import __version__
from lorax.checkpoint.checkpoint import Checkpoint
from lorax.files.cache import Cache, Entry
from lorax.files.hashing import hashes
from lorax.models.training import Training
from lorax.transfer.planning import Plan
from lorax.transfer.teacher import Drawn, prompts_of, trigger_of


class Kept:
    """In a cache on disk, within its limits, where there is one; else nothing is kept, and nothing found.

    ``job`` names the result, ``source`` what the source draws for it.
    """

    def __init__(self, cache: Cache | None, job: str, source: str = "") -> None:
        self._cache, self.job, self.source = cache, job, source

    @classmethod
    def of(cls, plan: Plan, cache: Cache | None, start: str | None = None) -> Kept:
        if cache is None or not cache.is_on_disk:
            return NOTHING
        source = _source_of(plan)
        return cls(cache, _job_of(plan, source, start), source)

    def drawn(self, plan: Plan, count: int) -> Drawn | None:
        """What the source has drawn, as many pictures as these."""
        entry = self._get(self._of_source(count))
        return Drawn.of(entry, prompts_of(plan, count)) if entry is not None else None

    def keep_drawn(self, drawn: Drawn) -> None:
        """Also beyond the job: other targets of the adapter are shown the same."""
        self._put(self._of_source(len(drawn.prompts)), *drawn.state())

    def keep(self, training: Training) -> None:
        self._put(self._of_job, *training.state())

    def restored(self, training: Training) -> bool:
        """Whether the training goes on from what was kept of it."""
        if (entry := self._get(self._of_job)) is None:
            return False
        try:
            training.restore(*entry)
        except (KeyError, ValueError):  # another version's
            return False
        return True

    @property
    def _of_job(self) -> str:
        return f"{self.job}-trained"

    def _of_source(self, count: int) -> str:
        return f"{self.source}-{count}-drawn"

    def _get(self, name: str) -> Entry | None:
        return self._cache.get(name, remember=False) if self._cache else None

    def _put(self, name: str, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
        if self._cache:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            self._cache.put(name, Entry(whole, dict(notes)), remember=False)


NOTHING = Kept(None, "")


def _job_of(plan: Plan, source: str, start: str | None) -> str:
    """Of all that decides the result: what the files hold, and not where they are; and what is asked for."""
    options, running = dataclasses.asdict(plan.options), dataclasses.asdict(plan.running)
    return _hash(source, *_identity(plan.target), options, running, start)


def _source_of(plan: Plan) -> str:
    """Of all that decides what the source draws, but for the number of pictures."""
    beside = _sha256(plan.adapter.path.with_name("adapter_config.json"))
    running = {"captions": plan.running.captions, "trigger": trigger_of(plan)}
    return _hash(__version__, hashes(plan.adapter.path).sha256, beside, *_identity(plan.source), running)


def _identity(base: Checkpoint) -> tuple[str, str]:
    return base.identity.sha256, _sha256(base.path.with_suffix(".yaml"))


def _hash(*content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
