"""What another web page can do to the standalone server: nothing. In a real browser, and by hand."""

from __future__ import annotations

import base64
import http.client
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

MOVE = {"source": "base", "target": "finetune", "adapters": ["Lora/contrast-base"], "options": {"method": "copy"}}
# Every way that a page has to send something to another origin, or to read from it.
ATTACK = """
async ([server, asked]) => {
  const json = JSON.stringify(asked), form = new FormData();
  form.append("files", new Blob(["x"]), "x.txt");
  const tries = {
    untyped: () => fetch(server + "lorax/v1/transfer", {method: "POST", mode: "no-cors", body: new Blob([json])}),
    text: () => fetch(server + "lorax/v1/transfer", {method: "POST", mode: "no-cors", body: json}),
    typed: () => fetch(server + "lorax/v1/transfer", {method: "POST", body: json, headers: {"Content-Type": "application/json"}}),
    form: () => fetch(server + "upload", {method: "POST", mode: "no-cors", body: form}),
    queue: () => fetch(server + "queue/join", {method: "POST", mode: "no-cors", body: new Blob([json])}),
    run: () => fetch(server + "run/predict", {method: "POST", mode: "no-cors", body: new Blob([json])}),
    submit: () => submitted("lorax/v1/transfer", "application/x-www-form-urlencoded"),
    submit_text: () => submitted("lorax/v1/transfer", "text/plain"),
    upload: () => submitted("upload", "multipart/form-data"),
    read: () => fetch(server + "lorax/v1/bases"),
    config: () => fetch(server + "config", {credentials: "include"}),
  };
  const found = {};
  async function submitted(path, kind) {  // as a form does: into a frame, in which nothing of ours may appear
    const frame = document.createElement("iframe"), sent = document.createElement("form");
    frame.name = "answer";
    document.body.append(frame, sent);
    Object.assign(sent, {method: "POST", action: server + path, enctype: kind, target: "answer"});
    const field = document.createElement("input");
    Object.assign(field, {name: json, value: ""});
    sent.append(field);
    const loaded = new Promise((done) => { frame.onload = done; setTimeout(done, 2000); });
    sent.submit();
    await loaded;
    frame.remove();
    sent.remove();
    return {type: "opaque"};
  }
  for (const [name, attempt] of Object.entries(tries)) {
    try { const answer = await attempt(); found[name] = answer.type === "opaque" ? "opaque" : await answer.text(); }
    catch (error) { found[name] = "blocked"; }
  }
  found.socket = await new Promise((done) => {
    const socket = new WebSocket(server.replace("http", "ws") + "queue/join");
    socket.onopen = () => done("open"); socket.onerror = () => done("blocked");
  });
  return found;
}
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *given: Any) -> None:
        """Say nothing."""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """Another origin, with a page of its own, and one that holds it in a sandbox."""
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "evil.html").write_text("<p>a page</p>")
    (tmp_path / "page" / "frame.html").write_text("<iframe></iframe>")
    (tmp_path / "page" / "sandbox.html").write_text('<iframe sandbox="allow-scripts" src="evil.html"></iframe>')
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "page")))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}/"
    web.shutdown()


def written(models: Path) -> list[str]:
    return sorted(path.name for path in models.rglob("*finetune*") if path.parent.name == "Lora")


@pytest.mark.parametrize("page", ["evil.html", "sandbox.html"])
def test_a_page_of_another_origin_reads_and_writes_nothing(
    server: str, elsewhere: str, browser: Any, models: Path, page: str
) -> None:
    before, opened = written(models), browser.new_page()
    opened.goto(elsewhere + page)
    frame = opened.frames[-1]
    found = frame.evaluate(ATTACK, [server, MOVE])
    opened.close()
    for name in ("untyped", "text", "form", "queue", "run", "submit", "submit_text", "upload"):
        assert found.pop(name) in ("opaque", "blocked")
    assert set(found.values()) == {"blocked"}, found
    assert written(models) == before
    assert jobs(server) == [], "none was begun"


def test_our_page_is_not_shown_in_a_frame_of_another_one(server: str, elsewhere: str, browser: Any) -> None:
    """In which the user could be made to press our buttons."""
    opened = browser.new_page()
    opened.goto(elsewhere + "frame.html")
    with opened.expect_response(server) as answered:
        opened.evaluate("(server) => { document.querySelector('iframe').src = server; }", server)
    assert answered.value.status == 403
    assert opened.goto(server).headers["content-security-policy"] == "frame-ancestors 'self'"
    opened.close()


def test_a_foreign_name_for_our_address_reads_and_writes_nothing(server: str, browser: Any, models: Path) -> None:
    """DNS rebinding: the page's own name leads to our server now, so that the browser takes both for one origin."""
    port, before, opened = urlsplit(server).port, written(models), browser.new_page()
    answer = opened.goto(f"http://evil.test:{port}/lorax/v1/bases")
    assert answer.status == 403
    found = opened.evaluate(ATTACK, [f"http://evil.test:{port}/", MOVE])
    opened.close()
    told = {name: text for name, text in found.items() if text != "opaque" and name != "socket"}
    assert set(found) - set(told) == {"socket", "submit", "submit_text", "upload"}, found
    assert all("is not a name of this server" in text for text in told.values()), found
    assert found["socket"] == "blocked"
    assert written(models) == before


def jobs(server: str) -> list[str]:
    """Files that a job has begun to write, or has written."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lorax-job")]


def asked(server: str, method: str, path: str, body: bytes = b"", **headers: str) -> int:
    parts = urlsplit(server)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in ({"Host": parts.netloc, "Content-Length": str(len(body))} | headers).items():
        connection.putheader(name, value)
    connection.endheaders(body)
    return connection.getresponse().status


@pytest.mark.parametrize("path", ["/", "/config", "/lorax/v1/bases", "/openapi.json", "/theme.css", "/queue/status"])
def test_every_route_is_guarded(server: str, path: str) -> None:
    assert asked(server, "GET", path) in (200, 404)
    assert asked(server, "GET", path, Host="evil.example") == 403
    assert asked(server, "GET", path, Origin="null") == 403


@pytest.mark.parametrize("path", ["/lorax/v1/transfer", "/upload", "/run/predict", "/queue/join", "/api/predict", "/login"])
def test_what_changes_something_must_be_json(server: str, path: str) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=a", "application/x-www-form-urlencoded"):
        assert asked(server, "POST", path, b"{}", **{"Content-Type": kind}) == 415
    assert asked(server, "POST", path, b"{}") == 415


@pytest.mark.parametrize("secured", [True, False])
def test_what_the_command_line_allows_reaches_the_guard(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], secured: bool
) -> None:
    gr = pytest.importorskip("gradio", reason="needs gradio: python dev.py ui")
    from lorax.cli import main

    found: list[int] = []

    def ask(page: Any) -> None:
        """Ask instead of waiting for an end."""
        given = {"Authorization": "Basic " + base64.b64encode(b"me:secret").decode()} if secured else {}
        for host in ("studio.example", "evil.example", "10.1.2.3"):
            found.append(asked(page.local_url, "GET", "/lorax/v1/bases", Host=host, **given))
        found.append(asked(page.local_url, "GET", "/lorax/v1/bases", Host="studio.example"))
        page.server.force_exit = True
        page.close()

    monkeypatch.setattr(gr.Blocks, "block_thread", ask)
    access = ["--address", "0.0.0.0", "--allow-host", "studio.example", *(["--auth", "me:secret"] if secured else [])]
    assert main(["serve", "--models", str(models), "--port", str(free_port()), *access]) == 0
    assert found == [200, 403, 200, 401 if secured else 200]
    warned = "0.0.0.0 lets other machines in, and everyone who reaches it may use it. Set --auth."
    assert (warned in capsys.readouterr().err) == (not secured)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_the_tab_works_with_a_password(models: Path, browser: Any) -> None:
    """As the page of the one who knows it; nobody else sees anything."""
    from lorax.hosts.standalone import Standalone
    from lorax.serve import Access, open_page

    port = free_port()
    served = open_page(Standalone(models), "127.0.0.1", port, Access(password="me:secret"))
    try:
        assert asked(f"http://127.0.0.1:{port}/", "GET", "/lorax/v1/bases") == 401
        context = browser.new_context(http_credentials={"username": "me", "password": "secret"})
        opened = context.new_page()
        opened.set_default_timeout(120_000)
        opened.goto(f"http://127.0.0.1:{port}/")
        opened.wait_for_selector("#lorax_notes [data-answers]", state="attached")
        context.close()
    finally:
        served.server.force_exit = True
        served.close()
