"""A LoRA-X adapter in training: constrained layers in a model that a trainer has loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from lorax.checkpoint import Checkpoint, component_of
from lorax.errors import LoraxError
from lorax.formats import AdapterFile, small
from lorax.low_rank import LowRank
from lorax.subspace import QUARTER, Decomposition, RankRule, basis
from lorax.training import modules
from lorax.training.layer import CORES, DIAGONAL, Constrained

# The layers that kohya's and PEFT's LoRAs change by default, and those that kohya's conv_dim adds.
ATTENTION = r"unet\..*\.(transformer_blocks\..+|proj_in|proj_out)"
CONVOLUTION = r"unet\..*\.(in_layers\.2|emb_layers\.1|out_layers\.3|skip_connection|op|conv)"
TEXT = r"te\d?\..*\.(self_attn|mlp)\..+"
# ||dW - U~ dS V~^T|| / ||dW|| up to which a file is taken as trained in this basis: half precision, and a few roundings more.
INSIDE = 1e-2


@dataclass(frozen=True)
class Settings:
    """How layers are constrained.

    ``core``: dS is "diagonal" (r numbers, as in the paper) or "full" (r * r). ``rank``: of the basis; ``ranks`` maps regular
    expressions, of which the first that matches a whole layer name counts, to other ranks.
    """

    core: str = DIAGONAL
    rank: RankRule = QUARTER
    ranks: Mapping[str, RankRule] = field(default_factory=dict)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.core not in CORES:
            raise LoraxError(f"core {self.core!r}: expected one of {', '.join(CORES)}.")
        if not 0 <= self.dropout < 1:
            raise LoraxError(f"dropout {self.dropout}: expected a share of at least 0 and below 1.")

    def of(self, layer: str) -> RankRule:
        return next((rank for pattern, rank in self.ranks.items() if re.fullmatch(pattern, layer)), self.rank)


class Network(nn.Module):
    """The constrained layers. Its parameters are the cores; the base's own are left as they are."""

    def __init__(self, base: Checkpoint, core: str) -> None:
        super().__init__()
        self.base, self.core = base, core
        self.by_name = nn.ModuleDict()

    def add(self, layer: str, module: nn.Linear | nn.Conv2d, settings: Settings) -> None:
        """Constrain one layer, of rank as ``settings`` say, in the basis of the base's own weight."""
        of = Decomposition(self.base.weight(layer))
        U, V = basis(of, of.rank(settings.of(layer)))
        self.by_name[self.base.names.kohya(layer)] = Constrained(module, U, V, settings.core, settings.dropout)

    def constrained(self) -> dict[str, Constrained]:
        """Layer -> what is trained of it."""
        return {self.base.names[name]: layer for name, layer in self.by_name.items() if isinstance(layer, Constrained)}

    def load(self, adapter: AdapterFile) -> None:
        """Take the cores from an adapter of the same base, in any form; layers that it lacks are left as they are.

        Raises LoraxError when it holds other layers, or was not trained in this network's basis.
        """
        constrained = self.constrained()
        for name, layer in adapter.layers_of(self.base).items():
            if layer not in constrained:
                raise LoraxError(f"{adapter.path}: {name} is not trained here. Train the layers that the file has.")
            own = constrained[layer]
            dS, outside = small.core_of(adapter.read(name), own.probes), 0.0
            if dS is None:
                dS, outside = own.core_of(adapter.delta(name))
            if outside > INSIDE or dS.shape != own.core.shape:
                raise LoraxError(
                    f"{adapter.path}: {name} is not in the basis that is trained here ({outside:.0%} of it lies outside of a "
                    f"{self.core} core of rank {len(own.core)} on {self.base.path}). Train with the base, the core and the rank "
                    "that it was trained with."
                )
            own.core.data.copy_(dS)

    def remove(self) -> None:
        """Leave the model as it was."""
        for layer in self.constrained().values():
            layer.remove()


def inject(
    base: Checkpoint,
    unet: nn.Module | None,
    text_encoders: Sequence[nn.Module] = (),
    *,
    layers: str = ATTENTION,
    settings: Settings | None = None,
    progress: Callable[[Iterable[str]], Iterable[str]] = lambda layers: layers,
) -> Network:
    """Constrain the layers of loaded models whose names the regular expression ``layers`` matches as a whole.

    ``base`` is the checkpoint that the models were loaded from: the basis comes from its weights, in float64, whatever precision
    the models have. ``text_encoders`` are those of the family, in order. ``progress`` wraps the list of layers. What is to be
    trained are the parameters of the network that is returned; freezing the model's own is left to the caller.

    Raises LoraxError when no layer matches, or the models are not of this base.
    """
    settings = settings or Settings()
    network = Network(base, settings.core)
    there = {"unet"} if unet is not None else set()
    there |= {c.name for c, _ in zip((c for c in base.family.components if c.name != "unet"), text_encoders, strict=False)}
    names = [layer for layer in base.layers if component_of(layer) in there and re.fullmatch(layers, layer)]
    if not names:
        raise LoraxError(
            f"{base.path}: none of its layers is called like {layers!r}. Layers are called like {next(iter(base.layers))}."
        )
    for layer in progress(names):
        network.add(layer, modules.find(base, layer, unet, text_encoders), settings)
    return network


def extract(network: Network) -> dict[str, LowRank]:
    """Layer -> delta."""
    return {layer: constrained.delta() for layer, constrained in network.constrained().items()}
