"""ASGI applications for the system tests: one by hand, and Starlette as it comes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import Counter
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

seen: Counter[str] = Counter()


async def upload(request: Request) -> JSONResponse:
    whole, size = hashlib.sha256(), 0
    async for piece in request.stream():
        whole.update(piece)
        size += len(piece)
    return JSONResponse({"size": size, "sha256": whole.hexdigest()})


async def big(request: Request) -> StreamingResponse:
    async def pieces() -> Any:
        for number in range(int(request.query_params["blocks"])):
            yield bytes((number % 256,)) * 65536

    return StreamingResponse(pieces(), media_type="application/octet-stream")


async def forever(request: Request) -> StreamingResponse:
    async def pieces() -> Any:
        try:
            while True:
                yield b"still here\n"
                await asyncio.sleep(0.01)
        finally:
            seen["forever over"] += 1

    return StreamingResponse(pieces(), headers={"X-Accel-Buffering": "no"})


async def half(request: Request) -> StreamingResponse:
    async def pieces() -> Any:
        yield b"x" * 1000
        raise RuntimeError("no other half")

    return StreamingResponse(pieces(), headers={"X-Accel-Buffering": "no"})


async def tell_seen(request: Request) -> JSONResponse:
    return JSONResponse(seen)


async def needs_a_file(request: Request) -> Response:
    with open(os.devnull, "rb") as file:
        return PlainTextResponse(b"opened" + file.read())


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


starlette = Starlette(
    routes=[
        Route("/hello", hello),
        Route("/upload", upload, methods=["POST"]),
        Route("/big", big),
        Route("/forever", forever),
        Route("/half", half),
        Route("/file", needs_a_file),
        Route("/seen", tell_seen),
    ]
)


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Tells its scope; it has no lifespan."""
    assert scope["type"] == "http"
    told = {name: value for name, value in scope.items() if isinstance(value, str)}
    told["headers"] = {name.decode(): value.decode() for name, value in scope["headers"]}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
