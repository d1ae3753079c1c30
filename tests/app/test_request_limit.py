"""Requests that take too long: ended, logged with their frames, and what becomes of threads and tasks that hang."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fcgi_core.app import asgi as asgi_module
from fcgi_core.app import request_limit as module
from fcgi_core.app.asgi import AsgiApplication
from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.fastcgi.bridge import FastcgiBridge
from fcgi_core.app.request_limit import RequestLimit
from fcgi_core.app.service import Application, AppService
from fcgi_core.app.wsgi import WsgiApplication
from fcgi_core.process.status import app_commands
from fcgi_core.protocol.records import ProtocolStatus
from tests.app.harness import PATIENCE, Web, run, serving, until

LIMIT = 0.05


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.01)
    monkeypatch.setattr(module, "RETURN_WITHIN", 0.05)


class Wsgi:
    """Paths: /hang waits for `gate`, /half after a part of its response, /write for the client; others say hello."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.came_back = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/hang":
            self.a_call_that_hangs()
        start_response("200 OK", [("Content-Type", "text/plain")])
        if path == "/half":
            return self.half()
        if path == "/upload":
            return [environ["wsgi.input"].read()]
        if path == "/much":
            return (bytes(65536) for _ in range(20))
        return [b"hello"]

    def half(self) -> Iterator[bytes]:
        yield b"half"
        self.a_call_that_hangs()

    async def hangs(self) -> None:
        await until(self.begun.is_set, "a request hangs")

    def a_call_that_hangs(self) -> None:
        self.begun.set()
        assert self.gate.wait(PATIENCE)
        self.came_back += 1


@asynccontextmanager
async def limited(application: Application, **named: Any) -> AsyncIterator[Web]:
    async with serving(application, request_limit=LIMIT, **named) as web:
        yield web


# ---- WSGI


@run
async def test_a_request_over_the_limit_gets_504_and_is_logged_with_its_frames(
    caplog: pytest.LogCaptureFixture,
) -> None:
    application = Wsgi()
    async with limited(WsgiApplication(application, threads=2)) as web:
        head, _ = await web.get("/hang?token=x", REQUEST_ID="42", SERVER_NAME="shop\x1b[2J")
        assert head.startswith("Status: 504 Gateway Timeout\r\n")
        (record,) = [one for one in caplog.records if "longer than app.request_limit" in one.message]
        assert record.levelno == logging.ERROR
        assert record.message.startswith("request 42 to shop\\x1b[2J has run for 0.")
        assert record.message.endswith("and is ended: GET /hang?***, in:")
        assert "in a_call_that_hangs" in record.frames  # type: ignore[attr-defined]
        assert (await web.get("/"))[1] == b"hello"
        application.gate.set()
        await until(lambda: application.came_back, "its thread comes back")
        assert (await web.get("/"))[1] == b"hello"


@run
async def test_a_response_that_has_begun_is_cut() -> None:
    application = Wsgi()
    async with limited(WsgiApplication(application)) as web:
        call = web.call(SCRIPT_NAME="/half")
        assert (await call.over())[1] == b"half"
        assert call.status is ProtocolStatus.INCOMPLETE
        application.gate.set()


@run
async def test_time_in_which_the_client_is_waited_for_does_not_count() -> None:
    application = Wsgi()
    async with limited(WsgiApplication(application)) as web:
        download = web.call(SCRIPT_NAME="/much", hold=True)
        upload = web.call({"SCRIPT_NAME": "/upload", "CONTENT_LENGTH": "4"}, None)
        hanging = web.call(SCRIPT_NAME="/hang")  # it began last
        assert (await hanging.over())[0].startswith("Status: 504")
        upload.send(b"body", last=True)
        assert (await upload.over())[1] == b"body"
        download.release()
        assert len((await download.over())[1]) == 20 * 65536
        application.gate.set()


@run
async def test_another_thread_takes_the_place_of_one_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    application = Wsgi()
    wsgi = WsgiApplication(application, threads=2)
    async with limited(wsgi) as web:
        hanging = [web.call(SCRIPT_NAME="/hang") for _ in range(5)]
        other = web.call()
        for call in hanging:
            assert (await call.over())[0].startswith("Status: 504")
        assert (await other.over())[1] == b"hello"
        await until(lambda: "only a restart ends them" in caplog.text, "it is told")
        application.gate.set()
        await until(lambda: application.came_back == 5, "all come back")
        for _ in range(20):
            assert (await web.get("/"))[1] == b"hello"
        assert wsgi.pool._active < 5, "those that are too many are parked after a request"


@run
async def test_it_does_so_before_the_thread_is_known_to_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETURN_WITHIN", 1000.0)
    application = Wsgi()
    async with limited(WsgiApplication(application, threads=1)) as web:
        assert (await web.get("/hang"))[0].startswith("Status: 504")
        assert (await web.get("/"))[1] == b"hello"
        application.gate.set()


@run
async def test_a_worker_in_which_a_thread_hangs_serves_until_it_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    application = Wsgi()
    async with limited(WsgiApplication(application, threads=1), is_replaced=True) as web:
        assert (await web.get("/hang"))[0].startswith("Status: 504")
        await until(lambda: "this worker is replaced when its turn comes" in caplog.text, "it is told")
        assert (await web.get("/"))[1] == b"hello"
        assert not web.connection.peer_draining
        application.gate.set()


@run
async def test_the_web_server_may_give_a_request_more_time() -> None:
    application = Wsgi()
    async with limited(WsgiApplication(application)) as web:
        longer = [web.call(SCRIPT_NAME="/hang", FCGI_SCTP_REQUEST_LIMIT=value) for value in ("off", "1000")]
        others = [web.call(SCRIPT_NAME="/hang", FCGI_SCTP_REQUEST_LIMIT=value) for value in ("", "0", "x", "\xb2")]
        for call in others:
            assert (await call.over())[0].startswith("Status: 504")
        assert [call.end for call in longer] == [None, None]
        application.gate.set()
        for call in longer:
            assert (await call.over())[1] == b"hello"


@run
async def test_a_request_whose_client_has_gone_is_ended_too(caplog: pytest.LogCaptureFixture) -> None:
    application = Wsgi()
    async with limited(WsgiApplication(application)) as web:
        call = web.call(SCRIPT_NAME="/hang")
        await application.hangs()
        call.abort()
        await until(lambda: "longer than app.request_limit" in caplog.text, "it is logged")
        application.gate.set()


@run
async def test_few_are_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_AT_ONCE", 2)
    ended: list[list[object]] = []
    look, end = RequestLimit._look, RequestLimit._end
    monkeypatch.setattr(RequestLimit, "_look", lambda self: (ended.append([]), look(self)))
    monkeypatch.setattr(RequestLimit, "_end", lambda self, *given: (ended[-1].append(given), end(self, *given)))
    application = Wsgi()
    async with limited(WsgiApplication(application, threads=5)) as web:
        for call in [web.call(SCRIPT_NAME="/hang") for _ in range(5)]:
            assert (await call.over())[0].startswith("Status: 504")
        application.gate.set()
    assert sum(map(len, ended)) == 5
    assert max(map(len, ended)) == 2


class Watched:
    """Another application, and the service that it got."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self.service: AppService

    async def start(self, service: AppService) -> None:
        self.service = service
        await self._application.start(service)

    def request(self, exchange: AppExchange) -> None:
        self._application.request(exchange)

    async def stop(self) -> None:
        await self._application.stop()


@run
async def test_the_status_and_plugins_have_their_number() -> None:
    application = Wsgi()
    watched = Watched(WsgiApplication(application))
    async with limited(watched) as web:
        assert (await web.get("/hang"))[0].startswith("Status: 504")
        limit = watched.service.limit
        assert limit is not None
        await until(lambda: limit.hanging == 1, "its thread hangs")
        requests = app_commands(watched.service, 5)["status"]({})["requests"]
        assert (requests["over_limit"], requests["hanging"]) == (6, 1), "those of the workers before it count"
        assert watched.service.supervisor.transport().requests_over_limit == 1
        application.gate.set()
        await until(lambda: limit.hanging == 0, "it comes back")


@run
async def test_requests_that_no_thread_has_begun_are_given_back_at_the_end() -> None:
    application = Wsgi()
    watched = Watched(WsgiApplication(application, threads=1))
    async with serving(watched, grace=0.01) as web:
        hanging, waiting = web.call(SCRIPT_NAME="/hang"), web.call(REQUEST_METHOD="POST")
        await application.hangs()
        await watched.service.finish(0.01)
        await waiting.over()
        assert waiting.status is ProtocolStatus.OVERLOADED
        assert web.connection.peer_draining, "it is not taken for a sign of too much work"
        assert hanging.end is None
        application.gate.set()


# ---- ASGI


class Asgi:
    def __init__(self) -> None:
        self.cancelled = 0
        self.gate = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        path = scope["path"]
        if path in ("/half", "/much", "/"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if path == "/much":
            for _ in range(20):
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        if path == "/half":
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        if path in ("/half", "/hang"):
            await self.a_call_that_hangs()
        if path == "/stubborn":
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                await self.gate.wait()
                raise
        await send({"type": "http.response.body", "body": b"hello"})

    async def a_call_that_hangs(self) -> None:
        try:
            await self.gate.wait()
        finally:
            self.cancelled += 1


@run
async def test_a_task_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    application = Asgi()
    async with limited(AsgiApplication(application)) as web:
        assert (await web.get("/hang"))[0].startswith("Status: 504")
        (record,) = [one for one in caplog.records if "longer than app.request_limit" in one.message]
        assert "in a_call_that_hangs" in record.frames  # type: ignore[attr-defined]
        assert "in wait" in record.frames  # type: ignore[attr-defined]
        await until(lambda: application.cancelled == 1, "it is cancelled")
        call = web.call(SCRIPT_NAME="/half")
        assert (await call.over())[1] == b"half"
        assert call.status is ProtocolStatus.INCOMPLETE
        download = web.call(SCRIPT_NAME="/much", hold=True)
        assert (await web.get("/hang"))[0].startswith("Status: 504")
        download.release()
        assert len((await download.over())[1]) == 20 * 65536 + 5
    assert "uncaught" not in caplog.text
    assert "hang:" not in caplog.text


@run
async def test_a_task_that_does_not_end_hangs(caplog: pytest.LogCaptureFixture) -> None:
    application = Asgi()
    asgi = AsgiApplication(application)
    async with limited(asgi) as web:
        assert (await web.get("/stubborn"))[0].startswith("Status: 504")
        await until(lambda: "1 requests hang" in caplog.text, "it is told")
        assert application.cancelled == 1
        assert not asgi.tasks, "the end does not wait for it"
        application.gate.set()


@run
async def test_the_end_does_not_wait_for_long_for_a_task_whose_time_was_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETURN_WITHIN", 1000.0)
    monkeypatch.setattr(asgi_module, "SHUTDOWN_TIMEOUT", 1000.0)
    monkeypatch.setattr(asgi_module, "LATE_TIMEOUT", 0.01)
    application = Asgi()
    async with limited(AsgiApplication(application)) as web:
        assert (await web.get("/stubborn"))[0].startswith("Status: 504")
        await until(lambda: application.cancelled == 1, "it is cancelled")
    application.gate.set()


class AsgiOnThreads(Wsgi):
    """Each request waits for a thread."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # type: ignore[override]
        if scope["type"] == "http":
            await asyncio.get_running_loop().run_in_executor(None, self.a_call_that_hangs)


@run
async def test_a_thread_that_works_for_a_task_and_goes_on_hangs(caplog: pytest.LogCaptureFixture) -> None:
    application = AsgiOnThreads()
    watched = Watched(AsgiApplication(application))
    async with limited(watched) as web:
        assert (await web.get("/"))[0].startswith("Status: 504")
        (record,) = [one for one in caplog.records if "longer than app.request_limit" in one.message]
        assert "in a_call_that_hangs" in record.frames  # type: ignore[attr-defined]
        limit = watched.service.limit
        assert limit is not None
        await until(lambda: limit.hanging == 1, "its thread hangs")
        application.gate.set()
        await until(lambda: limit.hanging == 0, "it comes back")


# ---- the bridge


@run
async def test_the_connection_to_a_server_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(4096):
                pass
        except ConnectionResetError:
            pass
        closed.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, limited(FastcgiBridge(f"{host}:{port}")) as web:
        assert (await web.get("/"))[0].startswith("Status: 504")
        async with asyncio.timeout(PATIENCE):
            await closed.wait()
    assert caplog.text.count("longer than app.request_limit") == 1
