"""The network module, called as sd-scripts calls it. ``tests/kohya`` runs the real trainers."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from lorax.errors import LoraxError
from lorax.formats import open_adapter
from lorax.runner import Runner
from lorax.training import extract, kohya
from lorax.training.files import FACTORS, SMALL
from tests.training.networks import assert_same, predict, randomise


def created(runner: Runner, dim: int | None = None, dropout: float | None = None, **arguments: str | None) -> kohya.KohyaNetwork:
    """Create the network as ``train_network.py`` does it, which gives the dropout twice."""
    arguments = {"dropout": dropout, **arguments}  # type: ignore[dict-item]
    network = kohya.create_network(1.0, dim, 1, None, runner.text_encoder, runner.unet, neuron_dropout=dropout, **arguments)
    network.prepare_network(Namespace(pretrained_model_name_or_path=str(runner.base.path), save_model_as="safetensors"))
    return network


def applied(runner: Runner, text: bool = False, **arguments: str | None) -> kohya.KohyaNetwork:
    network = created(runner, 2, **arguments)
    network.apply_to(runner.text_encoder, runner.unet, text, True)
    return network


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"algo": "lora"}, "algo not known; expected some of core, rank_share"),
        ({"rank_share": "a quarter"}, "'a quarter' is no share of a rank"),
        ({"rank_share": "1.5"}, "rank '150.000000%'"),
        ({"ranks": ".*attn2.*=x"}, "'x' is no share of a rank"),
        ({"ranks": "(=0.1"}, "'(' is no pattern of layers"),
        ({"dropout": "some"}, "dropout 'some': expected a number"),
        ({"core": "round"}, "core 'round'"),
        ({"core": "full", "form": "small"}, "only a diagonal core is small"),
        ({"form": "tiny"}, "form 'tiny'"),
    ],
)
def test_arguments_that_are_not_understood(runner: Runner, arguments: dict[str, str], words: str) -> None:
    with pytest.raises(LoraxError) as error:
        created(runner, **arguments)
    assert words in str(error.value)


def test_what_cannot_be_trained_on_or_saved(runner: Runner, tmp_path: Path) -> None:
    network = created(runner)
    with pytest.raises(LoraxError, match="not on the disk"):
        network.prepare_network(Namespace(pretrained_model_name_or_path="somebody/some-model", save_model_as=None))
    with pytest.raises(LoraxError, match="saved as safetensors"):
        network.prepare_network(Namespace(pretrained_model_name_or_path=str(runner.base.path), save_model_as="ckpt"))


def test_rank_dropout_and_layers_are_those_asked_for(runner: Runner) -> None:
    network = created(runner, 5, 0.25, ranks=r".*attn2\.to_k=0.5")
    network.apply_to(runner.text_encoder, runner.unet)
    layers = network.network.constrained()
    assert {len(layer.core) for name, layer in layers.items() if name.endswith("attn2.to_k")} == {32}
    assert {len(layer.core) for name, layer in layers.items() if not name.endswith("attn2.to_k")} == {5}
    assert {layer.dropout for layer in layers.values()} == {0.25}
    assert {name.partition(".")[0] for name in layers} == {"unet", "te"}
    assert not any("in_layers" in name for name in layers)
    network.network.remove()
    with_convolutions = created(runner, 5, rank_share="0.25", conv="true")
    with_convolutions.apply_to(runner.text_encoder, runner.unet, False, True)
    layers = with_convolutions.network.constrained()
    assert {len(layer.core) for name, layer in layers.items() if "in_layers" in name} == {16}
    assert {name.partition(".")[0] for name in layers} == {"unet"}


def test_learning_rates_of_the_components(runner: Runner) -> None:
    network = applied(runner, text=True)
    count = {"te": 18, "unet": len(network.network.constrained()) - 18}
    for text, unet, default, expected in [
        (None, None, 1e-3, [("textencoder", 1e-3), ("unet", 1e-3)]),
        ([1e-4], 2e-3, 1e-3, [("textencoder", 1e-4), ("unet", 2e-3)]),
        (5e-4, None, 1e-3, [("textencoder", 5e-4), ("unet", 1e-3)]),
        ([0.0], None, 1e-3, [("unet", 1e-3)]),
        ([], 0.0, 1e-3, [("textencoder", 1e-3)]),
    ]:
        groups, names = network.prepare_optimizer_params_with_multiple_te_lrs(text, unet, default)
        assert [(name, group["lr"]) for name, group in zip(names, groups, strict=True)] == expected
        assert [len(group["params"]) for group in groups] == [count["te" if name == "textencoder" else "unet"] for name in names]


@pytest.mark.parametrize("form", [SMALL, FACTORS])
def test_a_merged_file_draws_what_an_applied_one_draws(runner: Runner, out: Path, form: str) -> None:
    network = applied(runner, text=True, form=form)
    randomise(network)
    trained, path = extract(network.network), str(out / "a.safetensors")
    network.save_weights(path, None, {"ss_output_name": "a"})
    assert open_adapter(Path(path)).metadata["ss_output_name"] == "a"
    network.set_multiplier(0.5)
    seen = predict(runner)
    network.network.remove()
    loaded, weights = kohya.create_network_from_weights(0.5, path, None, runner.text_encoder, runner.unet, for_inference=True)
    loaded.apply_to(runner.text_encoder, runner.unet)
    assert_same(extract(loaded.network), trained)
    torch.testing.assert_close(predict(runner), seen, atol=1e-5, rtol=1e-5)
    loaded.network.remove()
    merged, weights = kohya.create_network_from_weights(0.5, path, None, runner.text_encoder, runner.unet, for_inference=True)
    assert merged.is_mergeable()
    merged.merge_to(runner.text_encoder, runner.unet, weights, torch.float32, "cpu")
    torch.testing.assert_close(predict(runner), seen, atol=1e-4, rtol=1e-4)


def test_the_basis_follows_the_precision_that_the_trainer_casts_to(runner: Runner) -> None:
    network = applied(runner)
    runner.unet.to(torch.bfloat16)
    network.prepare_grad_etc(runner.text_encoder, runner.unet)
    layer = next(iter(network.network.constrained().values()))
    assert layer.U.dtype == layer.Vh.dtype == torch.bfloat16
    assert layer.core.dtype == torch.float32


def test_a_smaller_choice_of_layers_than_the_file_has_is_refused(runner: Runner, out: Path) -> None:
    network = applied(runner, text=True)
    network.save_weights(str(out / "a.safetensors"), torch.float16, None)
    network.network.remove()
    with pytest.raises(LoraxError, match=r"is not trained here\. Train the layers that the file has"):
        applied(runner).load_weights(str(out / "a.safetensors"))
