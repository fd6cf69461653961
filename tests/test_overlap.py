"""``auto`` leaves out what the target already has of the adapter, and says so."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from lab.writing import save_lorax
from lorax.checkpoint import open_checkpoint
from lorax.cli import main
from lorax.formats import open_adapter
from lorax.methods.auto import LITTLE, MUCH, strength
from lorax.options import Options
from lorax.transfer import Moved, plan, run, wording
from tests import builders
from tests.builders import UNET, Delta
from tests.fitted import fit
from tests.samples import Files, along, arguments


def moved(files: Files, target: Path, method: str) -> Moved:
    bases = open_checkpoint(files.base), open_checkpoint(target)
    return run(plan(open_adapter(files.lora), *bases, Options(method, threshold=0.0)))


def assert_scaled(moved: Moved, deltas: Iterable[Delta], expected: float, tolerance: float) -> None:
    """Every layer is the adapter's own delta times ``expected``."""
    for delta in deltas:
        found = moved.layers[delta.layer]
        dense = found.scale * (found.up.double() @ found.down.double()).numpy()
        dW = delta.dense.reshape(dense.shape)
        assert (dense * dW).sum() / (dW * dW).sum() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("c", "expected"), [(0.5, 0.5), (0.2, 0.8), (0.08, 1.0), (0.0, 1.0), (-0.5, 1.0)])
def test_the_adapter_is_applied_at_what_the_target_lacks(files: Files, tmp_path: Path, c: float, expected: float) -> None:
    found = moved(files, along(files, tmp_path / "along.safetensors", c), "auto")
    assert found.report.overlap == pytest.approx(c, abs=0.02)
    assert found.report.strength == pytest.approx(expected, abs=0.02)
    assert_scaled(found, files.deltas, expected, 0.02)


@pytest.mark.parametrize("c", [1.0, 1.5])
def test_a_target_that_has_the_adapter_already_gets_none(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], c: float
) -> None:
    """Such as one into which it was merged. An adapter of no strength would not do: some tools take alpha 0 for full strength."""
    target, output = along(files, tmp_path / "merged.safetensors", c), tmp_path / "moved.safetensors"
    assert main(["transfer", *arguments(files, target=target), "--output", str(output)]) == 3
    assert "already has" in capsys.readouterr().err
    assert not output.exists()


def test_the_strength_does_not_jump_where_it_begins_to_fall() -> None:
    """A LoRA that is trained for longer has less overlap with the same target."""
    assert [strength(overlap) for overlap in (0.0, LITTLE)] == [1.0, 1.0]
    assert [strength(overlap) for overlap in (MUCH, 0.3)] == pytest.approx([1 - MUCH, 0.7])
    found = [strength(thousandth / 1000) for thousandth in range(949)]
    steps = [before - after for before, after in itertools.pairwise(found)]
    assert min(steps) >= 0
    assert max(steps) < 0.005


@pytest.mark.parametrize("method", ["copy", "lorax", "prolora"])
def test_a_named_method_is_applied_whole(files: Files, tmp_path: Path, method: str) -> None:
    """The overlap is measured all the same, for the report."""
    found = moved(files, along(files, tmp_path / "along.safetensors", 0.5), method)
    assert found.report.overlap == pytest.approx(0.5, abs=0.02)
    assert found.report.strength == 1.0
    assert "already has" not in wording.summary(found.report)
    if method == "copy":
        assert_scaled(found, files.deltas, 1.0, 1e-6)


def test_the_adapter_as_a_whole_decides(files: Files, tmp_path: Path) -> None:
    """Layers weigh by their squared norm, and all are scaled alike: an adapter's layers work together."""
    some = files.deltas[len(files.deltas) // 2 :]
    share = sum((delta.dense**2).sum() for delta in some) / sum((delta.dense**2).sum() for delta in files.deltas)
    assert MUCH < share < 0.9
    found = moved(files, along(files, tmp_path / "along.safetensors", 0.5 / share, some), "auto")
    assert found.report.overlap == pytest.approx(0.5, abs=0.02)
    assert_scaled(found, files.deltas, 0.5, 0.02)


def test_equal_bases_have_nothing_of_the_adapter(files: Files, tmp_path: Path) -> None:
    copy = builders.save(files.base_state, tmp_path / "copy.safetensors")
    for target in (files.base, copy):
        report = moved(files, target, "auto").report
        assert {record.overlap for record in report.records} == {0.0}
        assert (report.overlap, report.strength) == (0.0, 1.0)


def test_unequal_shapes_have_no_overlap(files: Files, tmp_path: Path) -> None:
    delta = files.deltas[0]
    key = f"{UNET}{delta.ldm}.weight"
    state = {k: torch.cat([v, v[:8]]) if k == key else v for k, v in files.target_state.items()}
    report = moved(files, builders.save(state, tmp_path / "odd.safetensors"), "lorax").report
    (odd,) = (record for record in report.records if record.overlap is None)
    assert odd.source == delta.layer


def test_it_is_reported(files: Files, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = along(files, tmp_path / "along.safetensors", 0.4)
    assert main(["transfer", *arguments(files, target=target), "--output", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["overlap"] == pytest.approx(0.4, abs=0.02)
    assert report["strength"] == pytest.approx(1 - report["overlap"])
    assert all(layer["overlap"] == pytest.approx(0.4, abs=0.1) for layer in report["layers"])
    assert main(["analyze", *arguments(files, target=target)]) == 0
    said = capsys.readouterr().out
    assert f"already has {report['overlap']:.0%} of what the LoRA adds." in said
    assert f"as strong as a copy at {report['strength']:.2f}." in said
    assert main(["analyze", *arguments(files)]) == 0
    assert "already has" not in capsys.readouterr().out


def test_what_is_written_is_scaled(files: Files, tmp_path: Path, out: Path) -> None:
    target, path = along(files, tmp_path / "along.safetensors", 0.5), out / "moved.safetensors"
    assert main(["transfer", *arguments(files, target=target), "--output", str(path)]) == 0
    written = builders.dense(path)
    for delta in files.deltas:
        found, dW = written[delta.named("kohya")], delta.dense.reshape(len(delta.dense), -1)
        assert (found * dW).sum() / (dW * dW).sum() == pytest.approx(0.5, abs=0.02)


def test_a_fitted_file_is_scaled_too(files: Files, tmp_path: Path) -> None:
    base, path = open_checkpoint(files.base), tmp_path / "style-x.safetensors"
    save_lorax(plan(open_adapter(files.lora), base, base, Options("auto")), path)
    target = along(files, tmp_path / "along.safetensors", 0.5)
    for where, expected in ((target, 0.5), (files.target, 1.0)):
        found = fit(path, where, files.base)
        for delta in files.deltas:
            parts = found.layers[delta.layer]
            up, down = (parts[f"lora_{part}.weight"].double().flatten(1) for part in ("up", "down"))
            dense, dW = (parts["alpha"] / len(down) * up @ down).numpy(), delta.dense.reshape(len(up), -1)
            assert (dense * dW).sum() / (dW * dW).sum() == pytest.approx(expected, abs=0.02)
