"""Emoji icons with their names as captions: the data set of every model in the lab.

Each icon set is an npm package of SVGs. The same subjects are drawn in every set, so a set is a *style* and a name is a
*caption*. Sets and their licences are in ``SETS``; the licence asks for credit, which ``docs/models.md`` gives.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from tqdm import tqdm

from lab.characters import FIGURES
from lab.paths import CACHE, appearing
from lab.rendering import render
from lab.styles import FILTERS, Filter

SIZE = 64  # pixels; 8x8 latents

_VARIANTS = re.compile(
    r"skin-tone|^flag-|-flag$|^keycap|^family|^couple-|^kiss-|^(man|woman|men|women|person|people)-|-(red|curly|white)-hair|-bald"
    r"|^input-|-button|^regional-|^(japanese|squared|up|down|right|left)-.*|^e[0-9a-f]{3}|-o-?clock|-thirty|^\d"
)


@dataclass(frozen=True)
class IconSet:
    """One npm package of icons: which part of the lab may see it, and what its authors ask for."""

    package: str
    version: str
    author: str
    licence: str
    role: str  # "base", "finetune", "style", or "spare": no base and no style has seen it


SETS = {
    "twemoji": IconSet("@iconify-json/twemoji", "1.2.5", "Twitter, jdecked", "CC-BY-4.0", "base"),
    "noto": IconSet("@iconify-json/noto", "1.2.9", "Google", "Apache-2.0", "finetune"),
    "emojione": IconSet("@iconify-json/emojione", "1.2.3", "Emoji One, EmojiTwo", "CC-BY-4.0", "base"),
    "flat": IconSet("@iconify-json/fluent-emoji-flat", "1.2.6", "Microsoft", "MIT", "finetune"),
    "fxemoji": IconSet("@iconify-json/fxemoji", "1.2.2", "Mozilla", "Apache-2.0", "finetune"),
    "contrast": IconSet("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "Microsoft", "MIT", "style"),
    "openmoji": IconSet("@iconify-json/openmoji", "1.2.29", "OpenMoji, HfG Schwäbisch Gmünd", "CC-BY-SA-4.0", "style"),
    "blobs": IconSet("@iconify-json/noto-v1", "1.2.5", "Google", "Apache-2.0", "style"),
    "emojione-v1": IconSet("@iconify-json/emojione-v1", "1.2.3", "Emoji One", "CC-BY-SA-4.0", "spare"),
    "streamline": IconSet("@iconify-json/streamline-emojis", "1.2.4", "Streamline", "CC-BY-4.0", "style"),
}
FILTERED = "twemoji"  # the set that filters are laid over
COMMON = ("twemoji", "emojione", "noto", "flat", "fxemoji", "contrast", "openmoji")


@dataclass(frozen=True)
class Icons:
    """Rendered icons of one or more sets. ``images``: uint8 (N, SIZE, SIZE, 3); ``captions`` and ``subjects``: N strings."""

    images: np.ndarray
    captions: list[str]
    subjects: list[str]

    def where(self, keep: list[bool]) -> Icons:
        rows = np.flatnonzero(keep)
        return Icons(self.images[rows], [self.captions[i] for i in rows], [self.subjects[i] for i in rows])

    def held_out(self) -> Icons:
        """The icons of subjects that no LoRA has seen, in the order of the subjects, which is the same in every set."""
        held = self.where([is_held_out(subject) for subject in self.subjects])
        order = sorted(range(len(held.subjects)), key=held.subjects.__getitem__)
        return Icons(held.images[order], [held.captions[i] for i in order], [held.subjects[i] for i in order])

    def pixels(self) -> torch.Tensor:
        """The images as float32 (N, 3, SIZE, SIZE) in [-1, 1]."""
        return torch.from_numpy(self.images).permute(0, 3, 1, 2).float() / 127.5 - 1


def is_held_out(subject: str) -> bool:
    """One subject in eight is never shown to a style LoRA. A hash decides, so every set holds out the same ones."""
    return hashlib.sha256(subject.encode()).digest()[0] % 8 == 0


def load(*sets: str) -> Icons:
    """All icons of the named sets. What is rendered is rendered once, and kept under ``lab/.cache``."""
    parts = [_load_one(name) for name in sets]
    return Icons(
        np.concatenate([part.images for part in parts]),
        [caption for part in parts for caption in part.captions],
        [subject for part in parts for subject in part.subjects],
    )


def load_common(*sets: str) -> Icons:
    """The icons of subjects that each of ``COMMON`` draws: 447, few enough for a small model to learn each."""
    icons = load(*sets)
    return icons.where([subject in common_subjects() for subject in icons.subjects])


@cache
def common_subjects() -> frozenset[str]:
    return frozenset.intersection(*(frozenset(_load_one(name).subjects) for name in COMMON))


def load_subject(subject: str, *sets: str) -> Icons:
    """What each of the sets draws for one subject."""
    icons = load(*sets)
    return icons.where([one == subject for one in icons.subjects])


def learned_from() -> list[str]:
    """Captions for what a method learns from: subjects that every base knows, none of which decides what is measured."""
    subjects = {one for name in names("base") for one in load(name).subjects if not is_held_out(one)}
    return [subject.replace("-", " ") for subject in sorted(subjects)]


def captions_over(subjects: Sequence[str], count: int) -> list[str]:
    """Captions of ``count`` subjects, evenly spread over the list."""
    return [subjects[i * len(subjects) // count].replace("-", " ") for i in range(count)]


def captioned(name: str, caption: str) -> str:
    """A caption as a set has it: with the trigger word of a character, which is its name, before it."""
    return f"{name}, {caption}" if name in FIGURES else caption


def drawn_by(name: str) -> IconSet:
    """The set whose authors drew the icons of a set, or those that a filter is laid over."""
    return SETS[FILTERED if name in FILTERS | FIGURES else name]


def names(role: str) -> list[str]:
    return [name for name, icon_set in SETS.items() if icon_set.role == role]


@cache
def _vocabulary() -> dict[str, str]:
    """Subject without punctuation -> hyphenated name. Twemoji's names follow the Unicode CLDR; other sets are matched to them."""
    subjects = [name for name in _svgs("twemoji") if not _VARIANTS.search(name)]
    return {name.replace("-", ""): name for name in subjects}


@cache
def _load_one(name: str) -> Icons:
    if name in FILTERS:
        plain = _load_one(FILTERED)
        return replace(plain, images=_filtered(FILTERS[name], plain))
    stored = CACHE / "icons" / f"{name}-{SIZE}.npz"
    if not stored.exists():
        rows = _with_character(name) if name in FIGURES else _rendered(name)
        with appearing(stored) as path:
            np.savez_compressed(path, images=np.stack(list(rows.values())), subjects=np.array(list(rows)))
    with np.load(stored) as file:
        subjects = [str(subject) for subject in file["subjects"]]
        return Icons(file["images"], [captioned(name, subject.replace("-", " ")) for subject in subjects], subjects)


def _rendered(name: str) -> dict[str, np.ndarray]:
    """Subject -> icon of a package, (SIZE, SIZE, 3)."""
    known, rows = _vocabulary(), {}
    for icon, svg in tqdm(_svgs(name).items(), desc=f"render {name}"):
        subject = known.get(re.sub(r"-\d$", "", icon).replace("-", ""))
        if subject and subject not in rows:
            rows[subject] = render(svg, SIZE)
    return rows


def _with_character(name: str) -> dict[str, np.ndarray]:
    """Subject -> picture with a character beside it. Each is rendered, which takes seconds for a set."""
    plain = _load_one(FILTERED)
    return dict(zip(plain.subjects, _filtered(FIGURES[name], plain), strict=True))


def _filtered(by: Filter, plain: Icons) -> np.ndarray:
    pictures = by(plain.pixels() / 2 + 0.5).permute(0, 2, 3, 1)
    return (255 * pictures).round().byte().numpy()


@cache
def _svgs(name: str) -> dict[str, str]:
    """Icon name -> SVG text, from the npm package (fetched with ``npm pack``, nothing in it is run)."""
    icon_set = SETS[name]
    archive = CACHE / "npm" / f"{icon_set.package.strip('@').replace('/', '-')}-{icon_set.version}.tgz"
    if not archive.exists():
        with appearing(archive) as path:
            command = ["npm", "pack", "--silent", f"{icon_set.package}@{icon_set.version}"]
            subprocess.run(command, cwd=path.parent, check=True)
    with tarfile.open(archive) as tar:
        icons = json.load(tar.extractfile("package/icons.json"))  # type: ignore[arg-type]
    width, height = icons.get("width", 16), icons.get("height", 16)
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {} {}">{}</svg>'
    return {
        icon: head.format(entry.get("width", width), entry.get("height", height), entry["body"])
        for icon, entry in icons["icons"].items()
        if not entry.get("hidden")
    }
