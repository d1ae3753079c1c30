"""Applications that fork, as multiprocessing does with its method "fork"; each path does one thing."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

log = logging.getLogger("shop.worker")
forking = multiprocessing.get_context("fork")


def stay() -> None:
    threading.Event().wait(60)


def terminated() -> str:
    """A job that is given up."""
    child = forking.Process(target=stay)
    child.start()
    child.terminate()
    child.join(20)
    return str(child.exitcode)


def pooled() -> str:
    with forking.Pool(1) as pool:
        return str(pool.map(abs, [-1]))


def say(environ: dict[str, Any]) -> None:
    log.error("logged in a child")
    print("printed in a child")
    print("printed on stderr in a child", file=sys.stderr)
    if "wsgi.errors" in environ:
        environ["wsgi.errors"].write("ERROR: written to wsgi.errors in a child\n")
    try:
        raise LookupError("raised in a child")
    except LookupError:
        log.exception("caught in a child")


def talking(environ: dict[str, Any]) -> str:
    child = forking.Process(target=say, args=(environ,))
    child.start()
    child.join(20)
    return str(child.exitcode)


def forked(how: str) -> str:
    """By os.fork() alone, where the child comes back into the server's own code."""
    child = os.fork()
    if child == 0:
        if how == "exits":
            sys.exit(3)
        if how == "raises":
            raise LookupError("raised in a child")
        return "in the child"
    return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def page(path: str, environ: dict[str, Any]) -> bytes:
    if path.startswith("/forked/"):
        return forked(path.removeprefix("/forked/")).encode()
    if path == "/terminated":
        return terminated().encode()
    if path == "/pooled":
        return pooled().encode()
    if path == "/talking":
        return talking(environ).encode()
    return str(os.getpid()).encode()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = page(environ["PATH_INFO"], environ)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    if scope["query_string"]:  # on the loop's own thread
        body = page(scope["path"], {})
    else:
        body = await asyncio.to_thread(page, scope["path"], {})
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


def left(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Forks a child that stays, and tells its process id."""
    if environ["PATH_INFO"] == "/":
        child = forking.Process(target=stay)
        child.start()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(child.pid if environ["PATH_INFO"] == "/" else os.getpid()).encode()]
