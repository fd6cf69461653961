"""Transfers from one family to another: what is paired, what of it moves, and what is said if nothing does."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.cli import main
from lorax.pairing import pair
from lorax.pairing.by_place import _spread
from tests import builders, families, reference
from tests.families import Base
from tests.measures import GAP, distance, gap

PAIRS = list(itertools.permutations(families.MAKE, 2))
Bases = dict[str, Base]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return families.make(tmp_path_factory.mktemp("families"))


def move(lora: Path, source: Base, target: Base, out: Path, *more: str) -> tuple[Path, dict[str, Any]]:
    written, report = out / "moved.safetensors", out / "report.json"
    arguments = ["--source", str(source.path), "--target", str(target.path), "--output", str(written), "--report", str(report)]
    assert main(["transfer", str(lora), *arguments, "--dtype", "fp32", "--overwrite", *more]) == 0
    return written, {record["source"]: record for record in json.loads(report.read_text())["layers"]}


# --- text encoders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "t", "there"), [("sd1", "sdxl", "te1"), ("sdxl", "sd1", "te"), ("sdxl", "refiner", "te2")])
def test_a_shared_text_encoder_takes_its_adapter_exactly(bases: Bases, out: Path, s: str, t: str, there: str) -> None:
    """The default method moves it as layers of the same encoder; SDXL's other encoder has no counterpart."""
    title = {"te1": "CLIP ViT-L", "te": "CLIP ViT-L", "te2": "OpenCLIP ViT-bigG"}[there]
    shared = next(c.name for c in open_checkpoint(bases[s].path).family.components if c.title == title)
    expected = families.save_lora(out / "lora.safetensors", bases[s].path, lambda layer: layer.startswith(f"{shared}."))
    moved, records = move(out / "lora.safetensors", bases[s], bases[t], out)
    found = families.dense(moved, bases[t].path)
    assert found.keys() == {layer.replace(f"{shared}.", f"{there}.", 1) for layer in expected}
    for layer, dW in expected.items():
        assert distance(found[layer.replace(f"{shared}.", f"{there}.", 1)], dW) < 1e-6
        assert records[layer]["reason"] == "copied, since the weights are the same"


LONELY = [  # text encoders that the target does not have
    ("sd1", "sd2", "te"),
    ("sd1", "refiner", "te"),
    ("sd2", "sd1", "te"),
    ("sd2", "sdxl", "te"),
    ("sd2", "refiner", "te"),
    ("sdxl", "sd1", "te2"),
    ("sdxl", "sd2", "te1"),
    ("sdxl", "refiner", "te1"),
    ("refiner", "sd1", "te2"),
    ("refiner", "sd2", "te2"),
]


@pytest.mark.parametrize(("s", "t", "encoder"), LONELY)
def test_an_adapter_without_a_counterpart_is_refused_with_the_reason(
    bases: Bases, out: Path, capsys: pytest.CaptureFixture[str], s: str, t: str, encoder: str
) -> None:
    lora, source, target = out / "lora.safetensors", str(bases[s].path), str(bases[t].path)
    families.save_lora(lora, bases[s].path, lambda layer: layer.startswith(f"{encoder}."))
    assert main(["transfer", str(lora), "--source", source, "--target", target, "--output", str(out / "moved.safetensors")]) == 2
    title = next(one.title for one in open_checkpoint(bases[s].path).family.components if one.name == encoder)
    assert f"the target has no {title}" in capsys.readouterr().err
    assert not (out / "moved.safetensors").exists()


# --- UNets -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_auto_declines_between_families(bases: Bases, out: Path, s: str, t: str, capsys: pytest.CaptureFixture[str]) -> None:
    lora = out / "lora.safetensors"
    families.save_lora(lora, bases[s].path, lambda layer: ".attn" in layer)
    arguments = ["--source", str(bases[s].path), "--target", str(bases[t].path), "--output", str(out / "moved.safetensors")]
    assert main(["transfer", str(lora), *arguments]) == 3
    assert "are not related" in capsys.readouterr().err


@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_a_method_that_is_named_moves_what_has_a_place(
    bases: Bases, out: Path, s: str, t: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report says that it is worth little. What is written is found again on the target; what is not moved has a reason."""
    lora = out / "lora.safetensors"
    kinds = ("attn1.to_q", "attn2.to_k", "proj_in", "in_layers.2", "skip_connection", "op", "conv", "embed.0", "mlp.fc1")
    families.save_lora(lora, bases[s].path, lambda layer: layer.endswith(kinds))
    moved, records = move(lora, bases[s], bases[t], out, "--method", "lorax", "--threshold", "0")
    assert "are not related" in (said := capsys.readouterr().out)
    assert "expect little or nothing" in said
    target = open_checkpoint(bases[t].path)
    found = families.dense(moved, bases[t].path)
    assert (
        {record["target"] for record in records.values() if record["status"] == "transferred"}
        <= found.keys()
        <= target.layers.keys()
    )
    assert len({record["target"] for record in records.values()} - {None}) > 15
    for layer, record in records.items():
        known = (
            r"the target has (no|fewer) .*|the target's block in its place has no such layer|carried by.*|projected.*|copied.*"
        )
        assert re.fullmatch(known, record["reason"].split(";")[0]), (layer, record)


def placed(source: Checkpoint, target: Checkpoint) -> dict[str, str | None]:
    return {
        layer.removeprefix("unet."): found.target and found.target.removeprefix("unet.")
        for layer, found in pair(source, target).items()
    }


def test_places(bases: Bases) -> None:
    """SD 1.x has single blocks at three resolutions, SDXL up to four in a module at two, and its middle block is one deeper."""
    opened = {name: open_checkpoint(base.path) for name, base in bases.items()}
    there = placed(opened["sd1"], opened["sdxl"])
    query = "transformer_blocks.{}.attn1.to_q"
    assert there[f"input_blocks.1.1.{query.format(0)}"] is None  # SDXL has no attention at the highest resolution
    assert there[f"input_blocks.4.1.{query.format(0)}"] == f"input_blocks.4.1.{query.format(1)}"  # block 2 of 4
    assert there[f"input_blocks.5.1.{query.format(0)}"] == f"input_blocks.5.1.{query.format(1)}"  # 4 of 4
    assert there[f"input_blocks.7.1.{query.format(0)}"] == f"input_blocks.7.1.{query.format(2)}"  # 3 of 8
    assert there[f"middle_block.1.{query.format(0)}"] == f"middle_block.1.{query.format(2)}"  # 3 of 4
    assert there[f"output_blocks.6.1.{query.format(0)}"] == f"output_blocks.3.1.{query.format(1)}"  # 640 wide there and here
    assert there["input_blocks.4.1.proj_in"] == "input_blocks.4.1.proj_in"
    assert there["input_blocks.4.0.in_layers.2"] == "input_blocks.4.0.in_layers.2"
    assert there["input_blocks.10.0.in_layers.2"] is None  # one level less
    assert there["time_embed.0"] == "time_embed.0"
    back = placed(opened["sdxl"], opened["sd1"])
    assert back["label_emb.0.0"] is None
    assert {(s, t) for s, t in there.items() if t} == {(t, s) for s, t in back.items() if t}
    names = placed(opened["sd1"], opened["sd2"])
    assert all(s == t for s, t in names.items() if not s.startswith("te"))


@pytest.mark.parametrize(
    ("s", "t", "of_s", "of_t"),
    [
        ("sd1", "sdxl", slice(0, 32), slice(0, 32)),
        ("sdxl", "sd1", slice(0, 32), slice(0, 32)),
        ("refiner", "sdxl", slice(0, 64), slice(32, 96)),
        ("sdxl", "refiner", slice(32, 96), slice(0, 64)),
    ],
)
def test_the_context_is_matched_by_meaning(bases: Bases, out: Path, s: str, t: str, of_s: slice, of_t: slice) -> None:
    """What the adapter does with the text encoder that both have; the other's inputs are left alone."""
    lora = out / "lora.safetensors"
    dense = families.save_lora(lora, bases[s].path, lambda layer: layer.endswith(("attn2.to_k", "attn2.to_v")))
    moved, records = move(lora, bases[s], bases[t], out, "--method", "lorax", "--threshold", "0", "--rank", "4")
    found, compared = families.dense(moved, bases[t].path), 0
    source, target = open_checkpoint(bases[s].path), open_checkpoint(bases[t].path)
    for layer, record in records.items():
        if record["target"]:
            W_s, W_t = source.weight(layer).double().numpy()[:, of_s], target.weight(record["target"]).double().numpy()[:, of_t]
            there = found[record["target"]]
            assert not np.delete(there, np.r_[of_t], 1).any()
            if min(gap(W_s, 4, every=True), gap(W_t, 4, every=True)) > GAP:
                assert distance(there[:, of_t], reference.lorax(dense[layer][:, of_s], W_s, W_t, 4)) < 1e-4
                compared += 1
    assert compared


def test_where_the_outputs_agree_too_the_context_is_copied(bases: Bases, out: Path) -> None:
    lora = out / "lora.safetensors"
    dense = families.save_lora(lora, bases["sd1"].path, lambda layer: layer.endswith("attn2.to_k"))
    moved, records = move(lora, bases["sd1"], bases["sdxl"], out, "--method", "copy")
    found = families.dense(moved, bases["sdxl"].path)
    there = {layer: record["target"] for layer, record in records.items() if record["status"] == "transferred"}
    assert "unet.input_blocks.4.1.transformer_blocks.0.attn2.to_k" in there
    for layer, target in there.items():
        assert distance(found[target][:, :32], dense[layer]) < 1e-6
        assert records[layer]["pairing"].endswith("on the 32 inputs of CLIP ViT-L")


@given(st.integers(0, 40), st.integers(0, 40))
def test_blocks_are_spread_in_order_and_none_serves_twice(sources: int, targets: int) -> None:
    found = _spread(sources, targets)
    assert len(found) == min(sources, targets)
    assert list(found) == sorted(found)
    assert list(found.values()) == sorted(set(found.values()))
    assert all(s < sources and t < targets for s, t in found.items())


# --- more inputs than a latent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "t"), [(4, 9), (9, 4), (8, 9), (4, 8)])
def test_inpainting_takes_the_pictures_channels(bases: Bases, out: Path, s: int, t: int) -> None:
    """The first convolution of inpainting models also reads a mask and the masked picture, instruct-pix2pix's the original."""
    key, made = builders.UNET + "input_blocks.0.0.weight", torch.Generator().manual_seed(5)
    both = {}
    whole = torch.randn(32, 9, 3, 3, generator=made)
    for channels in {s, t}:
        path = out / f"{channels}.safetensors"
        save_file(bases["sd1"].state | {key: whole[:, :channels].contiguous()}, path)
        both[channels] = Base(path, {})
    dense = families.save_lora(out / "lora.safetensors", both[s].path, lambda layer: layer == "unet.input_blocks.0.0")
    moved, records = move(out / "lora.safetensors", both[s], both[t], out)
    found = families.dense(moved, both[t].path)["unet.input_blocks.0.0"]
    assert distance(found[:, :36], dense["unet.input_blocks.0.0"][:, :36]) < 1e-6
    assert not found[:, 36:].any()
    assert "on the 4 channels of the picture" in records["unet.input_blocks.0.0"]["pairing"]
