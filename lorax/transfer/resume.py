"""Stores the intermediate results of a long job, so that an interrupted job can resume."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from lorax import __version__
from lorax.checkpoint import Checkpoint
from lorax.files import Cache, Entry
from lorax.models import Answers, NoisyBatch, Pictures, State
from lorax.transfer.planning import Plan
from lorax.transfer.teaching import prompts_of, trigger_of

DRAWN = "drawn"  # the last word of the keys of pictures, and of answers on pictures
ANSWERED = "answered"  # the word before it in those of answers


class Store:
    """A cache on disk for one job; without a cache it is always empty. ``job`` is of the result, ``source`` of what is drawn."""

    def __init__(self, cache: Cache | None, job: str, source: str = "") -> None:
        self._cache, self.job, self.source = cache, job, source

    @classmethod
    def of(cls, plan: Plan, cache: Cache | None, start: str | None = None) -> "Store":
        """Return the store of a plan's job. ``start``: the method whose result its training starts from, if not ``auto``.

        The keys hash all that decides the result or the pictures: the content of files, and the options.
        """
        if cache is None or not cache.is_on_disk:
            return cls(None, "")
        source, options, running = _drawing(plan), dataclasses.asdict(plan.options), dataclasses.asdict(plan.running)
        return cls(cache, _hash(source, *_identity(plan.target), options, running, start), source)

    def pictures(self, plan: Plan, count: int) -> Pictures | None:
        """Return ``count`` pictures that the source drew, or None."""
        entry = self._get(_drawn(self.source, count))
        return Pictures(prompts_of(plan, count), entry.tensors["pictures"]) if entry is not None else None

    def save_pictures(self, pictures: Pictures) -> None:
        """Store pictures, which also serve other targets of the adapter that take as many."""
        self._put(_drawn(self.source, len(pictures.prompts)), {"pictures": pictures.pixels}, {})

    def answers(self, plan: Plan, count: int) -> Answers | None:
        """Return what the source predicted on ``count`` pictures, or None."""
        if (entry := self._get(_drawn(self.source, count, ANSWERED))) is None:
            return None
        latents, noise, times = (entry.tensors[name] for name in ("latents", "noise", "times"))
        prompts = prompts_of(plan, count) * (len(times) // count)
        return Answers(NoisyBatch(latents, noise, times, prompts), count)

    def save_answers(self, answers: Answers) -> None:
        """Store what the source predicted, which also serves other targets of the adapter that take as much."""
        batch = answers.batch
        tensors = {"latents": batch.latents, "noise": batch.noise, "times": batch.times}
        self._put(_drawn(self.source, answers.pictures, ANSWERED), tensors, {})

    def load(self) -> State | None:
        """Return the state of the job's training, or None."""
        return self._get(f"{self.job}-trained")

    def save(self, state: State) -> None:
        """Store the state of the job's training."""
        self._put(f"{self.job}-trained", *state)

    def _get(self, name: str) -> Entry | None:
        return self._cache.get(name, remember=False) if self._cache else None

    def _put(self, name: str, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
        if self._cache and self._cache.has_room(tensors.values()):
            stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            self._cache.put(name, Entry(stored, dict(notes)), remember=False)


def pictures_changed(cache: Cache | None) -> int:
    """Return a number that differs once this process has put pictures or answers into the cache, or removed some."""
    return cache.changes(DRAWN) if cache else 0


def has_drawn(plan: Plan, cache: Cache | None, count: int, *, answered: bool) -> bool:
    """Tell whether the cache has ``count`` pictures that the source drew with the adapter, or its answers on as many.

    They are not looked for before the hash of the source is known, since it takes as long as reading the source.
    """
    if cache is None or not cache.is_on_disk or plan.source.identity.unread:
        return False
    return cache.has(_drawn(_drawing(plan), count, *([ANSWERED] if answered else [])))


def _drawing(plan: Plan) -> str:
    """Return the hash of all that decides what the source draws with the adapter."""
    config, drawing = plan.adapter.path.with_name("adapter_config.json"), {"captions": plan.running.captions}
    adapter = plan.adapter.sha256, _sha256(config)
    return _hash(__version__, *adapter, *_identity(plan.source), drawing | {"trigger": trigger_of(plan)})


def _drawn(source: str, count: int, *words: str) -> str:
    """Return the key of ``count`` pictures, or of what the words say of them."""
    return "-".join([source, str(count), *words, DRAWN])


def _identity(base: Checkpoint) -> tuple[str, str]:
    return base.identity.sha256, _sha256(base.path.with_suffix(".yaml"))


def _hash(*content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
