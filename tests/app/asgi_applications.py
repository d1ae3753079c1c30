"""ASGI applications in a few lines, for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fcgi_core.app.asgi import AsgiApplication

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


def http(handler: Handler, **named: Any) -> AsgiApplication:
    """An application without lifespan."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await handler(scope, receive, send)

    return AsgiApplication(application, **named)


async def respond(send: Send, body: bytes = b"hello", status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})
