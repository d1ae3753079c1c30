"""WSGI: what an application is given, what becomes of what it says, and that nothing of it harms the next request."""

from __future__ import annotations

import array
import asyncio
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from fcgi_core.app.wsgi import WsgiApplication, make_environ
from fcgi_core.protocol.records import ProtocolStatus, Role
from tests.app.harness import Call, run, serving, settle, until

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[Any], None]]
Page = Callable[[Environ, StartResponse], Iterable[Any]]

TEXT = ("Content-Type", "text/plain")


def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return [b"hello"]


def pages(**named: Page) -> WsgiApplication:
    """An application of one thread; what is not named says hello."""

    def application(environ: Environ, start_response: StartResponse) -> Iterable[Any]:
        return named.get(environ["PATH_INFO"][1:], hello)(environ, start_response)

    return WsgiApplication(application, threads=1)


def saying(status: Any, headers: Any, *body: Any, whole: bool = False) -> Page:
    """A page that says this; `whole`: as a list of one."""

    def page(environ: Environ, start_response: StartResponse) -> Iterable[Any]:
        start_response(status, headers)
        return list(body) if whole else iter(body)

    return page


def writing(status: str, headers: list[tuple[str, str]], *body: Any) -> Page:
    def page(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response(status, headers)
        for piece in body:
            write(piece)
        return []

    return page


# ---- what ends a response


@pytest.mark.parametrize("kind", [GeneratorExit, KeyboardInterrupt, SystemExit, BaseException, asyncio.CancelledError])
@pytest.mark.parametrize("where", ["call", "iteration", "close"])
def test_no_exception_of_an_application_ends_its_thread(
    kind: type[BaseException], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Result:
        def __iter__(self) -> Iterator[bytes]:
            if where == "iteration":
                raise kind("enough")
            return iter([b"hel", b"lo"])

        def close(self) -> None:
            if where == "close":
                raise kind("enough")

    def page(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if where == "call":
            raise kind("enough")
        start_response("200 OK", [TEXT])
        return Result()

    async def test() -> None:
        async with serving(pages(bad=page)) as web:
            head, body = await web.get("/bad")
            if where == "close":
                assert (head, body) == ("Status: 200 OK\r\nContent-Type: text/plain", b"hello")
            else:
                assert head.startswith("Status: 500 ")
            assert (await web.get("/"))[1] == b"hello"

    asyncio.run(test())
    assert "uncaught exception in GET /bad" in caplog.text
    assert kind.__name__ in caplog.text


@run
async def test_an_exception_in_the_middle_is_seen_as_a_cut() -> None:
    def page(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield b"half"
        raise SystemExit(3)

    async with serving(pages(bad=page)) as web:
        call = web.call(SCRIPT_NAME="/bad")
        assert (await call.over())[1] == b"half"
        assert call.status is ProtocolStatus.INCOMPLETE


# ---- bodies


BUFFERS = [
    memoryview(b"hello"),
    bytearray(b"hello"),
    memoryview(b"h.e.l.l.o")[::2],
    array.array("B", b"hello"),
    memoryview(b"hello\0\0\0").cast("I")[:1],
]


@pytest.mark.parametrize("make", [saying, writing])
@pytest.mark.parametrize("buffer", BUFFERS, ids=range(len(BUFFERS)))
def test_any_buffer_is_a_body(make: Any, buffer: Any) -> None:
    right = bytes(memoryview(buffer).tobytes())

    async def test() -> None:
        alone = saying("200 OK", [TEXT], buffer, whole=True)
        async with serving(pages(alone=alone, pieces=make("200 OK", [TEXT], b"<", buffer, b">"))) as web:
            head = f"Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(right)}"
            assert await web.get("/alone") == (head, right)
            assert (await web.get("/pieces"))[1] == b"<" + right + b">"

    asyncio.run(test())


@pytest.mark.parametrize("body", [["text"], [b"", 5], "text", None, 17, b"bytes"])
def test_a_body_of_another_type_is_an_error(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    def page(environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [TEXT])
        return body

    async def test() -> None:
        async with serving(pages(bad=page)) as web:
            assert (await web.get("/bad"))[0].startswith("Status: 500 ")
            assert (await web.get("/"))[1] == b"hello"

    asyncio.run(test())
    assert "expected" in caplog.text or "not iterable" in caplog.text


# ---- lengths of responses


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("page", [saying, writing, functools.partial(saying, whole=True)])
def test_204_and_304_have_no_body(page: Any, status: str, method: str) -> None:
    """HAProxy answers 502 for one that has. RFC 9110 section 8.6: nor has 204 a length."""

    async def test() -> None:
        async with serving(pages(page=page(status, [("Content-Length", "5")], b"hello"))) as web:
            call = web.call(SCRIPT_NAME="/page", REQUEST_METHOD=method)
            head, body = await call.over()
            assert call.status is ProtocolStatus.REQUEST_COMPLETE
        assert body == b""
        assert head == f"Status: {status}" + ("\r\nContent-Length: 5" if status[:3] == "304" else "")

    asyncio.run(test())


@pytest.mark.parametrize(
    "page",
    [
        saying("206 Partial Content", [("Content-Length", "5")], b"hello world", whole=True),
        saying("206 Partial Content", [("Content-Length", "5")], b"hel", b"", b"lo world"),
        saying("206 Partial Content", [("content-length", "5")], b"hello", b" world"),
        writing("206 Partial Content", [("CONTENT-LENGTH", "5")], b"hel", b"lo world"),
        writing("206 Partial Content", [("Content-Length", "5"), ("Content-Length", "5")], b"hello", b" world"),
    ],
)
def test_nothing_beyond_content_length_is_sent(page: Page, caplog: pytest.LogCaptureFixture) -> None:
    """PEP 3333, "Handling the Content-Length Header". What was promised is whole, so the answer is."""

    async def test() -> None:
        async with serving(pages(page=page)) as web:
            call = web.call(SCRIPT_NAME="/page", REQUEST_URI="/page")
            head, body = await call.over()
            assert body == b"hello"
            assert head.lower().count("content-length") == 1
            assert call.status is ProtocolStatus.REQUEST_COMPLETE

    asyncio.run(test())
    assert "GET /page: the response is longer than the 5 bytes of its Content-Length" in caplog.text


@run
async def test_a_response_that_is_longer_is_read_no_further_and_closed() -> None:
    class Endless:
        pieces = closed = 0

        def __iter__(self) -> Iterator[bytes]:
            while True:
                self.pieces += 1
                yield b"x" * 1000

        def close(self) -> None:
            self.closed += 1

    endless = Endless()

    def page(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("206 Partial Content", [("Content-Length", "2500")])
        return endless

    async with serving(pages(page=page)) as web:
        assert len((await web.get("/page"))[1]) == 2500
    assert (endless.pieces, endless.closed) == (3, 1)


@run
async def test_work_after_the_last_byte_of_the_length_is_done() -> None:
    done = []

    def page(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        yield b"hello"
        done.append("committed")
        yield b""

    async with serving(pages(page=page)) as web:
        assert (await web.get("/page"))[1] == b"hello"
    assert done == ["committed"]


@pytest.mark.parametrize(
    "page",
    [
        saying("200 OK", [("Content-Length", "10")], b"hello", whole=True),
        saying("200 OK", [("Content-Length", "10")], b"hel", b"lo"),
        writing("200 OK", [("Content-Length", "10")], b"hello"),
    ],
)
def test_a_response_that_is_shorter_is_seen_to_be_cut(page: Page, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(pages(page=page)) as web:
            call = web.call(SCRIPT_NAME="/page", REQUEST_URI="/page")
            assert (await call.over())[1] == b"hello"
            assert call.status is ProtocolStatus.INCOMPLETE
            call = web.call(SCRIPT_NAME="/page", REQUEST_METHOD="HEAD")
            assert "Content-Length: 10" in (await call.over())[0]
            assert call.status is ProtocolStatus.REQUEST_COMPLETE

    asyncio.run(test())
    assert caplog.text.count("GET /page: the response ended after 5 of the 10 bytes of its Content-Length") == 1
    assert "HEAD" not in caplog.text


# ---- heads


@run
async def test_headers_of_the_connection_are_left_out() -> None:
    headers = [
        ("Connection", "close, X-Own"),
        ("KEEP-ALIVE", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("TE", "trailers"),
        ("Trailer", "X-Sum"),
        ("upgrade", "h2c"),
        ("Proxy-Connection", "close"),
        ("Proxy-Authenticate", "Basic"),
        ("Status", "999 No"),
        ("X-Status", "kept"),
    ]
    async with serving(pages(page=saying("200 OK", headers, b"hello"))) as web:
        assert (await web.get("/page"))[0] == "Status: 200 OK\r\nX-Status: kept"


@pytest.mark.parametrize(
    ("status", "headers", "wrong"),
    [
        ("OK", [], "status 'OK' does not begin with a number"),
        ("", [], "does not begin with a number"),
        ("2000 OK", [], "does not begin with a number"),
        ("\u0662\u0660\u0660 OK", [], "does not begin with a number"),
        ("100 Continue", [], "from 200 to 999"),
        (200, [], "is of type int"),
        ("200 O\r\nK", [], "line break"),
        ("200 OK", [("X", "a\nb")], "line break"),
        ("200 OK", [("X", "a\0b")], "NUL"),
        ("200 OK", [("X", b"bytes")], "is of type bytes"),
        ("200 OK", [(b"X", "bytes")], "is of type bytes"),
        ("200 OK", [("", "empty")], "not the name of a header"),
        ("200 OK", [("X Y", "z")], "not the name of a header"),
        ("200 OK", [("X:", "z")], "not the name of a header"),
        ("200 OK", [("X€", "z")], "not the name of a header"),
        ("200 OK", [("Content-Length", "five")], "'five' is not a number of bytes"),
        ("200 OK", [("Content-Length", "-5")], "is not a number of bytes"),
        ("200 OK", [("Content-Length", "5"), ("Content-Length", "6")], "two lengths"),
    ],
)
def test_an_invalid_head_is_500_and_logged(
    status: Any, headers: Any, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with serving(pages(bad=saying(status, headers, b"hello", whole=True))) as web:
            for _ in range(2):  # what is known of a name from the first time changes nothing
                assert (await web.get("/bad"))[0].startswith("Status: 500 ")

    asyncio.run(test())
    assert sum("Error: " in line and wrong in line for line in caplog.text.splitlines()) == 2


@pytest.mark.parametrize("pairs", [[["X-A", "1"]], (("X-A", "1"),), iter([("X-A", "1")])])
def test_headers_are_any_iterable_of_any_pairs(pairs: Any) -> None:
    async def test() -> None:
        async with serving(pages(page=saying("200 OK", pairs, b"hello"))) as web:
            assert await web.get("/page") == ("Status: 200 OK\r\nX-A: 1", b"hello")

    asyncio.run(test())


@pytest.mark.parametrize("status", ["200", "200 ", "299 As We Like It", "599 "])
def test_a_status_may_have_any_phrase_or_none(status: str) -> None:
    async def test() -> None:
        async with serving(pages(page=saying(status, [], b"hello"))) as web:
            assert await web.get("/page") == (f"Status: {status}", b"hello")

    asyncio.run(test())


@pytest.mark.parametrize("result", [[b"hello"], [b"hel", b"lo"], [], iter([b"hello"])])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_application_that_never_calls_start_response_is_named_for_it(
    result: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with serving(pages(bad=lambda environ, start_response: result)) as web:
            assert (await web.get("/bad", REQUEST_METHOD=method))[0].startswith("Status: 500 ")

    asyncio.run(test())
    assert "the application did not call start_response" in caplog.text


# ---- the request


@pytest.mark.parametrize(
    ("params", "name", "port"),
    [
        ({"SERVER_NAME": "", "SERVER_PORT": ""}, "localhost", "80"),
        ({"SERVER_NAME": "", "SERVER_PORT": "", "SERVER_ADDR": "192.0.2.1", "HTTPS": "on"}, "192.0.2.1", "443"),
        ({"SERVER_NAME": "shop.example", "SERVER_PORT": "", "REQUEST_SCHEME": "https"}, "shop.example", "443"),
        ({"SERVER_NAME": "", "SERVER_PORT": "8080", "REQUEST_METHOD": "", "SERVER_PROTOCOL": ""}, "localhost", "8080"),
        ({}, "localhost", "80"),
    ],
)
def test_server_name_and_port_are_never_empty(params: dict[str, str], name: str, port: str) -> None:
    environ = make_environ(params)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, port)
    assert (environ["REQUEST_METHOD"], environ["SERVER_PROTOCOL"]) == ("GET", "HTTP/1.1")
    assert environ["wsgi.url_scheme"] == ("https" if port == "443" else "http")


def echo(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("X-Length", environ.get("CONTENT_LENGTH", "none"))])
    return [body]


async def posted(call: Call, body: bytes, late: bool) -> tuple[str, bytes]:
    """What the application says to a request with this body, which comes after it has begun if `late`."""
    if late:
        await settle()
        call.send(body, last=True)
    return await call.over()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("told", "seen"), [("11", b"hello world"), ("5", b"hello"), ("0", b"")])
def test_a_body_ends_where_its_length_says(told: str, seen: bytes, late: bool) -> None:
    """PEP 3333, "Input and Error Streams"."""

    async def test() -> None:
        async with serving(pages(echo=echo)) as web:
            body = None if late else b"hello world"
            call = web.call(SCRIPT_NAME="/echo", REQUEST_METHOD="POST", CONTENT_LENGTH=told, body=body)
            head, answer = await posted(call, b"hello world", late)
            assert answer == seen
            assert f"X-Length: {told}" in head

    asyncio.run(test())


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("body", [b"hello", b""])
def test_a_body_that_is_shorter_than_its_length_is_incomplete(
    late: bool, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with serving(pages(echo=echo)) as web:
            more = {"SCRIPT_NAME": "/echo", "REQUEST_URI": "/echo", "REQUEST_METHOD": "POST", "CONTENT_LENGTH": "10"}
            head, _ = await posted(web.call(more, None if late else body), body, late)
            assert head.startswith("Status: 400 ")
            # one that does not read it need not care
            assert (await posted(web.call(more, None if late else body, SCRIPT_NAME="/"), body, late))[1] == b"hello"

    asyncio.run(test())
    assert caplog.text.count("POST /echo: the request's body ended after") == 1
    assert f"after {len(body)} of the 10 bytes of its CONTENT_LENGTH" in caplog.text


@run
async def test_a_body_without_a_length_gets_its_length() -> None:
    """An application that reads by CONTENT_LENGTH, as Django does, would take it for empty."""
    async with serving(pages(echo=echo)) as web:
        for told in ({}, {"CONTENT_LENGTH": ""}):
            head, body = await web.call(told, b"hello", SCRIPT_NAME="/echo", REQUEST_METHOD="POST").over()
            assert ("X-Length: 5" in head, body) == (True, b"hello")
        head, body = await web.call({"CONTENT_LENGTH": ""}, SCRIPT_NAME="/echo").over()
        assert ("X-Length: \r\n" in head, body) == (True, b"")


@pytest.mark.parametrize("told", ["-1", "+5", "5 ", "1_0", "0x5", "five", "\u0665", "9" * 19, "5, 5"])
def test_a_length_that_is_no_number_does_not_reach_the_application(told: str, caplog: pytest.LogCaptureFixture) -> None:
    called = []

    def page(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        called.append(environ)
        return hello(environ, start_response)

    async def test() -> None:
        async with serving(pages(page=page)) as web:
            value = told.encode().decode("latin-1")
            head, _ = await web.call(SCRIPT_NAME="/page", REQUEST_URI="/page", CONTENT_LENGTH=value).over()
            assert head.startswith("Status: 400 ")

    asyncio.run(test())
    assert not called
    assert "GET /page: CONTENT_LENGTH" in caplog.text


@run
async def test_an_authorizer_has_no_body_whatever_its_length() -> None:
    async with serving(pages(echo=echo)) as web:
        call = web.call(role=Role.AUTHORIZER, SCRIPT_NAME="/echo", CONTENT_LENGTH="10")
        assert (await call.over())[1] == b""


@run
async def test_reading_from_a_client_that_has_gone_ends_the_request() -> None:
    begun, caught = [], []

    def page(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        begun.append(environ)
        for _ in range(2):  # again, after it has been told
            try:
                environ["wsgi.input"].read()
            except OSError as error:
                caught.append(error)
        return hello(environ, start_response)

    async with serving(pages(page=page)) as web:
        call = web.call(SCRIPT_NAME="/page", REQUEST_METHOD="POST", CONTENT_LENGTH="10", body=None)
        await until(lambda: begun, "it begins")
        call.abort()
        await until(lambda: not web.connection.requests, "the request ends")
        assert (await web.get("/"))[1] == b"hello"
    assert len(caught) == 2


# ---- threads


@run
async def test_a_request_for_which_there_is_no_thread_goes_elsewhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    application = pages()
    async with serving(application) as web:
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", none)
            call = web.call()
            await until(lambda: call.end is not None, "it is refused")
            assert call.status is ProtocolStatus.OVERLOADED
        assert (await web.get("/"))[1] == b"hello"
    assert "no thread can be started" in caplog.text


@run
async def test_threads_that_cannot_be_started_hold_up_no_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that waits for its client is to be replaced, and cannot be: what waits for a thread gets the one there is."""

    def none(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    async with serving(pages(echo=echo)) as web:
        assert (await web.get("/"))[1] == b"hello"
        with monkeypatch.context() as patch:
            patch.setattr("threading.Thread.start", none)
            slow = web.call(SCRIPT_NAME="/echo", REQUEST_METHOD="POST", CONTENT_LENGTH="5", body=None)
            others = [web.call() for _ in range(3)]
            await until(lambda: "no more than 1 threads" in caplog.text, "it is told")
            slow.send(b"hello", last=True)
            for call in (slow, *others):
                assert (await call.over())[1] == b"hello"
    assert caplog.text.count("no more than 1 threads") == 1
