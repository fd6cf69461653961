"""Keeps the parts of a job of minutes or hours, so that a job which was stopped goes on when it is asked for again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from lorax import __version__
from lorax.checkpoint import Checkpoint
from lorax.files import Cache, Entry, hashes
from lorax.models import Pictures, State
from lorax.transfer.planning import Plan
from lorax.transfer.teaching import prompts_of, trigger_of


class Store:
    """A cache on disk, for one job. Without such a cache nothing is kept and nothing is found.

    ``job`` names the result, ``source`` what the source draws for it.
    """

    def __init__(self, cache: Cache | None, job: str, source: str = "") -> None:
        self._cache, self.job, self.source = cache, job, source

    @classmethod
    def of(cls, plan: Plan, cache: Cache | None, start: str | None = None) -> Store:
        """Return the store of a plan's job. ``start`` names what its training starts from, if that is not as usual."""
        if cache is None or not cache.is_on_disk:
            return cls(None, "")
        source = _source_of(plan)
        return cls(cache, _job_of(plan, source, start), source)

    def pictures(self, plan: Plan, count: int) -> Pictures | None:
        """Return ``count`` pictures that the source has drawn, or None."""
        entry = self._get(f"{self.source}-{count}-drawn")
        return Pictures(prompts_of(plan, count), entry.tensors["pictures"]) if entry is not None else None

    def save_pictures(self, pictures: Pictures) -> None:
        """Keep pictures beyond the job: other targets of the adapter are shown the same."""
        self._put(f"{self.source}-{len(pictures.prompts)}-drawn", {"pictures": pictures.pixels}, {})

    def load(self) -> State | None:
        """Return the state of the job's training, or None."""
        return self._get(f"{self.job}-trained")

    def save(self, state: State) -> None:
        """Keep the state of the job's training."""
        self._put(f"{self.job}-trained", *state)

    def _get(self, name: str) -> Entry | None:
        return self._cache.get(name, remember=False) if self._cache else None

    def _put(self, name: str, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
        if self._cache:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            self._cache.put(name, Entry(whole, dict(notes)), remember=False)


def _job_of(plan: Plan, source: str, start: str | None) -> str:
    """Hash all that decides the result: what the files hold, not where they are, and what is asked for."""
    options, running = dataclasses.asdict(plan.options), dataclasses.asdict(plan.running)
    return _hash(source, *_identity(plan.target), options, running, start)


def _source_of(plan: Plan) -> str:
    """Hash all that decides what the source draws, but for the number of pictures."""
    beside = _sha256(plan.adapter.path.with_name("adapter_config.json"))
    running = {"captions": plan.running.captions, "trigger": trigger_of(plan)}
    return _hash(__version__, hashes(plan.adapter.path).sha256, beside, *_identity(plan.source), running)


def _identity(base: Checkpoint) -> tuple[str, str]:
    return base.identity.sha256, _sha256(base.path.with_suffix(".yaml"))


def _hash(*content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
