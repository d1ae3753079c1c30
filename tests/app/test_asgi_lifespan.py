"""The lifespan of ASGI: an application starts before its first request and ends after its last one."""

from __future__ import annotations

import asyncio

import pytest

from fcgi_core.app.asgi import AsgiApplication, StartUpFailed
from tests.app.asgi_applications import Receive, Scope, Send, respond
from tests.app.harness import run, serving, until


@run
async def test_lifespan_and_its_state() -> None:
    said: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            said.append((await receive())["type"])
            scope["state"]["shelf"] = "full"
            await send({"type": "lifespan.startup.complete"})
            said.append((await receive())["type"])
            await send({"type": "lifespan.shutdown.complete"})
        else:
            scope["state"]["mine"] = "alone"
            await respond(send, repr(sorted(scope["state"])).encode())

    running = AsgiApplication(application)
    async with serving(running) as web:
        assert said == ["lifespan.startup"]
        assert (await web.get())[1] == b"['mine', 'shelf']"
        assert running.state == {"shelf": "full"}
    assert said == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize("raises", [False, True])
def test_an_application_that_cannot_start(raises: bool) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        if raises:
            raise RuntimeError("no database")

    async def test() -> None:
        async with serving(AsgiApplication(application)):
            pass

    with pytest.raises(StartUpFailed, match="no database"):
        asyncio.run(test())


@pytest.mark.parametrize("how", ["failed", "raises", "hangs"])
def test_an_application_that_cannot_end(
    how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcgi_core.app.asgi.SHUTDOWN_TIMEOUT", 0.05)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if how == "failed":
            await send({"type": "lifespan.shutdown.failed", "message": "stuck"})
        elif how == "raises":
            raise RuntimeError("stuck")
        else:
            await asyncio.Event().wait()

    async def test() -> None:
        async with serving(AsgiApplication(application)):
            pass

    asyncio.run(test())
    assert ("more than 0.05 s" if how == "hangs" else "stuck") in caplog.text


@pytest.mark.parametrize("received", [False, True])
def test_a_failed_start_up_is_logged_if_the_application_supports_lifespan(
    received: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            if received:
                await receive()
            raise LookupError("no database")
        await respond(send)

    async def test() -> None:
        async with serving(AsgiApplication(application)) as web:
            assert (await web.get())[1] == b"hello"

    asyncio.run(test())
    assert ("start-up raised LookupError('no database')" in caplog.text) == received


@run
async def test_a_lifespan_that_fails_while_the_application_serves_is_logged_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fails = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await fails.wait()
            raise LookupError("the background task is gone")
        await respond(send)

    async with serving(AsgiApplication(application)) as web:
        fails.set()
        await until(lambda: "the background task is gone" in caplog.text, "it is told")
        assert (await web.get())[1] == b"hello"
    assert caplog.text.count("lifespan failed") == 1
