"""End to end on tiny bases, through the command line: what is written is the delta that was meant, in a file that loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.cli import main
from tests import builders, reference
from tests.builders import State
from tests.measures import GAP, HALF, assert_same, distance, gap
from tests.samples import Files, kohya, transfer, weight


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", HALF), ("bf16", 8 * HALF), ("fp32", 1e-6)])
def test_copy_writes_what_it_read(files: Files, out: Path, dtype: str, tolerance: float) -> None:
    moved = transfer(files.lora, files.base, files.target, out, "--method", "copy", "--dtype", dtype)
    assert_same(builders.dense(moved), kohya(files.deltas), tolerance)
    stored = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    for key, value in load_file(moved).items():
        assert value.dtype == (torch.float32 if key.endswith(".alpha") else stored)


@pytest.mark.parametrize("method", reference.METHODS)
def test_every_method_writes_what_the_reference_gives(files: Files, out: Path, method: str) -> None:
    more = ("--method", method, "--rank", "50%", "--threshold", "0", "--dtype", "fp32")
    found = builders.dense(transfer(files.lora, files.base, files.target, out, *more))
    compared = 0
    for delta in files.deltas:
        W_s, W_t = weight(files.base_state, delta), weight(files.target_state, delta)
        r = round(min(W_s.shape) / 2)
        if min(gap(W_s, r), gap(W_t, r)) > GAP:
            assert distance(found[delta.named("kohya")], reference.METHODS[method](delta.dense, W_s, W_t, r)) < 1e-5
            compared += 1
    assert compared >= 6


def test_a_base_moved_to_itself_at_full_rank_returns_the_adapter(files: Files, out: Path) -> None:
    for method in ("lorax", "prolora", "prolora-cross", "auto"):
        more = ("--method", method, "--rank", "100%", "--dtype", "fp32", "--overwrite")
        assert_same(builders.dense(transfer(files.lora, files.base, files.base, out, *more)), kohya(files.deltas), 1e-6)


@pytest.mark.parametrize("naming", ["kohya", "kohya-te1", "compvis", "diffusers", "peft"])
def test_every_naming_is_read(files: Files, tmp_path: Path, out: Path, naming: str) -> None:
    lora = builders.save_lora(tmp_path / "named.safetensors", files.deltas, naming)
    assert_same(builders.dense(transfer(lora, files.base, files.target, out, "--method", "copy")), kohya(files.deltas))


def test_no_alpha_means_scale_one(files: Files, tmp_path: Path, out: Path) -> None:
    deltas = builders.deltas(alpha=None)
    lora = builders.save_lora(tmp_path / "plain.safetensors", deltas)
    assert_same(builders.dense(transfer(lora, files.base, files.target, out, "--method", "copy")), kohya(deltas))


@pytest.mark.parametrize(("settings", "scale"), [({}, 2.0), ({"use_rslora": True}, 4.0), ({"alpha_pattern": {"to_q": 2}}, 2.0)])
def test_peft_folder_with_its_own_alpha(files: Files, tmp_path: Path, out: Path, settings: dict, scale: float) -> None:
    """alpha 8 at rank 4 is a scale of 2, and 8 / sqrt(4) = 4 as rsLoRA has it."""
    folder = tmp_path / "peft"
    folder.mkdir()
    deltas = builders.deltas(alpha=None)
    builders.save_lora(folder / "adapter_model.safetensors", deltas, "peft")
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 4} | settings))
    found = builders.dense(transfer(folder, files.base, files.target, out, "--method", "copy"))
    special = {d.named("kohya") for d in deltas if d.diffusers.endswith("to_q")} if "alpha_pattern" in settings else set()
    assert_same(found, {name: (0.5 if name in special else scale) * dW for name, dW in kohya(deltas).items()})


@pytest.mark.parametrize("method", ["copy", "lorax"])
def test_tucker_convolutions(files: Files, tmp_path: Path, out: Path, method: str) -> None:
    deltas = builders.deltas(builders.CONVOLUTIONS, mid=True)
    lora = builders.save_lora(tmp_path / "mid.safetensors", deltas)
    moved = transfer(lora, files.base, files.base, out, "--method", method, "--rank", "100%")
    assert not any("lora_mid" in key for key in load_file(moved))
    assert_same(builders.dense(moved), kohya(deltas))


def test_every_written_layer_exists_in_the_target(files: Files, out: Path) -> None:
    moved = load_file(transfer(files.lora, files.base, files.target, out))
    params = {delta.named("kohya"): weight(files.target_state, delta).shape for delta in files.deltas}
    for key, value in moved.items():
        name, _, part = key.partition(".")
        if part == "lora_up.weight":
            assert value.shape[0] == params[name][0]
        if part == "lora_down.weight":
            assert value[0].numel() == params[name][1]


# --- other containers of the same base ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text_prefix", ["text_model.", ""])
def test_a_diffusers_folder_is_the_same_base(files: Files, tmp_path: Path, out: Path, text_prefix: str) -> None:
    source = builders.save_folder(files.base_state, tmp_path / "source", text_prefix=text_prefix)
    target = builders.save_folder(files.target_state, tmp_path / "target", text_prefix=text_prefix)
    expected = load_file(transfer(files.lora, files.base, files.target, out, "--method", "prolora"))
    for s, t in ((source, files.target), (files.base, target), (source, target)):
        found = load_file(transfer(files.lora, s, t, out, "--method", "prolora", "--overwrite"))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)


def test_a_pickled_base_is_the_same_base(files: Files, tmp_path: Path, out: Path) -> None:
    target = builders.save(files.target_state, tmp_path / "target.ckpt")
    old = tmp_path / "old.ckpt"
    torch.save({"state_dict": files.target_state}, old, _use_new_zipfile_serialization=False)
    expected = load_file(transfer(files.lora, files.base, files.target, out, "--method", "lorax"))
    for path in (target, old):
        found = load_file(transfer(files.lora, files.base, path, out, "--method", "lorax", "--overwrite"))
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_text_encoders_without_their_prefix(files: Files, tmp_path: Path, out: Path) -> None:
    """Some old anime checkpoints have cond_stage_model.transformer.encoder... and are used with everyone's LoRAs."""
    state = {key.replace("transformer.text_model.", "transformer."): value for key, value in files.target_state.items()}
    bare = builders.save(state, tmp_path / "bare.safetensors")
    assert_same(builders.dense(transfer(files.lora, files.base, bare, out, "--method", "copy")), kohya(files.deltas))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64])
def test_bases_in_every_precision(files: Files, tmp_path: Path, out: Path, dtype: torch.dtype) -> None:
    target = builders.save(files.target_state, tmp_path / "target.safetensors", dtype)
    more = ("--method", "lorax", "--rank", "50%", "--threshold", "0", "--dtype", "fp32")
    found = builders.dense(transfer(files.lora, files.base, target, out, *more))
    compared = 0
    for delta in files.deltas:
        W_s = weight(files.base_state, delta)
        W_t = weight(files.target_state, delta) if dtype == torch.float64 else _rounded(files.target_state, delta, dtype)
        r = round(min(W_t.shape) / 2)
        if gap(W_t, r) > GAP:
            assert distance(found[delta.named("kohya")], reference.lorax(delta.dense, W_s, W_t, r)) < 1e-5
            compared += 1
    assert compared >= 6


def _rounded(state: State, delta: builders.Delta, dtype: torch.dtype) -> np.ndarray:
    return torch.tensor(weight(state, delta)).float().to(dtype).double().numpy()


def test_pairing_by_weights_reads_eight_bit_bases(files: Files, tmp_path: Path, out: Path) -> None:
    target = builders.save(files.pruned_state, tmp_path / "pruned8.safetensors", torch.float8_e4m3fn)
    assert builders.dense(transfer(files.lora, files.base, target, out, "--method", "copy"))


# --- ranks and gates ---------------------------------------------------------------------------------------------------------


def test_max_rank_is_the_best_approximation_and_its_error_is_reported(files: Files, out: Path) -> None:
    more = ("--method", "copy", "--max-rank", "2", "--dtype", "fp32", "--report", str(out / "report.json"))
    moved = transfer(files.lora, files.base, files.target, out, *more)
    records = {record["name"]: record for record in json.loads((out / "report.json").read_text())["layers"]}
    for name, dW in kohya(files.deltas).items():
        U, S, Vt = np.linalg.svd(dW, full_matrices=False)
        assert distance(builders.dense(moved)[name], (U[:, :2] * S[:2]) @ Vt[:2]) < 1e-5
        assert records[name]["rank"] == 2
        assert records[name]["compression_error"] == pytest.approx(np.linalg.norm(S[2:]) / np.linalg.norm(S), rel=1e-5)
    assert all(value.shape[0] == 2 for key, value in load_file(moved).items() if "lora_down" in key)


def test_the_gate_skips_dissimilar_layers_and_says_why(files: Files, tmp_path: Path, out: Path) -> None:
    other = files.deltas[0]
    key = f"{builders.UNET}{other.ldm}.weight"
    state = files.base_state | {key: torch.randn(files.base_state[key].shape)}
    target = builders.save(state, tmp_path / "other.safetensors")
    report = out / "report.json"
    moved = transfer(files.lora, files.base, target, out, "--method", "lorax", "--report", str(report))
    assert other.named("kohya") not in builders.dense(moved)
    records = json.loads(report.read_text())["layers"]
    skipped = [record for record in records if record["status"] == "skipped"]
    assert [record["name"] for record in skipped] == [other.named("kohya")]
    assert "is below the threshold 0.8" in skipped[0]["reason"]
    assert all(record["similarity"] == pytest.approx(1) for record in records if record not in skipped)
    opened = transfer(files.lora, files.base, target, out, "--method", "lorax", "--threshold", "0", "--overwrite")
    assert other.named("kohya") in builders.dense(opened)


def test_the_subspace_rank_is_that_of_a_projection(files: Files, out: Path) -> None:
    report = out / "report.json"
    for method, rank, projected in (
        ("copy", "25%", False),
        ("auto", "25%", False),
        ("lorax", "25%", True),
        ("lorax", "100%", False),
    ):
        more = ("--method", method, "--rank", rank, "--overwrite", "--report", str(report))
        transfer(files.lora, files.base, files.target, out, *more)
        for record in json.loads(report.read_text())["layers"]:
            assert record["reason"].startswith("projected" if projected else "copied")
            assert (record["subspace_rank"] is not None) == projected


def test_similarity_in_the_report(files: Files, out: Path) -> None:
    report = out / "report.json"
    transfer(files.lora, files.base, files.target, out, "--method", "copy", "--report", str(report))
    by_name = {delta.named("kohya"): delta for delta in files.deltas}
    for record in json.loads(report.read_text())["layers"]:
        W_s, W_t = (weight(state, by_name[record["name"]]) for state in (files.base_state, files.target_state))
        r = round(min(W_s.shape) / 4)
        if min(gap(W_s, r), gap(W_t, r)) > GAP:
            assert record["similarity"] == pytest.approx(reference.similarity(W_s, W_t), abs=1e-5)


def test_the_same_layer_under_two_names(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which of the two counts? Hosts differ, so nothing is guessed."""
    twice = builders.adapter(files.deltas[:1], "kohya") | builders.adapter(files.deltas[:1], "compvis")
    save_file({key: value.clone() for key, value in twice.items()}, tmp_path / "twice.safetensors")
    assert main(["analyze", str(tmp_path / "twice.safetensors"), "--source", str(files.base), "--target", str(files.target)]) == 2
    assert "are the same layer" in capsys.readouterr().err
