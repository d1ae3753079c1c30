"""ASGI: what an application is given, what becomes of what it says, and real frameworks on it."""

from __future__ import annotations

import array
import asyncio
import functools
import gc
import logging
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import WebSocket
from pydantic import BaseModel

from fcgi_core.app.asgi import AsgiApplication, StartUpFailed, is_asgi
from fcgi_core.app.asgi_scope import make_scope
from fcgi_core.plugin import current_request
from fcgi_core.protocol.records import ProtocolStatus, Role
from tests.app.harness import PARAMS, serving, settle, until

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


def http(handler: Handler, **named: Any) -> AsgiApplication:
    """An application without lifespan."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await handler(scope, receive, send)

    return AsgiApplication(application, **named)


async def respond(send: Send, body: bytes = b"hello", status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


def run(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def wrapper(**named: Any) -> None:
        asyncio.run(test(**named))  # type: ignore[arg-type]

    return wrapper


# ---- the scope


def test_scope() -> None:
    scope = make_scope(
        PARAMS
        | {
            "REQUEST_METHOD": "post",
            "REQUEST_URI": "/caf%C3%A9/a%2Fb?x=1&y=%20",
            "SCRIPT_NAME": "/café/a/b".encode().decode("latin-1"),
            "QUERY_STRING": "x=1&y=%20",
            "SERVER_PROTOCOL": "HTTP/2.0",
            "HTTPS": "on",
            "CONTENT_TYPE": "text/plain",
            "CONTENT_LENGTH": "3",
            "HTTP_CONTENT_LENGTH": "3",
            "HTTP_CONTENT_TYPE": "text/plain",
            "HTTP_X_COLOUR": "bl\xe4u",
            "REMOTE_ADDR": "192.0.2.1",
            "REMOTE_PORT": "4711",
        }
    )
    assert scope["type"] == "http"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
    assert scope["method"] == "POST"
    assert scope["path"] == "/café/a/b"
    assert scope["raw_path"] == b"/caf%C3%A9/a%2Fb"
    assert scope["root_path"] == ""
    assert scope["query_string"] == b"x=1&y=%20"
    assert scope["http_version"] == "2"
    assert scope["scheme"] == "https"
    assert scope["client"] == ("192.0.2.1", 4711)
    assert scope["server"] == ("shop.example", 80)
    assert sorted(scope["headers"]) == [
        (b"content-length", b"3"),
        (b"content-type", b"text/plain"),
        (b"host", b"shop.example"),
        (b"x-colour", b"bl\xe4u"),
    ]


def test_scope_of_a_mounted_application() -> None:
    whole = {"SCRIPT_NAME": "/shop/basket", "REQUEST_URI": "/shop/basket"}
    scope = make_scope(PARAMS | whole, "/shop")
    assert (scope["root_path"], scope["path"]) == ("/shop", "/shop/basket")
    scope = make_scope(PARAMS | {"SCRIPT_NAME": "/shopping"}, "/shop")
    assert (scope["root_path"], scope["path"]) == ("", "/shopping")
    # a web server that splits the path itself
    scope = make_scope(PARAMS | {"SCRIPT_NAME": "/shop", "PATH_INFO": "/basket"})
    assert (scope["root_path"], scope["path"]) == ("/shop", "/shop/basket")


def test_scope_of_a_client_that_sends_little() -> None:
    scope = make_scope({})
    assert (scope["method"], scope["path"], scope["raw_path"], scope["client"]) == ("GET", "/", b"", None)
    scope = make_scope({"SCRIPT_NAME": "/\xff?", "REQUEST_SCHEME": "https", "SERVER_PROTOCOL": "INCLUDED"})
    assert (scope["path"], scope["raw_path"]) == ("/�?", b"/%FF%3F")
    assert (scope["scheme"], scope["http_version"]) == ("https", "1.1")


# ---- request and response


@run
async def test_a_short_response_is_one_message_with_its_length() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        await respond(send, b"hello", headers=[(b"content-type", b"text/plain"), (b"Status", b"999 no")])

    async with serving(http(handler)) as web:
        head, body = await web.get()
    assert head == "Status: 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 5"
    assert body == b"hello"


@run
async def test_no_length_where_there_is_no_body() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"", int(scope["query_string"]))

    async with serving(http(handler)) as web:
        assert (await web.get("/?204"))[0] == "Status: 204 No Content"
        assert (await web.get("/?304"))[0] == "Status: 304 Not Modified"
        assert (await web.get("/?299"))[0] == "Status: 299 \r\nContent-Length: 0"


@run
async def test_head_sends_no_body() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await send({"type": "http.response.body", "body": b"def"})

    async with serving(http(handler)) as web:
        assert await web.get(REQUEST_METHOD="HEAD") == ("Status: 200 OK\r\ncontent-length: 6", b"")


@run
async def test_streaming_both_ways() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        more = True
        while more:
            event = await receive()
            more = event["more_body"]
            await send({"type": "http.response.body", "body": event["body"].upper(), "more_body": more})
        assert await receive() == {"type": "http.disconnect"}  # the response is complete

    async with serving(http(handler)) as web:
        call = web.call(body=None)
        for number in range(5):
            call.send(f"line {number}\n".encode())
            await until(lambda number=number: f"LINE {number}\n".encode() in call.out, "the line is answered")
        call.send(b"end", last=True)
        assert (await call.over())[1] == b"LINE 0\nLINE 1\nLINE 2\nLINE 3\nLINE 4\nEND"


@run
async def test_a_body_that_is_not_read_stays_within_the_window() -> None:
    got: list[bytes] = []
    go_on = asyncio.Event()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        while (event := await receive()).get("more_body"):
            got.append(event["body"])
        got.append(event["body"])
        await respond(send)

    async with serving(http(handler)) as web:
        call = web.call(body=None)
        call.send(b"x" * 1_000_000, last=True)
        await settle()
        assert not call.request.writable
        go_on.set()
        await call.over()
    assert b"".join(got) == b"x" * 1_000_000


@run
async def test_send_waits_for_a_reader_that_stopped() -> None:
    sent = 0

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200})
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            sent += 10_000
        await send({"type": "http.response.body"})

    async with serving(http(handler)) as web:
        call = web.call(hold=True)
        await until(lambda: sent > 200_000, "the window fills")
        await settle(100)
        assert sent < 280_000
        call.release()
        assert len((await call.over())[1]) == 1_000_000


@run
async def test_a_client_that_goes_away() -> None:
    said: list[Any] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        said.append(await receive())
        try:
            await send({"type": "http.response.body", "body": b"more", "more_body": True})
        except OSError as error:
            said.append(error)
            raise

    async with serving(http(handler)) as web:
        call = web.call()
        await until(lambda: call.out, "the response begins")
        call.abort()
        await until(lambda: len(said) == 2, "the application is told")
        await until(lambda: not web.connection.requests, "the request ends")
    assert said[0] == {"type": "http.disconnect"}
    assert isinstance(said[1], OSError)


@run
async def test_a_client_that_goes_away_while_send_waits(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        except OSError as error:
            raise RuntimeError("as a framework may wrap it") from error

    async with serving(http(handler)) as web:
        call = web.call(hold=True)
        await until(lambda: len(call.out) > 200_000, "the window fills")
        call.abort()
        await until(lambda: not web.connection.requests, "the request ends")
    assert "uncaught" not in caplog.text


@run
async def test_an_exception_before_the_head_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    bound: list[Any] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            bound.append(current_request())

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        assert current_request() is not None
        await send({"type": "http.response.start", "status": 200})
        raise LookupError("no such basket")

    listening = Listening()
    logger = logging.getLogger("fcgi_sctp.application")
    logger.addHandler(listening)
    try:
        async with serving(http(handler)) as web:
            head, body = await web.get("/basket?password=hunter2")
            assert await web.get("/basket", REQUEST_METHOD="HEAD") == (head, b"")
    finally:
        logger.removeHandler(listening)
    assert head.startswith("Status: 500 ")
    assert body == b"500 Internal Server Error\n"
    assert "uncaught exception in GET /basket?***" in caplog.text
    assert "hunter2" not in caplog.text
    assert "no such basket" in caplog.text
    assert [one.params["REQUEST_URI"] for one in bound] == ["/basket?password=hunter2", "/basket"]


@run
async def test_an_exception_in_the_middle_is_seen_as_a_cut() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise LookupError("no other half")

    async with serving(http(handler)) as web:
        call = web.call()
        assert (await call.over())[1] == b"half"
        assert call.status is ProtocolStatus.INCOMPLETE


@pytest.mark.parametrize("sent", [0, 1, 2])
def test_an_application_that_returns_too_early(sent: int, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        if sent:
            await send({"type": "http.response.start", "status": 200})
        if sent > 1:
            await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async def test() -> None:
        async with serving(http(handler)) as web:
            call = web.call()
            head, _ = await call.over()
            if sent == 2:
                assert call.status is ProtocolStatus.INCOMPLETE
            else:
                assert head.startswith("Status: 500 ")

    asyncio.run(test())
    assert "returned before its response was complete" in caplog.text


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        ([{"type": "http.response.body"}], "before http.response.start"),
        ([{"type": "http.response.start", "status": 200}] * 2, "sent twice"),
        ([{"type": "http.response.start", "status": 101}], "from 200 to 999"),
        ([{"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]}], "line break"),
        ([{"type": "websocket.accept"}], "is not supported"),
    ],
)
def test_wrong_events_are_errors_of_the_application(
    events: list[dict[str, Any]], wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        for event in events:
            await send(event)

    async def test() -> None:
        async with serving(http(handler)) as web:
            assert (await web.get())[0].startswith("Status: 500 ")

    asyncio.run(test())
    assert wrong in caplog.text


@run
async def test_an_event_after_the_end_is_an_error_that_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        await send({"type": "http.response.body", "body": b"more"})

    async with serving(http(handler)) as web:
        assert (await web.get())[1] == b"hello"
        await until(lambda: "after the end of the response" in caplog.text, "it is logged")


@run
async def test_a_request_to_upgrade_is_an_ordinary_one() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        assert (b"upgrade", b"websocket") in scope["headers"]
        assert scope["extensions"] == {}
        await respond(send, status=426)

    async with serving(http(handler)) as web:
        head, _ = await web.get(HTTP_UPGRADE="websocket", HTTP_CONNECTION="upgrade", HTTP_SEC_WEBSOCKET_VERSION="13")
    assert head.startswith("Status: 426 Upgrade Required\r\n")


@run
async def test_an_authorizer_has_no_body() -> None:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["more_body"] is False
        await respond(send)

    async with serving(http(handler)) as web:
        assert (await web.call(role=Role.AUTHORIZER).over())[1] == b"hello"


@run
async def test_requests_that_still_run_at_the_end_are_given_up() -> None:
    ended: list[str] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    async with serving(http(handler), grace=0) as web:
        web.call()
        await settle()
    assert ended == ["ended"]


@run
async def test_work_after_the_response_is_waited_for_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        await asyncio.sleep(0.05 if scope["query_string"] else 60)
        ended.append("ended")

    async with serving(http(handler)) as web:
        await web.get("/?x")
    assert ended == ["ended"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcgi_core.app.asgi.SHUTDOWN_TIMEOUT", 0.05)
        async with serving(http(handler)) as web:
            await web.get("/")
    assert "is cancelled" in caplog.text


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


# ---- lengths


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


# ---- lifespan


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


# ---- what is ASGI


def test_detection() -> None:
    async def function(scope: Scope, receive: Receive, send: Send) -> None: ...

    class Instance:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    class Old:
        def __init__(self, scope: Scope) -> None: ...

    def wsgi(environ: Any, start_response: Any) -> list[bytes]:
        return []

    assert is_asgi(function)
    assert is_asgi(functools.partial(function))
    assert is_asgi(Instance())
    assert not is_asgi(Old)
    assert not is_asgi(wsgi)


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
