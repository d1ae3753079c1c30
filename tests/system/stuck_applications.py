"""Applications that never come to serve: `at_import` waits when it is looked for, `asgi` in lifespan.startup."""

from __future__ import annotations

import asyncio
import threading
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "at_import":
        print("it waits at import", flush=True)
        threading.Event().wait()
    raise AttributeError(name)


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    print("it waits at start-up", flush=True)
    await asyncio.Event().wait()
