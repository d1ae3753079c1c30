"""Bodies and headers of ASGI: what has a length, where a body ends, and which headers go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fcgi_core.protocol.records import ProtocolStatus
from tests.app.asgi_applications import Receive, Scope, Send, http, respond
from tests.app.harness import run, serving, settle


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [204, 304])
def test_204_and_304_have_no_body(status: int, method: str) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"hello", status, [(b"content-length", b"5")])

    async def test() -> None:
        async with serving(http(handler)) as web:
            call = web.call(REQUEST_METHOD=method)
            head, body = await call.over()
            assert (body, call.status) == (b"", ProtocolStatus.REQUEST_COMPLETE)
            assert ("content-length" in head) == (status == 304)

    asyncio.run(test())


@pytest.mark.parametrize("pieces", [[b"hello world"], [b"hel", b"lo world"], [b"hello", b" world"]])
def test_nothing_beyond_content_length_is_sent(pieces: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    sent = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 206, "headers": [(b"content-length", b"5")]})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            sent.append(piece)
        await send({"type": "http.response.body"})

    async def test() -> None:
        async with serving(http(handler)) as web:
            call = web.call()
            assert (await call.over())[1] == b"hello"
            assert call.status is ProtocolStatus.REQUEST_COMPLETE

    asyncio.run(test())
    assert sent == pieces[:-1]
    assert "longer than the 5 bytes of its Content-Length" in caplog.text


@pytest.mark.parametrize("pieces", [[b"hello"], [b"hel", b"lo"], [b"hello", b""]])
def test_a_response_that_is_shorter_is_seen_to_be_cut(pieces: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Length", b"10")]})
        for piece in pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": pieces[-1]})

    async def test() -> None:
        async with serving(http(handler)) as web:
            call = web.call()
            assert (await call.over())[1] == b"hello"
            assert call.status is ProtocolStatus.INCOMPLETE
            head, body = await web.call(REQUEST_METHOD="HEAD").over()
            assert ("Content-Length: 10" in head, body) == (True, b"")

    asyncio.run(test())
    assert "ended after 5 of the 10 bytes of its Content-Length" in caplog.text


@pytest.mark.parametrize("pairs", [[[b"x-a", b"1"]], ((b"x-a", b"1"),), iter([(b"x-a", b"1")])])
def test_headers_are_any_iterable_of_any_pairs(pairs: Any) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": b"hello"})

    async def test() -> None:
        async with serving(http(handler)) as web:
            assert (await web.get())[0] == "Status: 200 OK\r\nx-a: 1\r\nContent-Length: 5"

    asyncio.run(test())


@run
async def test_headers_of_the_connection_are_left_out() -> None:
    names = [b"Connection", b"keep-alive", b"Transfer-Encoding", b"TE", b"Upgrade", b"Proxy-Connection", b"Trailer"]

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, headers=[*((name, b"x") for name in names), (b"x-kept", b"1")])

    async with serving(http(handler)) as web:
        assert (await web.get())[0] == "Status: 200 OK\r\nx-kept: 1\r\nContent-Length: 5"


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Say what came of the request's body, as a framework does that reads all of it."""
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise LookupError("the client has gone, so they say")
        body += event["body"]
        more = event["more_body"]
    await respond(send, body)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("told", "seen"), [("11", b"hello world"), ("5", b"hello"), ("0", b""), ("", b"hello world")])
def test_a_body_ends_where_its_length_says(told: str, seen: bytes, late: bool) -> None:
    async def test() -> None:
        async with serving(http(tell)) as web:
            call = web.call(REQUEST_METHOD="POST", CONTENT_LENGTH=told, body=None if late else b"hello world")
            if late:
                await settle()
                call.send(b"hello world", last=True)
            assert (await call.over())[1] == seen

    asyncio.run(test())


@pytest.mark.parametrize("late", [False, True])
def test_a_body_that_is_shorter_than_its_length_is_incomplete(late: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(http(tell)) as web:
            call = web.call(REQUEST_METHOD="POST", CONTENT_LENGTH="10", body=None if late else b"hello")
            if late:
                await settle()
                call.send(b"hello", last=True)
            assert (await call.over())[0].startswith("Status: 400 ")

    asyncio.run(test())
    assert "5 bytes short of its CONTENT_LENGTH" in caplog.text
    assert "uncaught" not in caplog.text


@run
async def test_a_length_that_is_no_number_does_not_reach_the_application(caplog: pytest.LogCaptureFixture) -> None:
    called = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        called.append(scope)

    async with serving(http(handler)) as web:
        assert (await web.get("/page", CONTENT_LENGTH="-1"))[0].startswith("Status: 400 ")
    assert not called
    assert "GET /page: CONTENT_LENGTH '-1' is not a number of bytes" in caplog.text
