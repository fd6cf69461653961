"""``python -m lorax serve``: the tab and the API over a folder of models, without a WebUI."""

from __future__ import annotations

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
    """Serve the tab and the API in a thread of its own."""
    page = build(host, title=TITLE, css=(ROOT / "style.css").read_text(encoding="utf-8"))
    with page:
        page.load(None, None, None, **js("() => {" + (ROOT / "javascript" / "lorax.js").read_text(encoding="utf-8") + "}"))
    page.queue()
    shown = {"docs_url": "/docs"}
    app, _, _ = page.launch(
        server_name=address, server_port=port, show_api=False, prevent_thread_lock=True, quiet=True, app_kwargs=shown
    )
    app.include_router(router(host))
    return page
