"""The lab's bases and adapters: what is related to what, and one file for each."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file

from lab import data
from lab.eye.looking import PROMPTS
from lab.paths import EXTRA_LORAS, HEADLINE, LORAS
from lab.zoo import (
    ADAPTERS,
    ALL_PAIRS,
    BASES,
    CONCEPT,
    CROSSING,
    FINETUNES,
    FURTHER,
    HEADLINE_PAIRS,
    KIND_BASES,
    LOOKED_AT,
    NEAR,
    OWN_ICONS,
    REPORTING,
    SCRATCH,
    SCRATCH_AGAIN,
    SCRATCH_LONG,
    SHOWN,
    STRUCTURES,
    STYLES,
    UNCOMMITTED,
    XL,
    XL_LONG,
    XL_PRUNED,
    are_related,
    kind_of,
)
from lorax.demo.bundle import BASE, FINETUNE, PACKED, PRUNED, WHOLE, captions, unpack_file
from lorax.files import hashes
from lorax.formats import open_adapter, ranks
from lorax.transfer.expected import CROSSED
from tests.lab_models import NEEDS_ICONS, committed


def test_adapters_move_within_a_structure() -> None:
    assert sorted(base for structure in STRUCTURES for base in structure) == sorted(BASES)
    assert set(HEADLINE_PAIRS) <= set(ALL_PAIRS)
    assert len(ALL_PAIRS) == len(set(ALL_PAIRS)) == 4 * 3 + 2
    assert {frozenset((source, target)) for source, target in ALL_PAIRS if XL in (source, target)} == {frozenset((XL, XL_PRUNED))}


def test_only_the_base_from_another_seed_is_a_stranger() -> None:
    unrelated = {pair for pair in ALL_PAIRS if not are_related(*pair)}
    assert unrelated == {pair for pair in ALL_PAIRS if SCRATCH in pair}
    assert are_related(FINETUNE, PRUNED)
    assert are_related(BASE, NEAR)
    assert not are_related(NEAR, SCRATCH)
    assert not are_related(XL, FURTHER)
    assert not are_related(*CROSSING)
    assert not are_related(BASE, SCRATCH_LONG)
    assert are_related(SCRATCH, SCRATCH_LONG)
    assert not any(are_related(one, SCRATCH_AGAIN) for one in OWN_ICONS if one != SCRATCH_AGAIN)
    assert are_related(XL_PRUNED, XL_LONG)
    assert kind_of(BASE, XL_LONG) == kind_of(*CROSSING) == CROSSED


def test_every_adapter_has_its_own_file_on_every_base() -> None:
    paths = [adapter.path(base) for adapter in ADAPTERS.values() for base in adapter.bases]
    short, long = 3 + 3 * 5 * len(BASES), len(SHOWN) * len(OWN_ICONS) + 3 * len(REPORTING)
    others = len(KIND_BASES) * (len(LOOKED_AT) - len(SHOWN))
    assert len(paths) == len(set(paths)) == short + long + others
    assert Counter(path.parent for path in paths) == {EXTRA_LORAS: len(paths)}
    packed = [adapter.packed(base) for adapter in ADAPTERS.values() for base in adapter.bases]
    assert Counter(path.parent for path in packed if path) == {LORAS: 3, HEADLINE / "loras": 3 + 24 + len(SHOWN) - 1}


def test_each_rank_has_every_style_and_the_concept() -> None:
    for rank in (4, 16, 64):
        icons = [adapter.icons for name, adapter in ADAPTERS.items() if name.endswith(f"-r{rank}")]
        assert icons == [*STYLES, CONCEPT]
    assert all(adapter.is_concept == (adapter.icons == CONCEPT) for adapter in ADAPTERS.values())
    assert {adapter.icons for adapter in ADAPTERS.values() if adapter.convolution and not adapter.kind} == {"openmoji"}


def test_committed_adapters_are_what_the_table_says(models: Path) -> None:
    looked_at = [f"{style}-long-base" for style in SHOWN]
    looked_at += ["badge-long-finetune", "badge-long-pruned"]  # for the demo
    planned = [(adapter, base) for adapter in ADAPTERS.values() for base in (BASE, FINETUNE, PRUNED)]
    found = [(adapter, base) for adapter, base in planned if adapter.packed(base)]
    found = [(adapter, base) for adapter, base in found if adapter.icons in STYLES or f"{adapter.name}-{base}" in looked_at]
    assert len(found) == 3 * (1 + len(STYLES)) + len(looked_at)
    for adapter, base in found:
        opened = open_adapter(committed(f"{adapter.name}-{base}"))
        assert set(ranks(opened)) == {adapter.rank}
        assert opened.metadata["ss_sd_model_name"] == f"{base}.safetensors"
        assert opened.metadata["ss_new_sd_model_hash"] == hashes(models / f"{base}.safetensors").sha256, "its base is told by it"
        spellings = ("resnets", "in_layers")  # the second where blocks are not numbered as usual
        assert any(part in name for name in opened.layers for part in spellings) == adapter.convolution


def test_roles_of_the_icon_sets() -> None:
    assert {data.SETS[OWN_ICONS[base]].role for base in BASES if base != FINETUNE} == {"base"}
    assert data.SETS[OWN_ICONS[FINETUNE]].role == "finetune"
    assert set(FINETUNES[FINETUNE].sets) == set(data.names("finetune"))
    assert {*BASES, *FINETUNES, *UNCOMMITTED} == set(OWN_ICONS)
    assert all(OWN_ICONS[name] in recipe.sets for name, recipe in FINETUNES.items())
    assert set(data.names("style")) == set(STYLES)


def test_what_a_method_learns_from_is_not_what_it_is_judged_by() -> None:
    known = captions()
    assert len(known) > 1000
    assert not any(data.is_held_out(caption.replace(" ", "-")) for caption in known)
    assert set(PROMPTS).isdisjoint(known)


@NEEDS_ICONS
def test_the_captions_are_what_the_bases_know() -> None:
    assert data.learned_from() == list(captions())


@NEEDS_ICONS
def test_no_base_has_seen_the_concept() -> None:
    assert CONCEPT not in data.common_subjects()
    assert len(data.common_subjects()) == 447


def test_the_fine_tunes_differ_from_the_base_as_docs_say(models: Path, tmp_path: Path) -> None:
    shutil.copy(models / f"{BASE}{WHOLE}", tmp_path)
    for name in (NEAR, FURTHER):
        unpack_file(HEADLINE / f"{name}{PACKED}", tmp_path / f"{name}{WHOLE}")
    shutil.copy(models / f"{FINETUNE}{WHOLE}", tmp_path)
    base = load_file(tmp_path / f"{BASE}{WHOLE}")
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
    for name in FINETUNES:
        tuned = load_file(tmp_path / f"{name}{WHOLE}")
        changed = [key for key, value in tuned.items() if value.ndim > 1 and not torch.equal(value, base[key])]
        whole = torch.cat([base[key].float().flatten() for key in changed])
        other = torch.cat([tuned[key].float().flatten() for key in changed])
        share = f"{100 * (other - whole).norm() / whole.norm():.0f} %"
        assert re.search(rf"`{name}`.{{0,80}}\b{share}", page, re.DOTALL), share
