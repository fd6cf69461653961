"""LoRA-X's page among the WebUI's settings: the options' defaults, and the cache of fitted LoRA-X files."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from modules import paths_internal, shared

from lorax import catalog
from lorax.errors import LoraxError
from lorax.files import Cache
from lorax.options import Caching, Option, Options, Running, Saving, declared

PREFIX = "lorax_"  # begins the names of our options among the WebUI's
SECTION = ("lorax", "LoRA-X")
# Defaults of earlier versions. The WebUI stores every option as soon as a user sets one, so nobody has asked for these.
FORMER_DEFAULTS = {"pictures": 384}


def add_settings() -> None:
    """Add the page. Changes to the cache take effect at once, others after Reload UI."""
    for name, former in FORMER_DEFAULTS.items():  # a number that a user has typed is stored as a text
        if shared.opts.data.get(PREFIX + name) == former:
            del shared.opts.data[PREFIX + name]
    for option in _defaults():
        info = _add(option).needs_reload_ui()
        info.onchange = check
    for option in declared(Caching):
        info = _add(option)
        info.onchange = apply
        info.restrict_api = option.kind is str  # a client of the API must not choose where files are written
    clear = shared.OptionInfo("Clear the cache", "Clear the cache", _clear_button, section=SECTION)
    clear.do_not_save = True
    shared.opts.add_option(f"{PREFIX}cache_clear", clear)


def stored(options: list[Option] | None = None) -> Mapping[str, Any]:
    """Return the values that the user has set, by option name; by default those of the tab's options."""
    names = [option.name for option in (_defaults() if options is None else options)]
    return {name: shared.opts.data[PREFIX + name] for name in names if PREFIX + name in shared.opts.data}


def keep_out_of_defaults(blocks: Any) -> Any:
    """Mark the components of our tab, so that the WebUI does not store their values; return the blocks.

    It would store them at its first start, in ui-config.json, and they would win over our page of the settings ever after.
    """
    for component in blocks.blocks.values():
        component.do_not_save_to_config = True
    return blocks


def check() -> None:
    """Raise LoraxError if the defaults are not what the options expect; the WebUI then takes the change back."""
    given = stored()
    try:
        for declaration in (Options, Running, Saving):
            declaration(**{one.name: one.parse(given[one.name]) for one in declared(declaration) if one.name in given})
    except LoraxError as error:
        gr.Warning(str(error))  # the WebUI itself gives the reason on its console only
        raise


@lru_cache(maxsize=1)
def cache() -> Cache:
    """Return the cache, of which there is one per process, also after Reload UI."""
    return Cache(*_limits())


def apply() -> None:
    """Apply the settings to the cache. Raises LoraxError if its folder cannot be used; the WebUI then reverts the change."""
    folder, disk, memory = _limits()
    if disk:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"{folder}: cannot hold the cache ({error}). Choose another folder."
            gr.Warning(reason)  # the WebUI itself gives the reason on its console only
            raise LoraxError(reason) from error
    cache().change(folder, disk, memory)
    keep_index()


def keep_index() -> None:
    """Keep what is known of files in the cache's folder. Nothing is read or written before it is asked for."""
    catalog.keep_in(cache().folder if cache().is_on_disk else None)


def _limits() -> tuple[Path, int, int]:
    """Return the cache's folder, its bytes on disk and its bytes in memory."""
    chosen = Caching(**{name: value for name, value in stored(declared(Caching)).items() if value is not None})
    folder = Path(paths_internal.data_path) / (chosen.cache_folder.strip() or "cache/lorax")
    return folder, int(chosen.cache_size) << 30, int(chosen.cache_memory) << 20


def _defaults() -> list[Option]:
    """Return the options of the tab that have a default here. Captions, trigger words and replacing are chosen for each LoRA."""
    running = [option for option in declared(Running) if option.kind is int]
    return declared(Options) + running + [option for option in declared(Saving) if option.kind is not bool]


def _add(option: Option) -> Any:
    component, arguments = _component(option)
    default = "" if option.default is None else option.default
    info = shared.OptionInfo(default, option.label, component, arguments, section=SECTION).info(option.help)
    shared.opts.add_option(PREFIX + option.name, info)
    return info


def _component(option: Option) -> tuple[Any, dict[str, Any]]:
    if option.choices:
        return gr.Dropdown, {"choices": list(option.choices)}
    if option.slider:
        low, high = option.slider
        return gr.Slider, {"minimum": low, "maximum": high, "step": option.step}
    return gr.Textbox, {"placeholder": option.placeholder or option.example}


def _clear_button(label: str, value: str, elem_id: str) -> Any:
    """Make the button that clears the cache. The WebUI calls this as the class of a setting's component."""

    def clear() -> Any:
        cache().clear()
        return gr.update(value="Cleared" if catalog.forget() else "Not all is cleared: another program is writing. Try again")

    button = gr.Button(value, elem_id=elem_id)
    button.click(clear, None, [button], queue=False, api_name=False)
    return button
