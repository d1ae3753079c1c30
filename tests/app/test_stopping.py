"""What the exchanges of the application side say, and how its service stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fcgi_core.app import service as module
from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from tests.app.harness import serving, settle, until


class Application:
    """Does with each request what it is told."""

    def __init__(self, does: Callable[[AppExchange], None]) -> None:
        self.does = does
        self.service: AppService

    async def start(self, service: AppService) -> None:
        self.service = service

    def request(self, exchange: AppExchange) -> None:
        self.does(exchange)

    async def stop(self) -> None:
        pass


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(body())  # type: ignore[arg-type]


def test_stderr_of_a_thread_comes_before_the_output_that_follows_it() -> None:
    """STDERR is handed over apart from the response, which another request's may take along before its turn."""

    def answer(exchange: AppExchange) -> None:
        for number in range(3):
            exchange.shared.queue_stderr(exchange, b"line %d\n" % number)
        exchange.send(b"Content-Type: text/plain\r\n\r\nbody")
        exchange.shared.queue_stderr(exchange, b"last line\n")
        exchange.end()

    async def body() -> None:
        async with serving(Application(answer)) as web:
            call = web.call()
            await call.over()
            assert call.err == b"line 0\nline 1\nline 2\nlast line\n"

    run(body)


def test_stderr_that_is_left_out_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    left_out: list[int] = []

    def answer(exchange: AppExchange) -> None:
        exchange.stderr(bytes(3 << 20))
        left_out.append(exchange.connection.stderr_dropped)
        exchange.end()

    async def body() -> None:
        async with serving(Application(answer)) as web:
            await web.call().over()

    run(body)
    assert left_out[0] >= 2 << 20
    assert f"{left_out[0]} bytes of STDERR of " in caplog.text


def test_a_web_side_that_never_answers_drain_does_not_hold_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAINED_WITHIN", 0.05)
    begun: list[AppExchange] = []

    async def body() -> None:
        application = Application(begun.append)
        async with serving(application) as web:
            web.call()
            web.connection.draining = True  # as if it had told already: it says no more
            await until(lambda: begun, "a request")
            stopping = asyncio.create_task(application.service.stop(600))
            await settle()
            assert not stopping.done(), "a request still runs"
            begun[0].end()
            await until(stopping.done, "the service has stopped")

    run(body)


def test_requests_that_outlive_the_grace_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        begun: list[AppExchange] = []
        application = Application(begun.append)
        async with serving(application) as web:
            for _ in range(3):
                web.call()
            await until(lambda: len(begun) == 3, "the requests")
            await application.service.stop(0.01)

    run(body)
    assert "3 requests still ran after 0.01 s" in caplog.text
