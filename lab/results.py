"""What was measured, as lines of JSON: one file for each target, only ever appended to, so a stopped sweep goes on.

``pack`` compresses what is committed to a fifth; new measurements are again appended to a plain file beside it.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lab.paths import RESULTS
from lab.zoo import ADAPTERS, others

STYLE, ORDINARY = "style", "ordinary"
ALONE, NATIVE = "alone", "native"


def native_of(style: str) -> str:
    """The variant under which another style's native adapter is stored, at the norm of the one whose icons it is measured on."""
    return f"{NATIVE} of {style}"


@dataclass(frozen=True)
class Key:
    """One measurement. ``variant`` is a name in ``lab.variants``, or the target ``alone``, or with its ``native`` adapter."""

    target: str
    adapter: str  # whose held-out icons it is measured on
    variant: str
    source: str = ""  # empty: alone, native
    strength: float = 1.0
    on: str = STYLE  # or ORDINARY: the target's own captions


class Results:
    """Losses, float32 (icons, seeds), by key; what a transfer's report says and what a probe found before, by key without
    strength; minutes by target."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder = folder
        self._appended: set[str] = set()
        self.losses: dict[Key, torch.Tensor] = {}
        self.reports: dict[Key, dict[str, Any]] = {}
        self.probes: dict[Key, dict[str, Any]] = {}
        self.minutes: dict[str, float] = {}
        for target in sorted({file.name.partition(".")[0] for file in folder.glob("*.jsonl*")}):
            for line in _stored(folder / f"{target}.jsonl").decode().splitlines():
                record = json.loads(line)
                if "minutes" in record:
                    self.minutes[target] = self.minutes.get(target, 0.0) + record["minutes"]
                elif "losses" in record:
                    self.losses[Key(**record["key"])] = torch.tensor(record["losses"])
                elif "probe" in record:
                    self.probes[Key(**record["key"])] = record["probe"]
                else:
                    self.reports[Key(**record["key"])] = record["report"]

    def of_others(self, target: str, adapter: str) -> list[torch.Tensor]:
        """What the other styles' native adapters give on an adapter's icons, as far as it was measured."""
        keys = (Key(target, adapter, native_of(other.icons)) for other in others(ADAPTERS[adapter]))
        return [self.losses[key] for key in keys if key in self.losses]

    def add_losses(self, key: Key, losses: torch.Tensor) -> None:
        # Three digits change no recovery by more than 0.005, and keep a checkout small.
        rounded = [[float(f"{value:.3g}") for value in row] for row in losses.tolist()]
        self.losses[key] = torch.tensor(rounded)
        self._append(key.target, {"key": asdict(key), "losses": rounded})

    def add_report(self, key: Key, report: dict[str, Any]) -> None:
        self.reports[key] = report
        self._append(key.target, {"key": asdict(key), "report": report})

    def add_probe(self, key: Key, found: dict[str, Any]) -> None:
        self.probes[key] = found
        self._append(key.target, {"key": asdict(key), "probe": found})

    def add_minutes(self, target: str, minutes: float) -> None:
        """What one run took on a target; a sweep that was stopped and went on has several."""
        self.minutes[target] = self.minutes.get(target, 0.0) + minutes
        self._append(target, {"minutes": round(minutes, 2)})

    def _append(self, target: str, record: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{target}.jsonl"
        if target not in self._appended:
            self._appended.add(target)
            _drop_half_a_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, separators=(",", ":")) + "\n")


def pack(folder: Path) -> None:
    """Compress what is stored in a folder."""
    for path in folder.glob("*.jsonl"):
        content = lzma.compress(_stored(path), preset=9 | lzma.PRESET_EXTREME)
        part = path.with_suffix(".part")
        part.write_bytes(content)
        part.replace(_packed(path))
        path.unlink()


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.xz")


def _stored(path: Path) -> bytes:
    """The whole lines about a target, the packed ones first, since the later of two measurements counts."""
    packed = lzma.decompress(_packed(path).read_bytes()) if _packed(path).exists() else b""
    return packed + (_whole_lines(path.read_bytes()) if path.exists() else b"")


def _whole_lines(content: bytes) -> bytes:
    """All but half a last line, of a process that was killed or is at it; what it says is measured again."""
    return content[: content.rfind(b"\n") + 1]


def _drop_half_a_line(path: Path) -> None:
    if path.exists() and (content := path.read_bytes()) != (whole := _whole_lines(content)):
        path.write_bytes(whole)
