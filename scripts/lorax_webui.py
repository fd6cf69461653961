"""Registers LoRA-X with the WebUI: tab, settings, API, axes of the X/Y/Z plot and LoRA-X files in prompts.

Modules are imported when the WebUI calls for them.
"""

from __future__ import annotations

import logging
from typing import Any

from modules import script_callbacks

from lorax.hosts.a1111 import needed, network  # the WebUI adds the extension's folder to the path just before this script runs


def tabs() -> list[tuple[Any, str, str]]:
    from lorax.hosts.a1111.host import A1111
    from lorax.hosts.a1111.settings import keep_out_of_defaults
    from lorax.ui.tab import TITLE, build

    return [(keep_out_of_defaults(build(A1111())), TITLE, "lorax_tab")]


def settings() -> None:
    from lorax.hosts.a1111.settings import add_settings

    add_settings()


def routes(demo: Any, app: Any) -> None:
    from lorax.hosts.a1111.host import A1111, guards

    if (dependencies := guards(app)) is not None:
        from lorax.api import router

        app.include_router(router(A1111()), dependencies=dependencies)


def axes() -> None:
    from lorax.hosts.a1111.axes import register

    register()


def cache() -> Any:
    from lorax.hosts.a1111.settings import cache

    return cache()


def device() -> str:
    from lorax.hosts.a1111.settings import stored

    return stored().get("device") or "auto"


if missing := needed.missing():
    message = "LoRA-X has no tab here, since this WebUI has no %s. Move LoRAs by python -m lorax serve: see docs/webui.md."
    logging.getLogger("lorax").error(message, ", ".join(missing))
else:
    script_callbacks.on_ui_tabs(tabs)
    script_callbacks.on_ui_settings(settings)
    script_callbacks.on_app_started(routes)
    script_callbacks.on_before_ui(axes)
    LoraxNetworks = network.register(cache, device)  # the WebUI looks for script classes in this module's namespace
