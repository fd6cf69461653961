"""Writes a trained LoRA-X adapter in one of three forms."""

from collections.abc import Mapping
from pathlib import Path

import torch

from lorax.errors import LoraxError
from lorax.files import Inputs, Staging, check_folder, check_free
from lorax.formats import small
from lorax.options import Options
from lorax.output import metadata, plain_lora
from lorax.training.layer import DIAGONAL
from lorax.training.network import Network

SMALL, FACTORS, PLAIN = "small", "factors", "lora"
FORMS = {
    SMALL: "a LoRA-X file with dS alone, rebuilt on the source; of a diagonal core",
    FACTORS: "a LoRA-X file with factors, which can do without its source",
    PLAIN: "a plain LoRA for the source, which works everywhere",
}


def check_form(form: str, of_core: str) -> None:
    """Raise LoraxError if an adapter with this kind of core has no such form."""
    if form not in FORMS:
        raise LoraxError(f"form {form!r}: expected one of {', '.join(FORMS)}.")
    if form == SMALL and of_core != DIAGONAL:
        raise LoraxError(f"form {form}: only a diagonal core is small. Choose form={FACTORS}, or core={DIAGONAL}.")


def save(
    network: Network,
    path: Path,
    form: str = SMALL,
    *,
    dtype: str = "fp16",
    described: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write the adapter with ``described`` in its header. Raises LoraxError if it cannot be written or a value is not finite."""
    check_form(form, network.core)
    check_folder(path)
    check_free(path, Inputs(network.base.inputs), overwrite)
    tensors = {key: tensor for layer in network.constrained() for key, tensor in _layer(network, layer, form, dtype).items()}
    if odd := next((key for key, value in tensors.items() if not torch.isfinite(value).all()), None):
        raise LoraxError(f"{path}: {odd} would be infinite in what is written. Training diverged: try a lower learning rate.")
    header = {}
    if form != PLAIN:
        header = metadata.lorax_header(network.base, network.constrained(), Options().method, Options(), dtype, network.core)
    with Staging() as staging:
        of_base = metadata.of_base(network.base, network.base.prediction)
        full = dict(described or {}) | of_base | _rank(network) | header
        staging.write(path, lambda temporary: plain_lora.save(tensors, temporary, full), overwrite)


def _layer(network: Network, layer: str, form: str, dtype: str) -> dict[str, torch.Tensor]:
    constrained, name, kind = network.constrained()[layer], network.base.names.kohya(layer), plain_lora.DTYPES[dtype]
    if form == SMALL:
        parts = small.encode(constrained.core.detach().cpu(), constrained.probes, kind)
    else:
        parts = plain_lora.factors(network.base, layer, constrained.delta().balanced(), kind)
    return {f"{name}.{part.replace('lora_', 'lorax_') if form == FACTORS else part}": tensor for part, tensor in parts.items()}


def _rank(network: Network) -> dict[str, str]:
    """Return the rank and an alpha that gives the scale 1, under kohya's names."""
    ranks = {str(len(constrained.core)) for constrained in network.constrained().values()}
    rank = ranks.pop() if len(ranks) == 1 else "Dynamic"
    return {"ss_network_dim": rank, "ss_network_alpha": rank}
