"""What frameworks do beyond the text of ASGI, and three of them, unchanged."""

from __future__ import annotations

import array
import asyncio
import gc
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import WebSocket
from pydantic import BaseModel

from fcgi_core.app.asgi import AsgiApplication, is_asgi
from fcgi_core.protocol.records import ProtocolStatus
from tests.app.asgi_applications import Receive, Scope, Send, http, respond
from tests.app.harness import run, serving, until

# ---- what frameworks do and other servers take


@pytest.mark.parametrize("kind", [GeneratorExit, KeyboardInterrupt, SystemExit, BaseException, asyncio.CancelledError])
@pytest.mark.parametrize("begun", [False, True])
def test_no_exception_of_an_application_ends_the_loop(
    kind: type[BaseException], begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/bad":
            if begun:
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise kind("enough")
        await respond(send)

    async def test() -> None:
        async with serving(http(handler)) as web:
            call = web.call(SCRIPT_NAME="/bad", REQUEST_URI="/bad")
            head, body = await call.over()
            if begun:
                assert (body, call.status) == (b"half", ProtocolStatus.INCOMPLETE)
            else:
                assert head.startswith("Status: 500 ")
            assert (await web.get("/"))[1] == b"hello"

    asyncio.run(test())
    assert "uncaught exception in GET /bad" in caplog.text


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("size", [1, 50_000])
@pytest.mark.parametrize(
    "make", [memoryview, bytearray, lambda data: memoryview(data + data)[::2], lambda data: array.array("B", data)]
)
def test_any_buffer_is_a_body(make: Callable[[bytes], Any], size: int, more: bool) -> None:
    buffer = make(b"x" * size)
    right = memoryview(buffer).tobytes()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": buffer, "more_body": more})
        if more:
            await send({"type": "http.response.body", "body": buffer})

    async def test() -> None:
        async with serving(http(handler)) as web:
            head, body = await web.get()
            assert body == (right + right if more else right)
            assert more or head == f"Status: 200 OK\r\nContent-Length: {len(right)}"

    asyncio.run(test())


@run
async def test_a_body_of_another_type_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, "text")  # type: ignore[arg-type]

    async with serving(http(handler)) as web:
        assert (await web.get())[0].startswith("Status: 500 ")
    assert "type str: bytes were expected" in caplog.text


@run
async def test_a_cancelled_receive_leaves_nothing_behind() -> None:
    """Starlette asks so whether the client is still there. What waits besides goes on waiting, and loses nothing."""
    from starlette.requests import Request

    asked: list[bool] = []
    left: list[int] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        assert (await receive())["body"] == b"first"
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0)
        gc.collect()
        before = sum(isinstance(one, asyncio.Future) for one in gc.get_objects())
        for _ in range(500):
            asked.append(await request.is_disconnected())
        gc.collect()
        left.append(sum(isinstance(one, asyncio.Future) for one in gc.get_objects()) - before)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"asked ", "more_body": True})
        await send({"type": "http.response.body", "body": (await waiting)["body"]})

    async with serving(http(handler)) as web:
        call = web.call(body=None)
        call.send(b"first")
        await until(lambda: call.out.endswith(b"asked "), "it has asked")
        call.send(b"second", last=True)
        assert (await call.over())[1] == b"asked second"
    assert asked == [False] * 500
    assert left[0] <= 5


@run
async def test_a_cancelled_send_leaves_nothing_behind() -> None:
    """A task that gives up sending while the window is full: what it gave is sent, and others send on."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        piece = {"type": "http.response.body", "body": b"x" * 300_000, "more_body": True}
        sending = asyncio.create_task(send(piece))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await send({"type": "http.response.body", "body": b"end"})

    async with serving(http(handler)) as web:
        call = web.call(hold=True)
        await until(lambda: len(call.out) > 200_000, "the window fills")
        call.release()
        assert (await call.over())[1] == b"x" * 300_000 + b"end"


# ---- frameworks, unchanged


class Item(BaseModel):
    name: str
    price: float


@run
async def test_starlette() -> None:
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.requests import Request
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Mount, Route

    done: list[str] = []

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> Any:
        done.append("up")
        yield {"shelf": "full"}
        done.append("down")

    async def upload(request: Request) -> JSONResponse:
        size = sum([len(piece) async for piece in request.stream()])
        task = BackgroundTask(done.append, "background")
        return JSONResponse({"size": size, "shelf": request.state.shelf, "url": str(request.url)}, background=task)

    async def forever(request: Request) -> StreamingResponse:
        async def pieces() -> Any:
            try:
                while True:
                    yield b"still here\n"
                    await asyncio.sleep(0)
            finally:
                done.append("gone")

        return StreamingResponse(pieces())

    async def crash(request: Request) -> None:
        raise RuntimeError("crash")

    routes = [Route("/upload", upload, methods=["POST"]), Route("/forever", forever), Route("/crash", crash)]
    app = Starlette(routes=[Mount("/shop", routes=routes)], lifespan=lifespan)
    async with serving(AsgiApplication(app)) as web:
        _, body = await web.post("/shop/upload", b"x" * 600_000)
        assert body == b'{"size":600000,"shelf":"full","url":"http://shop.example/shop/upload"}'
        await until(lambda: "background" in done, "the background task runs")
        call = web.call(SCRIPT_NAME="/shop/forever")
        await until(lambda: len(call.out) > 100_000, "it streams")
        call.abort()
        await until(lambda: "gone" in done, "the generator is closed")
        head, body = await web.get("/shop/crash")
        assert head.startswith("Status: 500 ")
        assert body == b"Internal Server Error"
        assert (await web.get("/nowhere"))[0].startswith("Status: 404 ")
    assert done == ["up", "background", "gone", "down"]


@run
async def test_fastapi() -> None:
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/items/{number}")
    async def store(number: int, item: Item, loud: bool = False) -> dict[str, Any]:
        return {"number": number, "name": item.name.upper() if loud else item.name}

    @app.get("/threads")
    def in_a_thread() -> str:
        return "from a thread"

    @app.websocket("/talk")
    async def talk(socket: WebSocket) -> None: ...

    async with serving(AsgiApplication(app)) as web:
        call = web.call(
            {"REQUEST_METHOD": "POST", "SCRIPT_NAME": "/items/7", "QUERY_STRING": "loud=1"},
            b'{"name": "lamp", "price": 2.5}',
            CONTENT_TYPE="application/json",
        )
        assert await call.over() == (
            "Status: 200 OK\r\ncontent-length: 26\r\ncontent-type: application/json",
            b'{"number":7,"name":"LAMP"}',
        )
        assert (await web.post("/items/7", b"{}", CONTENT_TYPE="application/json"))[0].startswith("Status: 422 ")
        assert (await web.get("/threads"))[1] == b'"from a thread"'
        assert (await web.get("/openapi.json"))[0].startswith("Status: 200 ")
        head, _ = await web.get("/talk", HTTP_UPGRADE="websocket", HTTP_CONNECTION="Upgrade")
        assert head.startswith("Status: 404 ")


@run
async def test_django() -> None:
    import django
    from django.conf import settings
    from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
    from django.urls import path

    if not settings.configured:
        settings.configure(ROOT_URLCONF=(), ALLOWED_HOSTS=["shop.example"], SECRET_KEY="x", USE_TZ=True)
        django.setup()

    def sync_view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(f"{request.method} {request.path} {request.path_info} {len(request.body)}")

    async def async_view(request: HttpRequest) -> StreamingHttpResponse:
        async def pieces() -> Any:
            for number in range(3):
                yield str(number)

        return StreamingHttpResponse(pieces())

    settings.ROOT_URLCONF = (path("sync", sync_view), path("async", async_view))

    from django.core.asgi import get_asgi_application

    app = get_asgi_application()
    assert is_asgi(app)
    async with serving(AsgiApplication(app, script_name="/shop")) as web:
        assert (await web.post("/shop/sync", b"x" * 100_000))[1] == b"POST /shop/sync /sync 100000"
        assert (await web.get("/shop/async"))[1] == b"012"
        assert (await web.get("/shop/none"))[0].startswith("Status: 404 ")
