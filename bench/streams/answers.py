"""The application of the HTTP alternatives: ``python -m bench.streams.answers HOST PORT``, in bench/.venv.

Hypercorn on one process, HTTP/1.1 and HTTP/2 without TLS (prior knowledge). ``/N`` answers with N bytes, ``/end`` ends
it.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from typing import Any

PIECE = random.Random(1).randbytes(32768)


async def main(host: str, port: int) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    over = asyncio.Event()

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError("only HTTP")  # as ASGI has it of an application without a lifespan
        size = 0
        if scope["path"] == "/end":
            over.set()
        else:
            size = int(scope["path"][1:])
        head = [(b"content-length", b"%d" % size), (b"content-type", b"application/octet-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        while size > len(PIECE):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            size -= len(PIECE)
        await send({"type": "http.response.body", "body": PIECE[:size]})

    listener = socket.create_server((host, port), backlog=512)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")  # and so have those that it accepts
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.loglevel = "ERROR"
    config.keep_alive_timeout = 60
    config.h2_max_concurrent_streams = 200
    await serve(application, config, shutdown_trigger=over.wait)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
