"""What a job of minutes or hours keeps of itself: asked for again after it was stopped, it goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from lorax import __version__
from lorax.behaviour.training import Training
from lorax.cache import Cache, Entry
from lorax.tensors import hashes
from lorax.transfer import Plan

DRAWN, TRAINED = PARTS = "drawn", "trained"  # what the source drew, and the state of the training


class Kept:
    """In a cache on disk, within its limits, where there is one; else nothing is kept, and nothing found."""

    def __init__(self, cache: Cache | None, key: str) -> None:
        self._cache, self._key = cache, key

    @classmethod
    def of(cls, plan: Plan, cache: Cache | None) -> Kept:
        return cls(cache, key(plan)) if cache is not None and cache.is_on_disk else NOTHING

    def get(self, part: str) -> Entry | None:
        return self._cache.get(self._name(part), remember=False) if self._cache else None

    def put(self, part: str, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
        if self._cache:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            self._cache.put(self._name(part), Entry(whole, dict(notes)), remember=False)

    def restored(self, training: Training) -> bool:
        """Whether the training goes on from what was kept of it."""
        if (entry := self.get(TRAINED)) is None:
            return False
        try:
            training.restore(*entry)
        except (KeyError, ValueError):  # another version's
            return False
        return True

    def remove(self) -> None:
        """The job has finished."""
        if self._cache:
            for part in PARTS:
                self._cache.remove(self._name(part))

    def _name(self, part: str) -> str:
        return f"{self._key}-{part}"


NOTHING = Kept(None, "")


def key(plan: Plan) -> str:
    """Of all that decides the result: what the files hold, and not where they are; and what is asked for."""
    running = plan.running
    beside = [*(base.path.with_suffix(".yaml") for base in (plan.source, plan.target))]
    beside += [plan.adapter.path.with_name("adapter_config.json"), Path(running.captions)]
    content = [
        __version__,
        hashes(plan.adapter.path).sha256,
        plan.source.sha256,
        plan.target.sha256,
        *(_sha256(path) for path in beside),
        dataclasses.asdict(plan.options),
        dataclasses.asdict(running) | {"captions": ""},
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
