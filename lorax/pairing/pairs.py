"""Pairs the layers of two bases by names, shapes and plain cosines, without any decomposition."""

from dataclasses import replace

from lorax.checkpoint import PROJECTION, Checkpoint
from lorax.errors import LoraxError
from lorax.pairing.by_place import by_place
from lorax.pairing.by_weights import by_weights
from lorax.pairing.shared_inputs import Pair, shared_inputs
from lorax.reasons import Reason, Why

PAIRINGS = ("auto", "name", "weights")


def pair(source: Checkpoint, target: Checkpoint, how: str = "auto") -> dict[str, Pair]:
    """Return the pairs of all layers of ``source`` by layer. Raises LoraxError if ``how`` is none of ``PAIRINGS``.

    ``name`` pairs layers of the same name. ``weights`` pairs the blocks whose weights are most similar. ``auto`` chooses for each
    component: by name if the structures agree, by place between UNets of different families, and else by weights. Text encoders
    are paired with those of the same kind only.
    """
    if how not in PAIRINGS:
        raise LoraxError(f"pairing {how!r}: expected one of {', '.join(PAIRINGS)}.")
    pairs: dict[str, Pair] = {}
    twins = {component.title: component.name for component in target.family.components}
    for component in source.family.components:
        s, t = _layers(source, component.name), _layers(target, twins.get(component.title, ""))
        s_names, t_names = _by_diffusers_path(source, s), _by_diffusers_path(target, t)
        agree = s_names.keys() - {PROJECTION} == t_names.keys() - {PROJECTION}
        if not t:
            lacking = Reason(Why.NO_COMPONENT, {"component": component.title})
            pairs |= {layer: Pair(layer, None, lacking) for layer in s}
        elif how == "name" or (how == "auto" and agree):
            for name, layer in s_names.items():
                match = t_names.get(name)
                pairs[layer] = Pair(layer, match, Reason(Why.SAME_NAME if match else Why.NO_SUCH_NAME))
        elif how == "auto" and component.name == "unet" and source.family != target.family:
            pairs |= by_place(source, target, s, t)
        else:
            pairs |= by_weights(source, target, s, t)
    for layer, found in pairs.items():
        columns = shared_inputs(source, found.source, target, found.target) if found.target else None
        if columns:
            pairs[layer] = replace(found, columns=columns, reason=found.reason.but(columns.note))
    return pairs


def _layers(base: Checkpoint, component: str) -> list[str]:
    return [layer for layer in base.layers if layer.startswith(f"{component}.")]


def _by_diffusers_path(base: Checkpoint, layers: list[str]) -> dict[str, str]:
    """Return the layers by their diffusers paths in the component, which other tools use to copy adapters between bases."""
    names = {}
    for layer in layers:
        head, _, path = layer.partition(".")
        names[base.unet_names.to_diffusers(path) if head == "unet" else path] = layer
    return names
