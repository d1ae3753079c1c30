"""The applications that every measured server runs: the same four answers, as WSGI and as ASGI.

They do next to nothing, so that what is measured is the server. All answers are ready-made bytes with a
Content-Length, except the upload's, which has to read the whole body and proves it by its SHA-256 (most of a
millisecond for 1 MiB, the same for everybody; the results record what the application costs alone).

=========== =====================================================
path         answer
=========== =====================================================
/            12 bytes
/10k         10,240 bytes
/1m          1,048,576 bytes
/upload      ``<bytes read> <SHA-256 in hexadecimal>`` of the body
=========== =====================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

BODIES: dict[str, bytes] = {
    "/": b"hello world\n",
    "/10k": b"0123456789abcdef" * 640,
    "/1m": b"0123456789abcdef" * 65536,
}
UPLOAD_SIZE = 1_048_576
"""Bytes in the body that the upload case posts."""

READ_SIZE = 65_536
"""Bytes asked for in one ``wsgi.input.read()``: the usual block of frameworks (Werkzeug, Django)."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def upload_answer(length: int, digest: str) -> bytes:
    """What /upload answers, after a body of this length and SHA-256."""
    return f"{length} {digest}\n".encode()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application (PEP 3333)."""
    path = environ["PATH_INFO"]
    body = BODIES.get(path)
    status = "200 OK"
    if path == "/upload":
        digest, length = hashlib.sha256(), 0
        left = int(environ.get("CONTENT_LENGTH") or 0)
        while left:
            block = environ["wsgi.input"].read(min(left, READ_SIZE))
            if not block:
                break
            digest.update(block)
            length += len(block)
            left -= len(block)
        body = upload_answer(length, digest.hexdigest())
    elif body is None:
        status, body = "404 Not Found", b"no such page\n"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application (version 3), with a lifespan that only says yes."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path = scope["path"]
    body = BODIES.get(path)
    status = 200
    if path == "/upload":
        digest, length, more = hashlib.sha256(), 0, True
        while more:
            message = await receive()
            block = message.get("body", b"")
            digest.update(block)
            length += len(block)
            more = message.get("more_body", False)
        body = upload_answer(length, digest.hexdigest())
    elif body is None:
        status, body = 404, b"no such page\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
