"""The applications that every measured server runs: the same four answers, as WSGI and as ASGI.

They do next to nothing, so that what is measured is the server. All answers are ready-made bytes with a
Content-Length, except the upload's, which has to read the whole body and compares it with what was sent (a few
hundredths of a millisecond for 1 MiB; the results record what the application costs alone).

=========== =====================================================
path         answer
=========== =====================================================
/            12 bytes
/10k         10,240 bytes
/1m          1,048,576 bytes
/upload      how many bytes of the body came, up to the first block that is wrong
=========== =====================================================
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

BODIES: dict[str, bytes] = {
    "/": b"hello world\n",
    "/10k": b"0123456789abcdef" * 640,
    "/1m": b"0123456789abcdef" * 65536,
}
UPLOAD = BODIES["/1m"]
"""The body that the upload case posts."""

READ_SIZE = 65_536
"""Bytes asked for in one ``wsgi.input.read()``: the usual block of frameworks (Werkzeug, Django)."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def upload_answer(length: int) -> bytes:
    """What /upload answers, after so many right bytes."""
    return b"%d\n" % length


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application (PEP 3333)."""
    path = environ["PATH_INFO"]
    body = BODIES.get(path)
    status = "200 OK"
    if path == "/upload":
        length = 0
        left = int(environ.get("CONTENT_LENGTH") or 0)
        while left:
            block = environ["wsgi.input"].read(min(left, READ_SIZE))
            if not block or not UPLOAD.startswith(block, length):
                break
            length += len(block)
            left -= len(block)
        body = upload_answer(length)
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
        length, more, right = 0, True, True
        while more:
            message = await receive()
            block = message.get("body", b"")
            right = right and UPLOAD.startswith(block, length)
            length += len(block) if right else 0
            more = message.get("more_body", False)
        body = upload_answer(length)
    elif body is None:
        status, body = 404, b"no such page\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
