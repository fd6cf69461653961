"""``--target`` equal to ``--source``: any format in, a plain LoRA for the same base out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax.cli import main
from lorax.formats import open_adapter
from lorax.options import DENSE_RANK
from tests import builders
from tests.samples import Files
from tests.structure import Size

LINEAR, KERNEL = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "mid_block.resnets.0.conv1"


def factors(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=made) for shape in shapes]


def kohya(path: str) -> str:
    return "lora_unet_" + path.replace(".", "_")


def convert(adapter: Path, base: Path, out: Path, *more: str) -> Path:
    written = out / "plain.safetensors"
    bases = ["--source", str(base), "--target", str(base), "--dtype", "fp32"]
    assert main(["transfer", str(adapter), *bases, "--output", str(written), "--overwrite", *more]) == 0
    return written


def test_loha_keeps_its_rank(files: Files, tmp_path: Path, out: Path) -> None:
    a1, b1, a2, b2 = factors((96, 3), (3, 64), (96, 3), (3, 64))
    parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(1.5)}
    save_file({f"{kohya(LINEAR)}.{part}": tensor for part, tensor in parts.items()}, tmp_path / "loha.safetensors")
    written = convert(tmp_path / "loha.safetensors", files.base, out)
    expected = 0.5 * ((a1 @ b1) * (a2 @ b2)).double().numpy()
    assert np.allclose(builders.dense(written)[kohya(LINEAR)], expected, rtol=1e-4, atol=1e-5)
    assert builders.header(written)["ss_network_dim"] == "9"


@pytest.mark.parametrize(("more", "rank"), [((), DENSE_RANK), (("--max-rank", "9"), 9)])
def test_a_high_rank_is_cut_and_what_is_lost_is_told(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], rank: int
) -> None:
    side = DENSE_RANK + 32
    base = builders.save(builders.base(size=Size(channels=(32, 32, 32, side))), tmp_path / "base.safetensors")
    (dW,) = factors((side, side, 3, 3))
    save_file({f"{kohya(KERNEL)}.diff": dW}, tmp_path / "full.safetensors")
    U, S, Vt = np.linalg.svd(dW.double().flatten(1).numpy(), full_matrices=False)
    lost, best = np.linalg.norm(S[rank:]) / np.linalg.norm(S), (U[:, :rank] * S[:rank]) @ Vt[:rank]

    written = convert(tmp_path / "full.safetensors", base, out, "--report", str(out / "report.json"), *more)
    assert f"largest rank lost {lost:.1%}" in capsys.readouterr().out
    (layer,) = json.loads((out / "report.json").read_text())["layers"]
    assert layer["compression_error"] == pytest.approx(lost, rel=1e-5)
    assert np.linalg.norm(builders.dense(written)[kohya(KERNEL)] - best) < 1e-5 * np.linalg.norm(best)

    written = convert(tmp_path / "full.safetensors", base, out, "--save-as", "lora-x", *more)
    assert json.loads(builders.header(written)["ss_network_args"])["conv_dim"] == str(rank)


@pytest.mark.parametrize("save_as", ["lora", "lora-x"])
def test_bundled_embeddings_are_carried_over(
    files: Files, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], save_as: str
) -> None:
    bundled = {
        "bundle_emb.fox.string_to_param.*": torch.randn(3, 64),
        "bundle_emb.owl.emb_params": torch.randn(2, 64).half(),
    }
    save_file(load_file(files.lora) | bundled, tmp_path / "bundled.safetensors")
    written = load_file(convert(tmp_path / "bundled.safetensors", files.base, out, "--save-as", save_as))
    for key, tensor in bundled.items():
        assert torch.equal(written[key], tensor)
        assert written[key].dtype == tensor.dtype
    assert "Carried over as they are: the embeddings fox, owl." in capsys.readouterr().out
    assert open_adapter(out / "plain.safetensors").embeddings == ["fox", "owl"]
