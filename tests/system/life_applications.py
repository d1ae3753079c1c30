"""Applications that say something whenever they can: when they are imported, start, end, and when the process ends."""

from __future__ import annotations

import atexit
import logging
import logging.config
import os
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any

log = logging.getLogger("shop.life")
log.error("said before logging was configured")
if os.environ.get("CONFIGURES"):
    # as most applications do: what is not named is disabled
    logging.config.dictConfig({"version": 1, "root": {"level": "INFO"}})
log = logging.getLogger("shop.living")
log.error("said at import")
warnings.warn("warned at import", UserWarning, stacklevel=1)
atexit.register(lambda: log.error("said at exit"))
if os.environ.get("FAILS"):
    raise LookupError("no database")


def last() -> None:
    threading.main_thread().join()
    log.error("said by a thread at the end")


threading.Thread(target=last).start()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            log.error("said at %s", kind)
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"hello"})
