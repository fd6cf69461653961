"""Serves the tab and the API on a folder of models, without a WebUI: ``python -m lorax serve``."""

from pathlib import Path

import gradio as gr

from lorax.api import router
from lorax.files import Cache
from lorax.hosts.base import Host
from lorax.hosts.standalone import Standalone
from lorax.ui.controls import js
from lorax.ui.tab import TITLE, build

ROOT = Path(__file__).resolve().parents[1]


def serve(models: Path, address: str, port: int, cache: Cache | None) -> None:
    """Serve until interrupted."""
    page = open_page(Standalone(models, cache), address, port)
    print(f"LoRA-X serves {models} at {page.local_url}", flush=True)
    page.block_thread()


def open_page(host: Host, address: str, port: int) -> gr.Blocks:
    """Serve the tab and the API in their own thread; return the page."""
    page = build(host, title=TITLE, css=(ROOT / "style.css").read_text(encoding="utf-8"))
    with page:
        page.load(None, None, None, **js("() => {" + (ROOT / "javascript" / "lorax.js").read_text(encoding="utf-8") + "}"))
    page.queue()
    settings = {"show_api": False, "prevent_thread_lock": True, "quiet": True, "app_kwargs": {"docs_url": "/docs"}}
    app, _, _ = page.launch(server_name=address, server_port=port, **settings)
    app.include_router(router(host))
    return page
