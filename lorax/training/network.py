"""Constrains layers of loaded models, to train a LoRA-X adapter."""

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

# Patterns of the layers that kohya's and PEFT's LoRAs change by default, and of those that kohya's conv_dim adds.
ATTENTION = r"unet\..*\.(transformer_blocks\..+|proj_in|proj_out)"
CONVOLUTION = r"unet\..*\.(in_layers\.2|emb_layers\.1|out_layers\.3|skip_connection|op|conv)"
TEXT = r"te\d?\..*\.(self_attn|mlp)\..+"
# ||dW - U~ dS V~^T|| / ||dW|| up to which a file counts as trained in this basis: some roundings to half precision.
INSIDE = 1e-2


@dataclass(frozen=True)
class Settings:
    """Settings of a training. Raises LoraxError if a value is not valid.

    ``core``: dS is "diagonal" (r numbers, as in the paper) or "full" (r * r). ``rank`` is the rank of the basis. ``ranks`` maps
    regular expressions to other ranks; the first that matches a whole layer name counts.
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

    def rank_of(self, layer: str) -> RankRule:
        return next((rank for pattern, rank in self.ranks.items() if re.fullmatch(pattern, layer)), self.rank)


class Network(nn.Module):
    """The constrained layers as a module, whose parameters are their cores."""

    def __init__(self, base: Checkpoint, core: str) -> None:
        super().__init__()
        self.base, self.core = base, core
        self.by_name = nn.ModuleDict()

    def add(self, layer: str, module: nn.Linear | nn.Conv2d, settings: Settings) -> None:
        """Constrain one layer to the leading subspaces of the base's weight."""
        decomposition = Decomposition(self.base.weight(layer))
        U, V = basis(decomposition, decomposition.rank(settings.rank_of(layer)))
        self.by_name[self.base.names.kohya(layer)] = Constrained(module, U, V, settings.core, settings.dropout)

    def constrained(self) -> dict[str, Constrained]:
        """Return the constrained layers by layer name."""
        return {self.base.names[name]: layer for name, layer in self.by_name.items() if isinstance(layer, Constrained)}

    def load(self, adapter: AdapterFile) -> None:
        """Load the cores from an adapter in any form. Raises LoraxError if it has other layers, or another basis."""
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
        """Remove the hooks, so that the model is as it was."""
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
    """Constrain the layers of loaded models whose whole name the regular expression ``layers`` matches; return the network.

    ``base`` is the checkpoint that the models were loaded from: each basis is computed from its weights, in float64.
    ``text_encoders`` are in the family's order. ``progress`` wraps the list of layers. Train the network's parameters, and freeze
    those of the models. Raises LoraxError if no layer matches, or if the models are not of this base.
    """
    settings = settings or Settings()
    network = Network(base, settings.core)
    present = {"unet"} if unet is not None else set()
    present |= {component.name for component, _ in zip(base.family.text_encoders, text_encoders, strict=False)}
    names = [layer for layer in base.layers if component_of(layer) in present and re.fullmatch(layers, layer)]
    if not names:
        raise LoraxError(
            f"{base.path}: none of its layers is called like {layers!r}. Layers are called like {next(iter(base.layers))}."
        )
    for layer in progress(names):
        network.add(layer, modules.find(base, layer, unet, text_encoders), settings)
    return network


def extract(network: Network) -> dict[str, LowRank]:
    """Return the deltas by layer."""
    return {layer: constrained.delta() for layer, constrained in network.constrained().items()}
