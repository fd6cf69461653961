"""Pruned and otherwise unlike targets: which layer feeds which, and what becomes of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import builders, reference, structure
from tests.measures import GAP, assert_same, distance, gap
from tests.samples import Files, transfer, weight


@pytest.mark.parametrize("source", ["base", "target"])
def test_pruned_targets_are_fed_by_the_blocks_that_they_kept(files: Files, out: Path, source: str) -> None:
    """up_blocks.*.attentions.1 of the pruned base is the base's attentions.2, whatever its name says."""
    attentions = [p.diffusers for p in structure.TINY.unet() if p.is_layer and ".attentions." in p.diffusers]
    everything = [path.removesuffix(".weight") for path in attentions]
    deltas = builders.deltas([*everything, *builders.CONVOLUTIONS, *builders.TEXT], rank=2)
    lora = builders.save_lora(out / "whole.safetensors", deltas)
    report = out / "report.json"
    moved = transfer(lora, getattr(files, source), files.pruned, out, "--method", "copy", "--report", str(report))
    ldm = {p.diffusers.removesuffix(".weight"): p.ldm.removesuffix(".weight") for p in structure.TINY_PRUNED.unet()}
    expected = {}
    for delta in deltas:
        if delta.component == "te":
            expected[delta.named("kohya")] = delta.dense
        elif (name := builders.pruned_name(delta.diffusers)) is not None:
            expected["lora_unet_" + ldm[name].replace(".", "_")] = delta.dense
    assert_same(builders.dense(moved), expected)
    for record in json.loads(report.read_text())["layers"]:
        gone = record["name"].startswith("lora_unet") and record["status"] == "unmatched"
        assert record["status"] in ("transferred", "unmatched")
        assert not gone or "more like other blocks" in record["reason"]


def test_from_a_pruned_base_to_the_whole_one(files: Files, tmp_path: Path, out: Path) -> None:
    path = "up_blocks.2.attentions.1.transformer_blocks.0.attn1.to_v"
    deltas = builders.deltas([path], size=structure.TINY_PRUNED)
    lora = builders.save_lora(tmp_path / "small.safetensors", deltas, "compvis")
    found = builders.dense(transfer(lora, files.pruned, files.target, out, "--method", "copy"))
    assert_same(found, {"lora_unet_" + path.replace("attentions.1", "attentions.2").replace(".", "_"): deltas[0].dense})


def test_pairing_by_name_is_kept_when_asked_for(files: Files, out: Path) -> None:
    more = ("--method", "copy", "--pairing", "name", "--report", str(out / "report.json"))
    transfer(files.lora, files.base, files.pruned, out, *more)
    records = {record["name"]: record for record in json.loads((out / "report.json").read_text())["layers"]}
    gone = records["lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2"]
    assert (gone["status"], gone["reason"]) == ("unmatched", "the target has no layer of this name")


def test_a_target_without_a_text_encoder(files: Files, tmp_path: Path, out: Path) -> None:
    """Names still agree within the UNet, so it is paired by name."""
    state = {key: value for key, value in files.target_state.items() if not key.startswith(builders.TE)}
    target = builders.save(state, tmp_path / "unet-only.safetensors")
    transfer(files.lora, files.base, target, out, "--method", "copy", "--report", str(out / "report.json"))
    for record in json.loads((out / "report.json").read_text())["layers"]:
        if record["name"].startswith("lora_te"):
            assert (record["status"], record["reason"]) == ("unmatched", "the target has no CLIP ViT-L")
        else:
            assert (record["status"], record["pairing"]) == ("transferred", "same name")


def test_a_target_of_another_width(files: Files, tmp_path: Path, out: Path) -> None:
    """The least-squares map carries the source's side; a plain copy is impossible and says so."""
    target_state = builders.base(3, structure.WIDER)
    target = builders.save(target_state, tmp_path / "wide.safetensors")
    more = ("--pairing", "name", "--rank", "4", "--dtype", "fp32")
    found = builders.dense(transfer(files.lora, files.base, target, out, "--method", "lorax", *more))
    compared = 0
    for delta in files.deltas:
        W_s, W_t = weight(files.base_state, delta), weight(target_state, delta)
        if min(gap(W_s, 4, every=True), gap(W_t, 4, every=True)) > GAP:
            assert distance(found[delta.named("kohya")], reference.lorax(delta.dense, W_s, W_t, 4)) < 1e-4
            compared += 1
    assert compared >= 4


def test_unequal_shapes_are_not_gated_and_say_so(files: Files, tmp_path: Path, out: Path) -> None:
    target = builders.save(builders.base(3, structure.WIDER), tmp_path / "wide.safetensors")
    report = out / "report.json"
    for method, threshold, says in (("lorax", "0.8", True), ("prolora", "0.8", True), ("lorax", "0", False)):
        more = ("--method", method, "--threshold", threshold, "--pairing", "name", "--overwrite", "--report", str(report))
        transfer(files.lora, files.base, target, out, *more)
        for record in json.loads(report.read_text())["layers"]:
            assert (record["status"], record["similarity"]) == ("transferred", None)
            assert ("similarity is undefined for unequal shapes, so not gated" in record["reason"]) is says
