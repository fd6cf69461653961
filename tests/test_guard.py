"""Which requests the standalone server refuses, told by their headers alone."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from lorax.guard import LARGEST_BODY, Guard, Refused, is_loopback

OURS = {"host": "127.0.0.1:7862"}
JSON = {"content-type": "application/json", "content-length": "2"}
TOKEN = "Bearer secret"


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An app that gives nothing."""


def refusal(headers: dict[str, str], method: str = "GET", address: str = "127.0.0.1", kind: str = "http", *names: str) -> int:
    """Status of the refusal; 0 if there is none."""
    try:
        Guard(nothing, address, names).check(kind, method, headers)
    except Refused as refused:
        return refused.status
    return 0


@pytest.mark.parametrize("host", ["127.0.0.1:7862", "localhost:7862", "LOCALHOST", "[::1]:7862", "127.0.0.1:8080"])
def test_our_own_names_are_served(host: str) -> None:
    assert refusal({"host": host}) == 0
    assert refusal({"host": host, "origin": f"http://{host}"} | JSON, "POST") == 0


@pytest.mark.parametrize(
    "host", ["evil.example:7862", "127.0.0.1.evil.example", "", "localhost.evil.example:7862", "192.168.1.9:7862", "[", "a]b"]
)
def test_a_foreign_name_for_our_address_is_refused(host: str) -> None:
    assert refusal({"host": host}) == 403
    assert refusal({"host": host, "origin": f"http://{host}"} | JSON, "POST") == 403


def test_a_request_without_a_host_is_refused() -> None:
    assert refusal({}) == 403


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "http://127.0.0.1:9",
        "http://localhost:7862",
        "file://",
        "",
        "http://[",
        "chrome-extension://a",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_origin_is_refused(origin: str, method: str) -> None:
    assert refusal(OURS | JSON | {"origin": origin}, method) == 403
    assert refusal(OURS | {"origin": origin}, kind="websocket") == 403


def test_what_another_page_embeds_is_refused_and_a_link_is_not() -> None:
    for site in ("cross-site", "same-site"):  # another port of this machine is of the same site
        assert refusal(OURS | {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}) == 403
        assert refusal(OURS | {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}) == 403
        assert refusal(OURS | {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}) == 0
    for site in ("same-origin", "none"):
        assert refusal(OURS | {"sec-fetch-site": site, "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}) == 0


def test_every_answer_forbids_foreign_frames() -> None:
    """Also for browsers that do not say from where a request comes."""
    [start, _] = answered(Guard(reading, "127.0.0.1"), scope())
    assert (b"content-security-policy", b"frame-ancestors 'self'") in start["headers"]


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data; boundary=a", "application/x-www-form-urlencoded"])
def test_what_changes_something_is_json(kind: str) -> None:
    given = {"content-type": kind} if kind else {}
    assert refusal(OURS | given | {"content-length": "2"}, "POST") == 415
    assert refusal(OURS | {"content-type": "application/json; charset=utf-8", "content-length": "2"}, "POST") == 0
    assert refusal(OURS, "POST") == 0, "nothing is sent"


@pytest.mark.parametrize("length", [str(LARGEST_BODY + 1), "-1", "9" * 5000, "x"])
def test_a_large_body_is_refused(length: str) -> None:
    assert refusal(OURS | JSON | {"content-length": length}, "POST") == 413


def test_a_body_of_unknown_size_is_refused() -> None:
    assert refusal(OURS | {"content-type": "application/json", "transfer-encoding": "chunked"}, "POST") == 411


def test_other_machines_are_let_in_by_number_and_by_the_names_that_are_allowed() -> None:
    assert refusal({"host": "192.168.1.9:7862"}, address="0.0.0.0") == 0
    assert refusal({"host": "studio.example"}, address="0.0.0.0") == 403
    assert refusal({"host": "studio.example"}, "GET", "0.0.0.0", "http", "studio.example") == 0
    assert [is_loopback(one) for one in ("127.0.0.1", "127.3.2.1", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1", "x")] == [
        *[True] * 4,
        *[False] * 4,
    ]


def answered(guard: Guard, scope: dict[str, Any], *chunks: bytes) -> list[dict[str, Any]]:
    """What is sent as an answer to a request with a body in these chunks."""
    sent: list[dict[str, Any]] = []
    bodies = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]

    async def receive() -> dict[str, Any]:
        return bodies.pop(0) if bodies else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent


async def reading(scope: Any, receive: Any, send: Any) -> None:
    """An app that answers with how many bytes it has read."""
    total = 0
    while (message := await receive())["type"] == "http.request":
        total += len(message["body"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(total).encode()})


def scope(path: str = "/", **headers: str) -> dict[str, Any]:
    listed = [(name.encode(), value.encode()) for name, value in (OURS | headers).items()]
    return {"type": "http", "method": "GET", "path": path, "headers": listed}


def test_a_password_is_asked_for() -> None:
    guard = Guard(reading, "127.0.0.1", password="me:s€cret")
    [start, _] = answered(guard, scope())
    assert start["status"] == 401
    assert (b"www-authenticate", b'Basic realm="LoRA-X", charset="UTF-8"') in start["headers"]
    for given, status in (("me:s€cret", 200), ("me:other", 401), ("", 401)):
        header = "Basic " + base64.b64encode(given.encode()).decode()
        assert answered(guard, scope(authorization=header))[0]["status"] == status


def test_gradio_reaches_itself_without_the_password() -> None:
    """When it is launched, and by the token of gradio 3's queue; nobody has an empty token."""
    guard = Guard(reading, "127.0.0.1", password="me:secret")
    assert answered(guard, scope("/startup-events"))[0]["status"] == 200
    app = type("App", (), {"queue_token": "secret"})()
    assert answered(guard, scope(authorization=TOKEN) | {"app": app})[0]["status"] == 200
    for other in ({}, {"app": object()}, {"app": type("App", (), {"queue_token": ""})()}):
        assert answered(guard, scope(authorization="Bearer ") | other)[0]["status"] == 401


def test_a_refused_websocket_is_closed_before_it_opens() -> None:
    asked = scope(origin="null") | {"type": "websocket"}
    [message] = answered(Guard(reading, "127.0.0.1"), asked)
    assert (message["type"], message["code"]) == ("websocket.close", 1008)


def test_a_server_that_is_busy_answers_gradio_at_the_launch() -> None:
    """The page itself is not built for it; who may not have the page has no answer either."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the page is built")

    guard = Guard(slow, "127.0.0.1", password="me:secret")
    header = "Basic " + base64.b64encode(b"me:secret").decode()
    assert answered(guard, scope(authorization=header) | {"method": "HEAD"})[0]["status"] == 200
    assert answered(guard, scope() | {"method": "HEAD"})[0]["status"] == 401
    with pytest.raises(AssertionError, match="built"):
        answered(guard, scope("/info", authorization=header) | {"method": "HEAD"})
