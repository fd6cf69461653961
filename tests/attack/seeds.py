"""Good files of every reader, from which the damaged ones are made: as small as they can be, so that many can be tried."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorax.checkpoint import open_checkpoint
from lorax.formats import Header, small
from lorax.options import Options
from lorax.output import metadata
from lorax.subspace import Decomposition, basis
from tests import builders
from tests.adapters import RECIPES
from tests.structure import Size

NARROW = Size(channels=(16, 16, 32, 32), cross=32, text_layers=2, vocabulary=20, blocks=1)
PATHS = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.0.resnets.0.conv1",
    "text_model.encoder.layers.0.self_attn.q_proj",
)
YAML = """model:
  params:
    parameterization: eps
    image_size: 8
    scale_factor: 0.18215
    unet_config:
      params:
        num_heads: 4
"""
CARD = {"description": "a style", "sd version": "SD1", "activation text": "origami", "preferred weight": 0.8}
CIVITAI = {"modelId": 7, "name": "Origami", "trainedWords": ["origami"], "baseModel": "SD 1.5", "model": {"type": "LORA"}}
MANAGER = {"base_model": "SD 1.5", "trainedWords": ["a"], "usage_tips": '{"strength": 0.8}', "notes": "n", "civitai": CIVITAI}
MATRIX = {"ModelId": 7, "ModelName": "Origami", "BaseModel": "SD 1.5", "TrainedWords": ["origami"], "Hashes": {"SHA256": "0"}}
PEFT = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "alpha_pattern": {"to_k": 2, "^mid_block.*": 8},
    "rank_pattern": {"conv1": 2},
}


@dataclass(frozen=True)
class Seed:
    """A good input in a folder of its own. ``role``: adapter, source or target; ``given``: what is named, inside the folder."""

    name: str
    role: str
    folder: Path
    given: str


class Kept:
    """The folder of all seeds, with a base, a relative of it and a LoRA that are never changed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seeds = folder, list[Seed]()
        state = builders.base(size=NARROW)
        self.state, other = state, builders.relative(state)
        folder.mkdir(parents=True, exist_ok=True)
        self.base = builders.save(state, folder / "good-base.safetensors")
        self.target = builders.save(other, folder / "good-target.safetensors")
        self.lora = builders.save_lora(folder / "good-lora.safetensors", self.deltas())
        self._adapters()
        self._trained()
        self._folders()
        self._bases()

    @staticmethod
    def deltas(mid: bool = False) -> list[builders.Delta]:
        return builders.deltas(PATHS[2:3] if mid else PATHS, rank=2, mid=mid, size=NARROW)

    def _add(self, name: str, given: str, write: Callable[[Path], object], role: str = "adapter") -> None:
        folder = self.folder / name.replace(" ", "-")
        folder.mkdir()
        write(folder / given)
        self.seeds.append(Seed(name, role, folder, given))

    def _adapters(self) -> None:
        made = torch.Generator().manual_seed(0)
        for number, (name, recipe) in enumerate(RECIPES.items()):
            state: builders.State = {}
            for delta in self.deltas():
                prefix = builders.TE if delta.component == "te" else builders.UNET
                parts, _ = recipe(self.state[f"{prefix}{delta.ldm}.weight"], made)
                state |= {f"{delta.named('kohya')}.{part}": tensor.contiguous() for part, tensor in parts.items()}
            if number % 4 == 0:
                state |= {
                    "bundle_emb.odd.emb_params": torch.ones(2, 32),
                    "lora_unet_down_blocks_0_resnets_0_norm1.w_norm": torch.ones(16),
                }
            self._add(f"{name} as kohya has it", "odd.safetensors", lambda path, state=state: save_file(state, path))
        for naming in ("peft", "diffusers", "compvis"):
            self._add(
                f"LoRA of {naming}",
                "odd.safetensors",
                lambda path, naming=naming: builders.save_lora(path, self.deltas(), naming),
            )
        self._add("Tucker LoRA", "odd.safetensors", lambda path: builders.save_lora(path, self.deltas(mid=True)))
        state = builders.adapter(self.deltas())
        for end in ("pt", "bin", "ckpt"):
            self._add(f"pickled LoRA in {end}", f"odd.{end}", lambda path: torch.save(state, path))
        old = {"_use_new_zipfile_serialization": False}
        self._add("pickled LoRA of old", "odd.pt", lambda path: torch.save(state, path, **old))
        self._add("LoRA with a card", "odd.safetensors", lambda path: self._with_cards(path))

    def _with_cards(self, path: Path) -> None:
        builders.save_lora(path, self.deltas())
        path.with_suffix(".json").write_text(json.dumps(CARD))
        path.with_suffix(".civitai.info").write_text(json.dumps(CIVITAI))
        path.with_suffix(".metadata.json").write_text(json.dumps(MANAGER))
        path.with_suffix(".cm-info.json").write_text(json.dumps(MATRIX))
        path.with_suffix(".png").write_bytes(b"a picture")

    def _trained(self) -> None:
        base = open_checkpoint(self.base)
        layers = [base.names[delta.named("kohya")] for delta in self.deltas()]
        header = Header(
            base.family,
            base.path.name,
            base.identity.sha256,
            base.identity.fingerprint(layers),
            "auto",
            metadata.settings(Options(), "fp32"),
            "diagonal",
        ).as_metadata()
        little: builders.State = {}
        for layer in layers:
            U, V = basis(Decomposition(base.weight(layer)), 2)
            parts = small.encode(torch.tensor([0.5, 0.25]), small.probes_of(U, V), torch.float32)
            little |= {f"{base.names.kohya(layer)}.{part}": tensor for part, tensor in parts.items()}
        self._add("LoRA-X, small", "odd.safetensors", lambda path: save_file(little, path, header))
        state = {
            key.replace("lora_up", "lorax_up").replace("lora_down", "lorax_down"): value
            for key, value in builders.adapter(self.deltas()).items()
        }
        self._add("LoRA-X, factors", "odd.safetensors", lambda path: save_file(state, path, header))

    def _folders(self) -> None:
        def peft(folder: Path) -> None:
            folder.mkdir()
            builders.save_lora(folder / "adapter_model.safetensors", builders.deltas(PATHS, 2, None, size=NARROW), "peft")
            (folder / "adapter_config.json").write_text(json.dumps(PEFT))

        self._add("PEFT folder", "odd", peft)
        inside = {f"unet.{key}": value for key, value in PEFT.items()}
        described = {"lora_adapter_metadata": json.dumps(inside)}
        self._add(
            "LoRA with PEFT's settings inside",
            "odd.safetensors",
            lambda path: builders.save_lora(path, builders.deltas(PATHS, 2, None, size=NARROW), "diffusers", described),
        )

    def _bases(self) -> None:
        for role in ("source", "target"):
            self._add(f"{role} in LDM's layout", "odd.safetensors", lambda path: builders.save(self.state, path), role)
            self._add(f"{role} with a yaml", "odd.safetensors", lambda path: self._with_yaml(path), role)
            self._add(f"{role} as a folder", "odd", lambda path: builders.save_folder(self.state, path, NARROW), role)
        self._add("source as a pickle", "odd.ckpt", lambda path: builders.save(self.state, path), "source")
        old = {"_use_new_zipfile_serialization": False}
        self._add("source as a pickle of old", "odd.pt", lambda path: torch.save(self.state, path, **old), "source")
        self._add("source in shards", "odd", self._sharded, "source")

    def _with_yaml(self, path: Path) -> None:
        builders.save(self.state, path)
        path.with_suffix(".yaml").write_text(YAML)

    def _sharded(self, path: Path) -> None:
        builders.save_folder(self.state, path, NARROW)
        unet = {param.diffusers: self.state[builders.UNET + param.ldm].contiguous() for param in NARROW.unet()}
        (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        _shards(path / "unet", unet)
        (path / "scheduler").mkdir()
        (path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "epsilon"}))


def _shards(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    keys, where = list(tensors), {}
    for number in (0, 1):
        name = f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"
        save_file({key: tensors[key] for key in keys[number::2]}, folder / name)
        where |= dict.fromkeys(keys[number::2], name)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
