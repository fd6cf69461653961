"""The three forms of a trained adapter: they agree with what was trained, and say what they need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.checkpoint import open_checkpoint
from lorax.cli import main
from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.inspection import inspect
from lorax.options import Options
from lorax.runner import Runner
from lorax.subspace import RankRule
from lorax.training import Network, Settings, extract, save
from lorax.training.files import FORMS
from lorax.transfer import plan, run
from tests import builders
from tests.training.networks import ALL, FEW, assert_same, predict, randomise

Make = Callable[..., Network]
FORM = pytest.mark.parametrize("form", FORMS)


@FORM
def test_what_is_saved_is_what_was_trained(runner: Runner, network: Make, out: Path, form: str) -> None:
    trained = network()
    save(trained, out / "style.safetensors", form, dtype="fp32")
    assert_same(open_adapter(out / "style.safetensors").deltas_of(runner.base), extract(trained))


@FORM
def test_a_file_draws_what_training_saw(runner: Runner, network: Make, out: Path, form: str) -> None:
    trained = network(ALL)
    seen = predict(runner)
    save(trained, out / "style.safetensors", form, dtype="fp32")
    trained.remove()
    plain = predict(runner)
    with runner.adapted(out / "style.safetensors"):
        drawn = predict(runner)
    assert torch.linalg.norm(drawn - seen) < 1e-5 * torch.linalg.norm(seen)
    assert torch.linalg.norm(drawn - plain) > 0.01 * torch.linalg.norm(plain)


@FORM
@pytest.mark.parametrize("method", ["auto", "lorax", "prolora-cross", "copy"])
def test_a_transfer_to_its_own_base_is_exact(runner: Runner, network: Make, out: Path, form: str, method: str) -> None:
    trained = network(settings=Settings(ranks={r".*attn1.*": RankRule("70%")}))
    path = out / "style.safetensors"
    save(trained, path, form, dtype="fp32")
    options = Options(method=method, rank="70%" if form == "lora" else "auto")
    again = open_checkpoint(runner.base.path)
    moved = run(plan(open_adapter(path), runner.base, again, options))
    assert_same(moved.layers, extract(trained))


@FORM
def test_training_goes_on_from_a_file(network: Make, out: Path, form: str) -> None:
    path, trained = out / "style.safetensors", network(random=False)
    randomise(trained)
    save(trained, path, form, dtype="fp32")
    trained.remove()
    resumed = network(random=False)
    resumed.load(open_adapter(path))
    assert_same(extract(resumed), extract(trained))


def test_a_full_core_is_saved_with_factors_and_goes_on(runner: Runner, network: Make, out: Path) -> None:
    path, full = out / "style.safetensors", Settings(core="full", rank=RankRule("5"))
    trained = network(settings=full)
    with pytest.raises(LoraxError, match="only a diagonal core is small"):
        save(trained, path)
    save(trained, path, "factors", dtype="fp32")
    assert_same(open_adapter(path).deltas_of(runner.base), extract(trained))
    trained.remove()
    resumed = network(settings=full, random=False)
    resumed.load(open_adapter(path))
    assert_same(extract(resumed), extract(trained))
    with pytest.raises(LoraxError, match="not in the basis that is trained here"):
        network(random=False).load(open_adapter(path))


def test_training_in_half_precision_goes_on(runner: Runner, network: Make, out: Path) -> None:
    """The basis is rounded then, and so is what is saved with factors."""
    full = Settings(core="full")
    trained = network(settings=full)
    for layer in trained.constrained().values():
        layer.cast(torch.bfloat16)
    save(trained, out / "style.safetensors", "factors", dtype="fp32")
    trained.remove()
    resumed = network(settings=full, random=False)
    for layer in resumed.constrained().values():
        layer.cast(torch.bfloat16)
    resumed.load(open_adapter(out / "style.safetensors"))
    assert_same(extract(resumed), extract(trained), tolerance=1e-2)


def test_the_small_form_holds_nothing_of_the_basis(runner: Runner, network: Make, out: Path) -> None:
    path, trained = out / "style.safetensors", network()
    save(trained, path)
    tensors = load_file(path)
    assert {key.rpartition(".")[2] for key in tensors} == {"lorax_core", "lorax_probe"}
    sizes = {key: tensor.shape for key, tensor in tensors.items() if key.endswith("core")}
    assert sizes == {
        f"{runner.base.names.kohya(layer)}.lorax_core": (round(min(runner.base.weight(layer).shape) / 4),)
        for layer in trained.constrained()
    }
    header = open_adapter(path).header
    assert header is not None
    assert (header.source, header.source_sha256) == (runner.base.path.name, builders.sha256(runner.base.path))
    assert header.fingerprint == runner.base.identity.fingerprint(trained.constrained())
    said = builders.header(path)
    assert (said["ss_base_model_version"], said["ss_network_dim"], said["lorax_core"]) == ("sd_v1", "16", "diagonal")
    assert inspect(path)["kind"] == "LoRA-X"
    assert inspect(path)["ranks"] == {"16": len(trained.constrained())}


def test_another_base_or_another_basis_is_refused(runner: Runner, network: Make, finetune: Path, out: Path) -> None:
    path, trained = out / "style.safetensors", network()
    save(trained, path)
    with pytest.raises(
        LoraxError, match=r"differs from what was saved by \d+%. It needs base.safetensors \(sha256 \w{10}\)"
    ) as error:
        open_adapter(path).deltas_of(open_checkpoint(finetune))
    assert "form=factors" in str(error.value)
    tensors = load_file(path)
    core = next(key for key in tensors if key.endswith("lorax_core"))
    tensors[core] = tensors[core].flip(0)  # as when two vectors came out in another order
    save_file(tensors, out / "other.safetensors", builders.header(path))
    with pytest.raises(LoraxError, match="the form with factors is needed"):
        open_adapter(out / "other.safetensors").deltas_of(runner.base)
    del tensors[core]
    save_file(tensors, out / "cut.safetensors", builders.header(path))
    with pytest.raises(LoraxError, match="The file is incomplete"):
        open_adapter(out / "cut.safetensors")


def test_signs_of_singular_vectors_do_not_matter(network: Make, out: Path) -> None:
    trained = network()
    path = out / "style.safetensors"
    save(trained, path, dtype="fp32")
    trained.remove()
    resumed = network(random=False)
    one = next(iter(resumed.constrained().values()))
    from lorax.formats.small import probes_of

    sign = torch.ones(one.U.shape[1])
    sign[::2] = -1
    one.probes = probes_of(one.U * sign, one.Vh.mT * sign)
    resumed.load(open_adapter(path))


def test_the_commands_take_every_form(runner: Runner, network: Make, finetune: Path, out: Path) -> None:
    """A small file becomes one with factors, and each of the forms the same LoRA for another checkpoint."""
    trained, base = network(), str(runner.base.path)
    paths = {form: out / f"{form}.safetensors" for form in FORMS}
    for form, path in paths.items():
        save(trained, path, form, dtype="fp32")
    exported = out / "exported.safetensors"
    command = ["transfer", str(paths["small"]), "--source", base, "--target", base, "--save-as", "lora-x", "--dtype", "fp32"]
    assert main([*command, "--output", str(exported)]) == 0
    assert_same(open_adapter(exported).deltas_of(runner.base), extract(trained))
    assert open_adapter(exported).in_subspace
    moved = []
    for path in (*paths.values(), exported):
        target = out / f"moved-{path.name}"
        command = ["transfer", str(path), "--source", base, "--target", str(finetune), "--dtype", "fp32"]
        assert main([*command, "--method", "lorax", "--rank", "25%", "--threshold", "0", "--output", str(target)]) == 0
        moved.append(open_adapter(target).deltas_of(open_checkpoint(finetune)))
    for other in moved[1:]:
        assert_same(other, moved[0])


def test_nothing_is_overwritten_unasked(network: Make, out: Path) -> None:
    path, trained = out / "style.safetensors", network()
    path.write_bytes(b"mine")
    with pytest.raises(LoraxError, match="exists already"):
        save(trained, path)
    assert path.read_bytes() == b"mine"
    save(trained, path, overwrite=True)
    assert open_adapter(path).header


def test_training_that_diverged_is_not_written(network: Make, out: Path) -> None:
    trained = network()
    next(trained.parameters()).data[0] = float("nan")
    with pytest.raises(LoraxError, match="Training diverged"):
        save(trained, out / "style.safetensors")
    assert list(out.iterdir()) == []


def test_layers_that_are_asked_for_must_be_there(network: Make) -> None:
    with pytest.raises(LoraxError, match=r"none of its layers is called like 'nothing'"):
        network("nothing")


def test_zero_cores_leave_the_model_as_it_was(runner: Runner, network: Make) -> None:
    before = predict(runner)
    trained = network(ALL, random=False)
    with_zero = predict(runner)
    assert torch.equal(with_zero, before)
    with_zero.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained.parameters())
    assert FEW != ALL
    trained.remove()
    assert torch.equal(predict(runner), before)
