"""LoRA-X's page among the WebUI's settings: the options' defaults, and the cache of fitted LoRA-X files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from modules import paths_internal, shared

from lorax.errors import LoraxError
from lorax.files import Cache
from lorax.options import Caching, Option, Options, Running, Saving, declared

PREFIX = "lorax_"  # of our options among the host's
SECTION = ("lorax", "LoRA-X")


def add_settings() -> None:
    """Make the page. What is changed of the cache holds at once."""
    for option in _defaults():
        _add(option).needs_reload_ui()
    for option in declared(Caching):
        info = _add(option)
        info.onchange = apply
        info.restrict_api = option.kind is str  # where files are written is for the one at the page to say
    clear = shared.OptionInfo("Clear the cache", "Clear the cache", _clear_button, section=SECTION)
    clear.do_not_save = True
    shared.opts.add_option(f"{PREFIX}cache_clear", clear)


def stored(options: list[Option] | None = None) -> Mapping[str, Any]:
    """What the user has set of the options, by their names; of the tab's, unless told."""
    names = [option.name for option in (_defaults() if options is None else options)]
    return {name: shared.opts.data[PREFIX + name] for name in names if PREFIX + name in shared.opts.data}


@lru_cache(maxsize=1)
def cache() -> Cache:
    """The one cache of this process, also after Reload UI."""
    return Cache(*_limits())


def apply() -> None:
    """Bring the cache to what is set. Raises LoraxError, upon which the WebUI takes the change back, where it cannot be."""
    folder, disk, memory = _limits()
    if disk:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"{folder}: cannot hold the cache ({error}). Choose another folder."
            gr.Warning(reason)  # the WebUI itself says on its console only why it takes a change back
            raise LoraxError(reason) from error
    cache().change(folder, disk, memory)


def _limits() -> tuple[Path, int, int]:
    """Folder, bytes on the disk, bytes in memory."""
    known = {name: value for name, value in stored(declared(Caching)).items() if value is not None}
    chosen = Caching(**known)
    root = Path(paths_internal.data_path)
    folder = root / chosen.cache_folder.strip() if chosen.cache_folder.strip() else root / "cache" / "lorax"
    return folder, int(chosen.cache_size) << 30, int(chosen.cache_memory) << 20


def _defaults() -> list[Option]:
    running = [option for option in declared(Running) if option.kind is int]  # what is drawn is chosen for each LoRA
    return declared(Options) + running + [option for option in declared(Saving) if option.kind is not bool]  # replacing is, too


def _add(option: Option) -> Any:
    component, arguments = _component(option)
    default = "" if option.default is None else option.default
    info = shared.OptionInfo(default, option.label, component, arguments, section=SECTION).info(option.described)
    shared.opts.add_option(PREFIX + option.name, info)
    return info


def _component(option: Option) -> tuple[Any, dict[str, Any]]:
    if option.choices:
        return gr.Dropdown, {"choices": list(option.choices)}
    if option.bounds:
        return gr.Slider, {"minimum": option.bounds[0], "maximum": option.bounds[1], "step": option.step}
    return gr.Textbox, {"placeholder": option.example}


def _clear_button(label: str, value: str, elem_id: str) -> Any:
    """The WebUI makes it as it makes any setting's component."""

    def clear() -> Any:
        cache().clear()
        return gr.update(value="Cleared")

    button = gr.Button(value, elem_id=elem_id)
    button.click(clear, None, [button], queue=False)
    return button
