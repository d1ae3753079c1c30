"""ASGI: what an application is given, and what becomes of what it sends."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

import pytest

from fcgi_core.app.asgi import is_asgi
from fcgi_core.app.asgi_scope import make_scope
from fcgi_core.plugin import current_request
from fcgi_core.protocol.records import ProtocolStatus, Role
from tests.app.asgi_applications import Receive, Scope, Send, http, respond
from tests.app.harness import PARAMS, run, serving, settle, until

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
