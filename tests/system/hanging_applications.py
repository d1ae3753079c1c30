"""Applications whose /hang never returns: a thread or a task waits, or (`blocking`) the event loop itself."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

TEXT = [("Content-Type", "text/plain")]


def a_lock_that_nobody_releases() -> None:
    threading.Event().wait()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/hang":
        a_lock_that_nobody_releases()
    start_response("200 OK", TEXT)
    return [str(os.getpid()).encode()]


async def a_reply_that_never_comes(stubborn: bool) -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not stubborn:
                raise


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["path"] in ("/hang", "/stubborn"):
        await a_reply_that_never_comes(scope["path"] == "/stubborn")
    if scope["path"] == "/thread":
        await asyncio.to_thread(a_lock_that_nobody_releases)
    if scope["path"] == "/block":
        a_lock_that_nobody_releases()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
