"""Adds axes for moved LoRAs to the WebUI's X/Y/Z plot: which one, at which strength, moved by which method."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modules import scripts, shared

from lorax.catalog import Provenance, facts, record, seen
from lorax.hosts.a1111 import tags

LORA, STRENGTH, METHOD = "[LoRA-X] Moved LoRA", "[LoRA-X] Strength", "[LoRA-X] Method"
NONE = "None"  # no moved LoRA at all, to see the checkpoint alone
Check = Callable[[Any, list[str]], None]


def register() -> None:
    """Add the axes to the plot, if the WebUI has it. Must be called when scripts are loaded and the page is not made yet."""
    found = (data.module for data in scripts.scripts_data)
    plot = next((module for module in found if hasattr(module, "AxisOption") and hasattr(module, "axis_options")), None)
    if plot is None or any(axis.label == LORA for axis in plot.axis_options):
        return
    plot.axis_options += [
        plot.AxisOption(LORA, str, _apply("lora"), confirm=_confirm_loras, choices=lambda: [NONE, *_moved()]),
        plot.AxisOption(STRENGTH, float, _apply("strength")),
        plot.AxisOption(METHOD, str, _apply("method"), confirm=_confirm_methods, choices=_methods),
    ]


def _moved() -> dict[str, tuple[Path, Provenance]]:
    """Return the LoRAs that transfers wrote, by their names in the WebUI. Each picture asks: no file is read that was before."""
    listed = list(found.available_networks.items()) if (found := tags.loras()) else []
    files = {name: Path(network.filename) for name, network in listed}
    maybe = ((name, file) for name, file in files.items() if (seen(file) or record(file)).facts.origin and file.is_file())
    return {name: (file, origin) for name, file in maybe if (origin := facts(file).origin)}


def _methods() -> Sequence[str]:
    return sorted({origin.method for _, origin in _moved().values()})


def _confirm_loras(p: Any, names: list[str]) -> None:
    known = _moved()
    if unknown := next((name for name in names if name not in known and name != NONE), None):
        raise RuntimeError(f"{unknown}: no LoRA of this name was moved by LoRA-X.")


def _confirm_methods(p: Any, methods: list[str]) -> None:
    known = _methods()
    if unknown := next((method for method in methods if method not in known), None):
        raise RuntimeError(f"{unknown}: no LoRA was moved by this method. There are those by {', '.join(known) or 'none'}.")


def _apply(field: str) -> Callable[[Any, Any, Any], None]:
    """Make the function that the plot calls for a picture ``p`` with the value ``x``. Axes come in any order."""

    def apply(p: Any, x: Any, xs: Any) -> None:
        p.lorax_axes = {**getattr(p, "lorax_axes", {}), field: x}  # the plot copies p for each picture, but not what it holds
        p.prompt = prompt_with(p.prompt, p.lorax_axes)

    return apply


def prompt_with(prompt: str, chosen: dict[str, Any]) -> str:
    """Return the prompt with the tags of moved LoRAs as the axes have ``chosen`` by now: lora, strength and method.

    Without a chosen LoRA it is those of the prompt that change. Raises RuntimeError, which the WebUI shows, if there is none and
    no axis chooses one, or if a LoRA was not moved by a chosen method.
    """
    moved = _moved()
    files = {file for file, _ in moved.values()}

    def tag(file: Path, arguments: str) -> str:
        if "strength" in chosen:
            others = [part for part in arguments.split(":") if "=" in part and not part.startswith(("te=", "unet="))]
            arguments = ":".join(["", f"{chosen['strength']:g}", *others])
        file = _by_method(file, chosen["method"], moved) if "method" in chosen else file
        return f"{tags.tag(file).rpartition(':')[0]}{arguments or ':1'}>"

    if "lora" not in chosen:
        found = tags.replaced(prompt, files, tag)
        if tags.without(prompt, files) == prompt and not _is_plotted(LORA):
            raise RuntimeError("LoRA-X: the prompt has no tag of a moved LoRA. Write one, or choose moved LoRAs on another axis.")
        return found
    bare = tags.without(prompt, files).rstrip()
    return bare if chosen["lora"] == NONE else f"{bare} {tag(moved[chosen['lora']][0], ':1')}"


def _is_plotted(label: str) -> bool:
    """Tell whether the plot that is drawn has this axis."""
    axes = (getattr(shared.state, f"xyz_plot_{letter}", None) for letter in "xyz")
    return any(axis.axis.label == label for axis in axes if axis)


def _by_method(file: Path, method: str, moved: dict[str, tuple[Path, Provenance]]) -> Path:
    """Return what this method made of the same LoRA for the same target."""
    made = facts(file).origin
    for other, origin in moved.values():
        if made and origin.method == method and (origin.lora, origin.target) == (made.lora, made.target):
            return other
    raise RuntimeError(f"LoRA-X: {file.stem} was not moved by {method}. Move it by {method} first.")
