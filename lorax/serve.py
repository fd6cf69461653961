"""Serves the tab and the API on a folder of models, without a WebUI: ``python -m lorax serve``."""

import sys
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from lorax.api import router
from lorax.files import Cache
from lorax.guard import Guard, is_loopback
from lorax.hosts.base import Host
from lorax.hosts.standalone import Standalone
from lorax.ui.controls import js
from lorax.ui.tab import TITLE, build

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Access:
    """The access to the server: host names that it accepts besides its own, and ``user:password`` if there is a password."""

    names: tuple[str, ...] = ()
    password: str | None = None


EVERYONE = Access()


def serve(models: Path, address: str, port: int, cache: Cache | None, access: Access) -> None:
    """Serve until interrupted."""
    page = open_page(Standalone(models, cache), address, port, access)
    print(f"LoRA-X serves {models} at {page.local_url}", flush=True)
    if not is_loopback(address) and not access.password:
        print(f"warning: {address} lets other machines in, and everyone who reaches it may use it. Set --auth.", file=sys.stderr)
    page.block_thread()


def open_page(host: Host, address: str, port: int, access: Access = EVERYONE) -> gr.Blocks:
    """Serve the tab and the API in their own thread; return the page."""
    page = build(host, title=TITLE, css=(ROOT / "style.css").read_text(encoding="utf-8"))
    with page:
        page.load(None, None, None, **js("() => {" + (ROOT / "javascript" / "lorax.js").read_text(encoding="utf-8") + "}"))
    page.queue()
    guard = Middleware(Guard, address=address, names=access.names, password=access.password)
    kwargs = {"docs_url": "/docs", "middleware": [guard]}
    app, _, _ = page.launch(
        server_name=address, server_port=port, show_api=False, prevent_thread_lock=True, quiet=True, app_kwargs=kwargs
    )
    app.user_middleware.sort(key=lambda one: one.cls is not Guard)  # before gradio's own, which answers requests of other origins
    app.middleware_stack = app.build_middleware_stack()
    app.include_router(router(host))
    return page
