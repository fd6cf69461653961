"""Network module for the trainers of kohya's sd-scripts: ``--network_module=lorax.training.kohya``; see ``docs/training.md``."""

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from lorax.checkpoint import Checkpoint, open_checkpoint
from lorax.errors import LoraxError
from lorax.formats import AdapterFile, open_adapter
from lorax.output import DTYPES
from lorax.subspace import RankRule
from lorax.training import modules
from lorax.training.files import FACTORS, SMALL, check_form, save
from lorax.training.layer import DIAGONAL
from lorax.training.network import ATTENTION, CONVOLUTION, TEXT, Network, Settings, inject

ARGUMENTS = ("core", "rank_share", "ranks", "conv", "form", "dropout")
TextEncoders = nn.Module | Sequence[nn.Module]


def create_network(
    multiplier: float,
    network_dim: int | None,
    network_alpha: float | None,
    vae: nn.Module,
    text_encoder: TextEncoders,
    unet: nn.Module,
    neuron_dropout: float | None = None,
    **arguments: str | None,
) -> "KohyaNetwork":
    """Create a network of rank ``network_dim``, unless ``rank_share`` is given. Raises LoraxError if ``arguments`` are wrong."""
    return KohyaNetwork(multiplier, NetworkArguments.read(network_dim, neuron_dropout, arguments))


def create_network_from_weights(
    multiplier: float,
    file: str,
    vae: nn.Module,
    text_encoder: TextEncoders,
    unet: nn.Module,
    weights_sd: dict[str, torch.Tensor] | None = None,
    for_inference: bool = False,
    **arguments: str | None,
) -> "tuple[KohyaNetwork, dict[str, torch.Tensor]]":
    """Create a network with the layers, ranks and values of a file in any form, and the weights for ``merge_to``, here none."""
    adapter = open_adapter(Path(file))
    if adapter.header is not None and adapter.header.core:
        arguments.setdefault("core", adapter.header.core)
    return KohyaNetwork(multiplier, NetworkArguments.read(None, None, arguments), adapter), {}


@dataclass(frozen=True)
class NetworkArguments:
    """The options of ``--network_args``; see ``docs/training.md``."""

    settings: Settings
    form: str
    convolutions: bool

    @classmethod
    def read(cls, dim: int | None, dropout: float | None, arguments: dict[str, str | None]) -> "NetworkArguments":
        """Read ``--network_dim``, ``--network_dropout`` and ``--network_args``. Raises LoraxError if they are not understood."""
        if unknown := sorted(arguments.keys() - set(ARGUMENTS)):
            raise LoraxError(f"network_args: {', '.join(unknown)} not known; expected some of {', '.join(ARGUMENTS)}.")
        given = {key: value for key, value in arguments.items() if value is not None}
        core = given.get("core", DIAGONAL)
        form = given.get("form", SMALL if core == DIAGONAL else FACTORS)
        check_form(form, core)
        rank = RankRule(str(dim)) if dim is not None and "rank_share" not in given else _share(given.get("rank_share", "0.25"))
        pairs = (one.rpartition("=") for one in given.get("ranks", "").split(";") if one)
        ranks = {_pattern(pattern): _share(share) for pattern, _, share in pairs}
        settings = Settings(core, rank, ranks, _number(given.get("dropout", dropout or 0.0)))
        return cls(settings, form, given.get("conv", "").lower() in ("true", "1"))


def _pattern(text: str) -> str:
    try:
        return re.compile(text).pattern
    except re.error as error:
        raise LoraxError(f"network_args: {text!r} is no pattern of layers ({error}).") from error


def _number(text: str | float) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise LoraxError(f"network_args: dropout {text!r}: expected a number such as 0.1.") from error


def _share(text: str) -> RankRule:
    try:
        return RankRule(f"{100 * float(text):f}%")
    except ValueError as error:
        raise LoraxError(f"network_args: {text!r} is no share of a rank; expected a number such as 0.25.") from error


class KohyaNetwork(nn.Module):
    """A ``Network`` with the methods that sd-scripts' trainers call. ``apply_to`` makes its layers."""

    network: Network

    def __init__(self, multiplier: float, arguments: NetworkArguments, adapter: AdapterFile | None = None) -> None:
        super().__init__()
        self.multiplier, self._arguments, self.adapter = multiplier, arguments, adapter
        self.base: Checkpoint | None = None

    def prepare_network(self, args: argparse.Namespace) -> None:
        """Open the checkpoint, which has the full precision. Raises LoraxError if it is missing, or the output no safetensors."""
        path = Path(args.pretrained_model_name_or_path)
        if not path.exists():
            raise LoraxError(f"{path}: not on the disk. LoRA-X needs the checkpoint's file or diffusers folder; download it.")
        if args.save_model_as not in (None, "safetensors"):
            raise LoraxError(f"save_model_as {args.save_model_as}: a LoRA-X adapter is saved as safetensors.")
        self.base = open_checkpoint(path)

    def apply_to(
        self, text_encoder: TextEncoders, unet: nn.Module, apply_text_encoder: bool = True, apply_unet: bool = True
    ) -> None:
        """Constrain the layers of the loaded models. Raises LoraxError if they are not of the base or the adapter."""
        base = self.base or self._loaded(text_encoder, unet)
        settings, adapter = self._arguments.settings, self.adapter
        if adapter is None:
            layers = "|".join([ATTENTION, TEXT, *([CONVOLUTION] if self._arguments.convolutions else [])])
        else:
            ranks = {re.escape(layer): adapter.layers[name].rank for name, layer in adapter.layers_of(base).items() if layer}
            layers = "|".join(ranks)
            settings = replace(settings, ranks={layer: RankRule(str(rank)) for layer, rank in ranks.items() if rank})
        encoders = _listed(text_encoder) if apply_text_encoder else []
        self.network = inject(base, unet if apply_unet else None, encoders, layers=layers, settings=settings, progress=_bar)
        self.set_multiplier(self.multiplier)
        if adapter is not None:
            self.network.load(adapter)

    def merge_to(self, text_encoder: TextEncoders, unet: nn.Module, weights_sd: object, dtype: object, device: object) -> None:
        """Add the file's update to the loaded weights."""
        assert self.adapter is not None
        base = self._loaded(text_encoder, unet)
        for layer, dW in self.adapter.deltas_of(base).items():
            weight = modules.find(base, layer, unet, _listed(text_encoder)).weight.data
            changed = weight.float().cpu() + self.multiplier * dW.scale * (dW.up @ dW.down).reshape(weight.shape)
            weight.copy_(changed)

    def _loaded(self, text_encoder: TextEncoders, unet: nn.Module) -> Checkpoint:
        return modules.loaded(unet, _listed(text_encoder), self.adapter.family if self.adapter else None)

    def is_mergeable(self) -> bool:
        return True

    def set_multiplier(self, multiplier: float) -> None:
        self.multiplier = multiplier
        for layer in self.network.constrained().values():
            layer.multiplier = multiplier

    def load_weights(self, file: str) -> str:
        """Resume from a file in any form. Raises LoraxError if it was not trained in this network's basis."""
        adapter = open_adapter(Path(file))
        self.network.load(adapter)
        return f"{len(adapter.layers)} layers"

    def prepare_optimizer_params(
        self, text_encoder_lr: float | None, unet_lr: float | None, default_lr: float | None = None
    ) -> tuple[list[dict[str, Any]], list[str]]:
        return self.prepare_optimizer_params_with_multiple_te_lrs(text_encoder_lr, unet_lr, default_lr)

    def prepare_optimizer_params_with_multiple_te_lrs(
        self, text_encoder_lr: float | Sequence[float] | None, unet_lr: float | None, default_lr: float | None
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Return a parameter group for each component that has layers and a learning rate, and the groups' names for the log."""
        self.requires_grad_(True)
        given = [text_encoder_lr] if isinstance(text_encoder_lr, int | float) else list(text_encoder_lr or [])
        groups, names = [], []
        encoders = [component.name for component in self.network.base.family.text_encoders]
        for number, component in enumerate([*encoders, "unet"]):
            rate = unet_lr if component == "unet" else given[min(number, len(given) - 1)] if given else None
            rate = default_lr if rate is None else rate
            own = [layer.core for name, layer in self.network.constrained().items() if name.startswith(f"{component}.")]
            if own and rate:
                groups.append({"params": own, "lr": rate})
                names.append("unet" if component == "unet" else f"textencoder {number + 1}" if encoders[1:] else "textencoder")
        return groups, names

    def enable_gradient_checkpointing(self) -> None:
        """Do nothing: the layers work within the models' own checkpointing."""

    def prepare_grad_etc(self, text_encoder: TextEncoders, unet: nn.Module) -> None:
        """Cast each basis to the precision to which the trainer has cast its model."""
        self.requires_grad_(True)
        encoders = zip(self.network.base.family.text_encoders, _listed(text_encoder), strict=False)
        models = {component.name: encoder for component, encoder in encoders} | {"unet": unet}
        dtypes = {name: next(model.parameters()).dtype for name, model in models.items()}
        for name, layer in self.network.constrained().items():
            layer.cast(dtypes[name.partition(".")[0]])

    def on_epoch_start(self, text_encoder: TextEncoders, unet: nn.Module) -> None:
        self.train()

    def get_trainable_params(self) -> Iterator[nn.Parameter]:
        return self.parameters()

    def save_weights(self, file: str, dtype: torch.dtype | None, metadata: dict[str, str] | None) -> None:
        """Write the adapter in the requested form, with the trainer's metadata. An existing file is replaced."""
        precision = next((name for name, kind in DTYPES.items() if kind == dtype), "fp32")
        save(self.network, Path(file), self._arguments.form, dtype=precision, described=metadata, overwrite=True)


def _listed(models: TextEncoders) -> list[nn.Module]:
    return list(models) if isinstance(models, Sequence) else [models]


def _bar(layers: Iterable[str]) -> Iterable[str]:
    return tqdm(layers, desc="LoRA-X: the base's leading subspaces", unit="layer")
