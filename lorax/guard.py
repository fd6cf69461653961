"""Guards every route of the standalone server, gradio's included, so that no other web page reads or writes through it.

A page of another origin can send requests to a server on the user's own machine. A request must therefore name the server by a
host that is ours (else a foreign name was bound to our address: DNS rebinding), come from our own page if it comes from a page at
all, and be JSON if it changes anything.
"""

import base64
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
READING = ("GET", "HEAD", "OPTIONS")
STARTUP = "/startup-events"  # gradio requests it from itself at the launch
LARGEST_BODY = 4 << 20  # bytes of a request, whose longest texts are captions
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Refused(Exception):
    """A refusal of a request, with the HTTP status and the reason in a sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """ASGI middleware in front of an app. ``names``: host names that are accepted besides the usual ones of ``address``.

    ``password`` is ``user:password`` for HTTP Basic authentication (RFC 7617) on every route; None for no password.
    """

    def __init__(self, app: App, address: str, names: Collection[str] = (), password: str | None = None) -> None:
        self._app, self._password = app, password
        self._is_loopback = is_loopback(address)
        machine = () if self._is_loopback else (socket.gethostname(), socket.getfqdn())
        self._names = {name.lower() for name in (*LOOPBACK, address, *machine, *names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self.check(scope["type"], scope.get("method", "GET"), headers)
            self._check_password(scope, headers)
        except Refused as refused:
            await _refuse(scope, send, refused)
            return
        if scope.get("method") == "HEAD" and scope["path"] == "/":
            # gradio asks this of itself at the launch, and gives up after 3 seconds. A busy machine builds the page in more.
            await _answer(send, 200, [(b"content-type", b"text/html; charset=utf-8")])
            return
        await self._app(scope, receive, _unframed(send))

    def check(self, kind: str, method: str, headers: MutableMapping[str, str]) -> None:
        """Raise Refused if a request with these headers must not be served."""
        host = headers.get("host", "")
        if not self._is_ours(_host(host)):
            raise Refused(403, f"Host {host!r} is not a name of this server. Allow it with --allow-host.")
        origin = headers.get("origin")
        if origin is not None and not _is_same(origin, host):
            raise Refused(403, f"Origin {origin!r} is not this server's own page.")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not _is_link(headers):
            raise Refused(403, "The request comes from another web page.")
        if kind == "http" and method not in READING:
            check_body(headers)

    def _check_password(self, scope: Scope, headers: MutableMapping[str, str]) -> None:
        """Raise Refused without the password. gradio's requests to itself (launch, queue's token) need none."""
        given, token = headers.get("authorization", ""), getattr(scope.get("app"), "queue_token", None)
        is_gradio = scope["path"] == STARTUP or (token and hmac.compare_digest(given.encode(), f"Bearer {token}".encode()))
        if self._password and not is_gradio and not _is_authorized(given, self._password):
            raise Refused(401, "A user name and a password are needed.")

    def _is_ours(self, host: str) -> bool:
        """Tell whether the host names this server. With other machines allowed, a number is safe: no name was rebound."""
        return host in self._names or (not self._is_loopback and _is_number(host))


def is_loopback(address: str) -> bool:
    """Tell whether an address is reachable from this machine only."""
    return address in LOOPBACK or (_is_number(address) and ipaddress.ip_address(address).is_loopback)


def check_body(headers: Mapping[str, str]) -> None:
    """Raise Refused if a request that changes something is not JSON, or if its body is too large or of an unknown size."""
    if "transfer-encoding" in headers:
        raise Refused(411, "The size of the body must be told, by Content-Length.")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > len(str(LARGEST_BODY)) or int(length) > LARGEST_BODY:
        raise Refused(413, f"The body is too large; at most {LARGEST_BODY} bytes are read.")
    essence = headers.get("content-type", "").partition(";")[0].strip().lower()
    if essence != "application/json" and not (length == "0" and not essence):
        raise Refused(415, "What changes something must be sent as application/json.")


def _host(netloc: str) -> str:
    """Return the host of a Host header or an origin, without port and brackets, in lower case."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").lower()
    except ValueError:
        return ""


def _is_same(origin: str, host: str) -> bool:
    """Tell whether an origin is the page that a Host header names. ``null``, of a sandbox or a file, is not."""
    try:
        parts = urlsplit(origin)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
        own = urlsplit(f"//{host}").port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and (parts.hostname or "").lower() == _host(host) and port == own


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_authorized(header: str, password: str) -> bool:
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "basic" and hmac.compare_digest(given.strip().encode(), base64.b64encode(password.encode()))


def _is_link(headers: Mapping[str, str]) -> bool:
    """Tell whether a request opens our page by itself, and not in a frame of another one."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _unframed(send: Send) -> Send:
    """Return a ``send`` that forbids other pages to show ours in a frame, in which they could have the user click."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [(b"content-security-policy", b"frame-ancestors 'self'"), (b"x-frame-options", b"SAMEORIGIN")]
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return sending


async def _refuse(scope: Scope, send: Send, refused: Refused) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": refused.reason})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if refused.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="LoRA-X", charset="UTF-8"'))
    await _answer(send, refused.status, headers, refused.reason.encode())


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
