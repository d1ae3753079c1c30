"""The bridge, in front of a FastCGI server that does what each test tells it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.app.fastcgi import bridge as bridge_module
from fcgi_core.app.fastcgi import pool as pool_module
from fcgi_core.app.fastcgi.bridge import FastcgiBridge
from fcgi_core.app.fastcgi.pool import parse_address
from fcgi_core.hosting.discovery import EnabledPlugin
from fcgi_core.plugin import ApplicationHalf, Host, Plugin, RequestInfo
from fcgi_core.process.config import WebConfig
from fcgi_core.protocol.records import HEADER, ProtocolStatus, RecordType, Role, end_request, record
from tests.app.fastcgi_server import Served, fastcgi_server, with_children
from tests.app.harness import Web, serving, settle, until
from tests.system.stack import free_port

BODY = bytes(range(256)) * 400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def run(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def wrapper(**named: Any) -> None:
        asyncio.run(test(**named))  # type: ignore[arg-type]

    return wrapper


def bridge(path: Path, **named: Any) -> FastcgiBridge:
    return FastcgiBridge(f"unix:{path}", **named)


async def answering(connection: Served) -> None:
    """A server that does everything right: it tells what it got."""
    while await connection.request_comes():
        connection.answer(b"%b %d" % (connection.params["REQUEST_METHOD"].encode(), len(connection.stdin)))
        if not connection.keep:
            break


# ---- what goes well


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time gives no connection up."""
    monkeypatch.setattr(pool_module, "KEEP", 1000.0)


@run
async def test_requests_go_one_after_the_other_on_one_connection(path: Path, kept: None) -> None:
    async with fastcgi_server(path, answering) as connections, serving(bridge(path)) as web:
        assert await web.get("/x?y=1") == ("Content-Type: text/plain", b"GET 0")
        assert connections[0].params["REQUEST_URI"] == "/x?y=1"
        assert (await web.call(body=BODY[:1000]).over())[1] == b"GET 1000"
        assert connections[0].stdin == BODY[:1000]
        assert len(connections) == 1


@run
async def test_a_request_that_is_not_repeatable_gets_a_new_connection(path: Path, kept: None) -> None:
    async with fastcgi_server(path, answering) as connections, serving(running := bridge(path)) as web:
        for number in range(1, 5):
            await web.get()
            assert (await web.post("/", BODY))[1] == b"POST 102400"
            assert len(connections) == number + 1
            assert running.pool.open <= 2  # the one that a POST finds idle is closed


@run
async def test_a_connection_for_each_request(path: Path) -> None:
    async with fastcgi_server(path, answering) as connections, serving(bridge(path, keep_connections=False)) as web:
        for _ in range(3):
            await web.get()
        assert [one.keep for one in connections] == [False] * 3


@run
async def test_the_application_status_and_statuses_of_the_protocol(path: Path) -> None:
    async def serve(connection: Served) -> None:
        while await connection.request_comes():
            connection.write(end_request(1, 7, int(connection.params["QUERY_STRING"])))

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        for status in (ProtocolStatus.REQUEST_COMPLETE, ProtocolStatus.OVERLOADED, ProtocolStatus.UNKNOWN_ROLE):
            call = web.call(QUERY_STRING=str(int(status)))
            await call.over()
            assert call.status is status
        for unknown in (int(ProtocolStatus.INCOMPLETE), 77):
            call = web.call(QUERY_STRING=str(unknown))
            await call.over()
            assert call.status is ProtocolStatus.INCOMPLETE


@run
async def test_params_beyond_64_kib(path: Path) -> None:
    async with fastcgi_server(path, answering) as connections, serving(bridge(path)) as web:
        assert (await web.get(HTTP_COOKIE="c" * 200_000))[1] == b"GET 0"
        assert connections[0].params["HTTP_COOKIE"] == "c" * 200_000


@run
async def test_roles_and_a_filters_data(path: Path) -> None:
    async def serve(connection: Served) -> None:
        while await connection.params_come():
            if connection.role == Role.AUTHORIZER:
                connection.answer(b"allowed")
                continue
            connection.stdin = await connection.stream_comes()
            connection.data = await connection.stream_comes(RecordType.DATA)
            connection.answer(connection.stdin + b"|" + connection.data)

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        assert (await web.call(role=Role.AUTHORIZER).over())[1] == b"allowed"
        call = web.call(body=None, role=Role.FILTER)
        call.send(b"form", last=True)
        call.send(b"x" * 500_000, is_data=True, last=True)
        assert (await call.over())[1] == b"form|" + b"x" * 500_000


@run
async def test_records_of_all_shapes(path: Path) -> None:
    def padded(kind: int, content: bytes, padding: int) -> bytes:
        return HEADER.pack(1, kind, 1, len(content), padding, 0) + content + b"\xff" * padding

    async def serve(connection: Served) -> None:
        assert await connection.request_comes()
        connection.write(padded(RecordType.STDOUT, b"A: b\r\n\r\n", 255))
        for padding in range(256):
            connection.write(padded(RecordType.STDOUT, bytes((padding,)), padding))
        connection.write(record(RecordType.STDOUT, 9, b"another's"), record(77, 1, b"?"))
        connection.write(record(RecordType.GET_VALUES_RESULT, 0), record(RecordType.STDERR, 1))
        connection.output(b"z" * 65535)
        await connection.drained()
        connection.write(padded(RecordType.STDOUT, b"", 8), padded(RecordType.END_REQUEST, bytes(8), 255))

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        assert await web.get() == ("A: b", bytes(range(256)) + b"z" * 65535)


@run
async def test_stderr_goes_to_the_plugins_or_on(path: Path) -> None:
    async def serve(connection: Served) -> None:
        while await connection.request_comes():
            connection.write(record(RecordType.STDERR, 1, b"PHP Notice: "), record(RecordType.STDERR, 1, b"no\n"))
            connection.answer()

    taken: list[bytes] = []

    class Half(ApplicationHalf):
        def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
            taken.append(data)
            return True

    class Takes(Plugin):
        name = "takes"

        def application_half(self, host: Host, options: Any) -> ApplicationHalf:
            return Half()

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        call = web.call()
        await call.over()
        await until(lambda: call.err == b"PHP Notice: no\n", "STDERR comes")
    takes = EnabledPlugin(Takes(), None, (), {}, {})
    async with fastcgi_server(path, serve), serving(bridge(path), plugins=[takes]) as web:
        call = web.call()
        await call.over()
        await settle()
        assert call.err == b""
        assert taken == [b"PHP Notice: ", b"no\n"]


# ---- how much, how many


@run
async def test_no_more_requests_at_once_than_connections(path: Path) -> None:
    at_once = most = 0

    async def serve(connection: Served) -> None:
        nonlocal at_once, most
        while await connection.request_comes():
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.001)
            at_once -= 1
            connection.answer()

    async with fastcgi_server(path, serve), serving(bridge(path, connections=3)) as web:
        answers = await asyncio.gather(*(web.get() for _ in range(50)))
        assert {body for _, body in answers} == {b"hello"}
        assert most == 3


@run
async def test_a_queue_has_an_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_QUEUED", 2)
    go_on = asyncio.Event()

    async def serve(connection: Served) -> None:
        while await connection.request_comes():
            await go_on.wait()
            connection.answer()

    async with fastcgi_server(path, serve) as connections, serving(bridge(path, connections=1)) as web:
        first = web.call()
        await until(lambda: connections, "the first has its connection")
        second, third, fourth = web.call(), web.call(), web.call()
        await fourth.over()
        assert fourth.status is ProtocolStatus.OVERLOADED
        go_on.set()
        for call in (first, second, third):
            assert (await call.over())[1] == b"hello"


@run
async def test_an_answer_that_is_not_read_stays_with_the_server(path: Path) -> None:
    sent = 0

    async def serve(connection: Served) -> None:
        nonlocal sent
        assert await connection.request_comes()
        for _ in range(100):
            connection.output(b"x" * 100_000)
            sent += 100_000
            await connection.drained()
        connection.write(end_request(1))
        await connection.drained()

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        call = web.call(hold=True)
        await until(lambda: len(call.out) > 200_000, "the window fills")
        await settle(200)
        assert sent < 2_000_000
        call.release()
        await call.over()
        assert len(call.out) == 10_000_000


@run
async def test_a_body_that_the_server_does_not_read_stays_with_the_client(path: Path) -> None:
    go_on = asyncio.Event()

    async def serve(connection: Served) -> None:
        assert await connection.params_come()
        await go_on.wait()
        connection.answer(str(len(await connection.stream_comes())).encode())

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        call = web.call(body=None)
        call.send(b"x" * 5_000_000, last=True)
        await settle(200)
        assert call.request.send_window.sent < 2_000_000
        go_on.set()
        assert (await call.over())[1] == b"5000000"


@run
async def test_an_answer_before_the_body_was_read(path: Path) -> None:
    async def serve(connection: Served) -> None:
        assert await connection.params_come()
        connection.answer(b"too large")
        await connection.closed()

    async with fastcgi_server(path, serve) as connections, serving(bridge(path)) as web:
        for _ in range(2):
            call = web.call(body=None)
            call.send(b"x" * 5_000_000)
            assert (await call.over())[1] == b"too large"
        assert len(connections) == 2  # the rest of the body is not for the next request


# ---- servers with few children


@pytest.mark.parametrize(("children", "clients"), [(1, 1), (1, 5), (2, 5), (2, 20)])
def test_more_connections_than_the_server_has_children(path: Path, kept: None, children: int, clients: int) -> None:
    """No request waits on a new connection while an idle one of ours has the child that could serve it."""

    async def test() -> None:
        async def client(web: Web) -> None:
            for _ in range(3):
                assert (await web.get())[1] == b"GET 0"
                assert (await web.post("/", b"x"))[1] == b"POST 1"
                assert (await web.get())[1] == b"GET 0"

        async with fastcgi_server(path, with_children(children, answering)), serving(bridge(path)) as web:
            await asyncio.gather(*(client(web) for _ in range(clients)))

    asyncio.run(test())


@run
async def test_two_bridges_before_one_child(path: Path) -> None:
    """Also while one of them has always another request."""
    over = asyncio.Event()

    async def load(web: Web) -> int:
        served = 0
        while not over.is_set():
            assert (await web.get())[1] == b"GET 0"
            served += 1
        return served

    async with (
        fastcgi_server(path, with_children(1, answering)),
        serving(bridge(path)) as one,
        serving(bridge(path)) as other,
    ):
        for _ in range(3):
            assert (await one.get())[1] == b"GET 0"
            assert (await other.get())[1] == b"GET 0"
            assert (await other.post("/", b"x"))[1] == b"POST 1"
        loads = [asyncio.create_task(load(one)) for _ in range(3)]
        for _ in range(3):
            assert (await other.get())[1] == b"GET 0"
        over.set()
        assert min(await asyncio.gather(*loads)) > 0


class Held:
    """A server that answers with its connection's number, those of a query only when they are let go."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Event] = {}

    async def serve(self, connection: Served) -> None:
        while await connection.request_comes():
            name = connection.params["QUERY_STRING"]
            if name:
                await self.waiting.setdefault(name, asyncio.Event()).wait()
            connection.answer(str(connection.number).encode())

    async def has(self, name: str) -> None:
        await until(lambda: name in self.waiting, f"request {name} comes")

    def let_go(self, name: str) -> None:
        self.waiting[name].set()


@run
async def test_where_more_children_were_seen_connections_are_kept_while_others_wait(path: Path, kept: None) -> None:
    held = Held()
    async with fastcgi_server(path, held.serve) as connections, serving(running := bridge(path)) as web:
        first = web.call(QUERY_STRING="a")
        await held.has("a")
        assert await web.get() == ("Content-Type: text/plain", b"1")
        assert running.pool.idle == 0  # the first could be waiting for just this child
        held.let_go("a")
        assert (await first.over())[1] == b"0"
        second = web.call(QUERY_STRING="b")  # on the same connection
        await held.has("b")
        assert (await web.get())[1] == b"2"  # another child
        assert running.pool.idle == 1
        held.let_go("b")
        assert (await second.over())[1] == b"0"
        assert running.pool.idle == 2
        third = web.call({"REQUEST_METHOD": "POST", "QUERY_STRING": "c"})  # ends them, and has a new one
        await held.has("c")
        assert (await web.get())[1] == b"4"
        assert running.pool.idle == 1  # for there are two children
        assert (await web.get())[1] == b"4"
        held.let_go("c")
        assert (await third.over())[1] == b"3"
        assert len(connections) == 5


@run
async def test_connections_are_kept_while_requests_wait_here(path: Path, kept: None) -> None:
    held = Held()
    running = bridge(path, connections=2)
    async with fastcgi_server(path, held.serve) as connections, serving(running) as web:
        calls = []
        for name in "abcd":
            calls.append(web.call(QUERY_STRING=name))
            if name in "ab":
                await held.has(name)
        await until(lambda: len(running.pool.queue) == 2, "two wait")
        for name, following in ("ac", "bd"):
            held.let_go(name)
            await held.has(following)
        held.let_go("c")
        held.let_go("d")
        assert [(await call.over())[1] for call in calls] == [b"0", b"1", b"0", b"1"]
        assert len(connections) == 2


@run
async def test_children_that_others_have_now_are_not_counted_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "KEEP", 1000.0)
    held = Held()
    async with fastcgi_server(path, held.serve), serving(running := bridge(path)) as web:
        await web.get()
        first = web.call(QUERY_STRING="a")
        await held.has("a")
        await web.get()
        held.let_go("a")
        await first.over()
        assert running.pool.idle == 2
        second = web.call({"REQUEST_METHOD": "POST", "QUERY_STRING": "b"})
        await held.has("b")
        monkeypatch.setattr(pool_module, "KEEP", 0.1)
        waits = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > waits + 0.1, "it has waited for long")
        await web.get()
        assert running.pool.idle == 0
        held.let_go("b")
        await second.over()


# ---- servers that close connections


@run
async def test_a_server_that_closes_after_each_answer_though_it_was_to_stay(path: Path) -> None:
    async def serve(connection: Served) -> None:
        assert await connection.request_comes()
        connection.answer()

    async with fastcgi_server(path, serve) as connections, serving(bridge(path, connections=2)) as web:
        for _ in range(20):
            assert (await web.post("/", b"x"))[1] == b"hello"
        answers = await asyncio.gather(*(web.post("/", b"x") for _ in range(20)))
        assert {body for _, body in answers} == {b"hello"}
        assert len(connections) == 40


@run
async def test_a_kept_connection_that_breaks_before_the_answer(path: Path, kept: None) -> None:
    async def serve(connection: Served) -> None:
        while await connection.request_comes():
            if connection.params["QUERY_STRING"] == "break" and connection.number == 0:
                return
            connection.answer()

    async with fastcgi_server(path, serve) as connections, serving(bridge(path)) as web:
        await web.get()
        assert (await web.get("/?break"))[1] == b"hello"
        assert len(connections) == 2


@run
async def test_a_request_that_is_not_repeatable_is_sent_once(path: Path) -> None:
    made: list[str] = []

    async def serve(connection: Served) -> None:
        while await connection.request_comes():
            made.append(connection.params["REQUEST_METHOD"])
            if len(made) == 2:
                return
            connection.answer()

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        await web.get()
        call = web.call({"REQUEST_METHOD": "POST"}, b"buy")
        await call.over()
        assert (call.out, call.status) == (b"", ProtocolStatus.INCOMPLETE)
        assert made == ["GET", "POST"]


@run
async def test_a_new_connection_that_breaks_is_an_error(path: Path) -> None:
    """The server is there: the request itself may have killed its child, and does not get another."""
    begun: list[int] = []

    async def serve(connection: Served) -> None:
        if await connection.request_comes():
            begun.append(connection.number)

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        call = web.call()
        await call.over()
        assert (call.out, call.status) == (b"", ProtocolStatus.INCOMPLETE)
        assert begun == [0]


@run
async def test_a_connection_that_is_closed_before_it_has_a_request(path: Path) -> None:
    """As php-fpm does with clients that it does not allow."""

    async def serve(connection: Served) -> None:
        pass

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        loop: Any = asyncio.get_running_loop()
        connect = loop.create_unix_connection

        async def connected(make: Any, **named: Any) -> Any:
            transport, connection = await connect(make, **named)
            await until(lambda: connection.closed, "the server closes it")
            return transport, connection

        loop.create_unix_connection = connected
        call = web.call()
        await call.over()
        assert (call.out, call.status) == (b"", ProtocolStatus.INCOMPLETE)


@run
async def test_a_server_that_dies_in_its_answer(path: Path) -> None:
    async def serve(connection: Served) -> None:
        assert await connection.request_comes()
        connection.output(b"Content-Type: text/plain\r\n\r\nhalf")

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        call = web.call()
        assert (await call.over())[1] == b"half"
        assert call.status is ProtocolStatus.INCOMPLETE


@run
async def test_a_server_that_sends_no_end_request(path: Path) -> None:
    async def serve(connection: Served) -> None:
        assert await connection.request_comes()
        connection.output(b"Content-Type: text/plain\r\n\r\nwhole")
        connection.write(record(RecordType.STDOUT, 1))

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        call = web.call()
        assert (await call.over())[1] == b"whole"
        assert call.status is ProtocolStatus.REQUEST_COMPLETE


LENGTH = b"Content-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "method", "keep", "whole"),
    [
        (b"Content-Type: text/plain\r\ncontent-length: 5\r\n\r\nwhole", "GET", True, True),
        (b"Content-Type: text/plain\nContent-Length:5\n\nwhole", "GET", True, True),
        (LENGTH + b"cut", "GET", True, False),
        (LENGTH + b"cut", "GET", False, False),
        (LENGTH, "HEAD", True, True),
        (b"Status: 204 No Content\r\n\r\n", "GET", True, True),
        (b"Status: 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", True, True),
        (b"X: Content-Length: 5\r\n\r\nwhole", "GET", True, False),
        (b"Content-Length: %b\r\n\r\nwhole" % (b"9" * 5000), "GET", True, False),
        (b"X: y\r\n\r\nContent-Length: 0\r\n\r\n", "GET", True, False),
        (b"Content-Type: text/plain\r\n\r\nwhole", "GET", False, True),
        (b"Content-Type: text/plain\r\n", "GET", False, False),
        (b"", "GET", False, False),
    ],
)
def test_a_server_that_closes_and_says_no_end(path: Path, answer: bytes, method: str, keep: bool, whole: bool) -> None:
    """nginx takes it for the end where it did not ask for the connection to be kept, or knows the length."""

    async def test() -> None:
        async def serve(connection: Served) -> None:
            if await connection.request_comes():
                connection.output(answer[:20])
                await connection.drained()
                await asyncio.sleep(0)
                connection.output(answer[20:])

        async with fastcgi_server(path, serve), serving(bridge(path, keep_connections=keep)) as web:
            call = web.call({"REQUEST_METHOD": method})
            await call.over()
            assert call.out == answer
            assert call.status is (ProtocolStatus.REQUEST_COMPLETE if whole else ProtocolStatus.INCOMPLETE)

    asyncio.run(test())


@run
async def test_a_record_that_is_cut_is_no_end(path: Path) -> None:
    async def serve(connection: Served) -> None:
        if await connection.request_comes():
            connection.output(LENGTH + b"whole")
            connection.write(record(RecordType.STDERR, 1, b"why")[:-1])

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        call = web.call()
        await call.over()
        assert call.status is ProtocolStatus.INCOMPLETE


@run
async def test_a_server_that_closes_its_side_with_input_unread(path: Path) -> None:
    """What is left of the input is not waited for."""
    over = asyncio.Event()

    async def serve(connection: Served) -> None:
        if await connection.params_come():
            connection.output(b"Content-Type: text/plain\r\n\r\ntoo large")
            connection.write(record(RecordType.STDOUT, 1))
            connection.writer.write_eof()
            await over.wait()

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        call = web.call(body=None)
        call.send(b"x" * 5_000_000)
        assert (await call.over())[1] == b"too large"
        over.set()


@run
async def test_a_server_that_speaks_something_else(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def serve(connection: Served) -> None:
        connection.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await connection.closed()

    async with fastcgi_server(path, serve), serving(bridge(path)) as web:
        call = web.call()
        await call.over()
        assert call.status is ProtocolStatus.INCOMPLETE
    assert "seems to speak HTTP" in caplog.text


@run
async def test_records_without_a_request_end_the_connection(path: Path, kept: None) -> None:
    async def serve(connection: Served) -> None:
        assert await connection.request_comes()
        connection.answer()
        await connection.drained()
        await asyncio.sleep(0.01)
        connection.answer(b"not asked for")
        await connection.closed()

    async with fastcgi_server(path, serve) as connections, serving(running := bridge(path)) as web:
        await web.get()
        await until(lambda: running.pool.open == 0, "the connection is closed")
        assert (await web.get())[1] == b"hello"
        assert len(connections) == 2


@run
async def test_an_idle_connection_is_given_up_after_a_while(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "KEEP", 0.05)
    async with fastcgi_server(path, answering), serving(running := bridge(path)) as web:
        await web.get()
        await until(lambda: running.pool.open == 0, "the connection is closed")
        assert (await web.get())[1] == b"GET 0"


# ---- TCP


@run
async def test_each_request_has_its_own_connection_over_tcp(path: Path) -> None:
    """A name is looked up for the first; no connection stays behind in TIME_WAIT and holds a port."""
    looked_up: list[str] = []
    loop = asyncio.get_running_loop()
    getaddrinfo = loop.getaddrinfo

    async def counted(host: Any, port: Any, **named: Any) -> Any:
        looked_up.append(host)
        return await getaddrinfo(host, port, **named)

    port = free_port()
    async with fastcgi_server(port, answering) as connections, serving(FastcgiBridge(f"localhost:{port}")) as web:
        loop.getaddrinfo = counted  # type: ignore[method-assign]
        for number in range(1, 6):
            assert (await web.get())[1] == b"GET 0"
            assert (await web.post("/", b"x"))[1] == b"POST 1"
            assert len(connections) == 2 * number
        assert looked_up == ["localhost"]
    assert states(port) <= {LISTEN}


LISTEN = "0A"


def states(port: int) -> set[str]:
    """Of the TCP sockets that have something to do with this port, over IPv4."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {line[3] for line in lines if f"{port:04X}" in (line[1].partition(":")[2], line[2].partition(":")[2])}


@run
async def test_a_name_is_looked_up_again_when_its_address_fails() -> None:
    async with serving(running := FastcgiBridge(f"localhost:{free_port()}")) as web:
        running.pool._found = ("127.0.0.1", free_port())  # nothing listens there
        call = web.call()
        await until(lambda: running.pool._found is None, "the attempt fails")
        async with fastcgi_server(running.pool._target[1], answering):  # type: ignore[arg-type]
            assert (await call.over())[1] == b"GET 0"


# ---- servers that are away, and silent ones


@run
async def test_a_server_that_is_away(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "PATIENCE", 0.1)
    caplog.set_level("INFO")
    async with serving(bridge(path)) as web:
        calls = [web.call() for _ in range(10)]
        for call in calls:
            await call.over()
            assert (call.out, call.status) == (b"", ProtocolStatus.INCOMPLETE)
        late = web.call()  # known to be away: told at once
        await late.over()
        async with fastcgi_server(path, answering):
            assert (await web.get())[1] == b"GET 0"
    about = [text for _, _, text in caplog.record_tuples if str(path) in text]
    assert [text.partition(str(path))[2] for text in about] == [
        " cannot be reached: No such file or directory",
        about[1].partition(str(path))[2],
        " is up again; 11 requests got 502",
    ]
    assert "requests get 502 until it is up" in about[1]


def test_a_server_is_waited_for_as_an_application_is() -> None:
    assert WebConfig.model_fields["queue_timeout"].default == pool_module.PATIENCE


@run
async def test_a_server_that_is_restarted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may take as long as a restart of php-fpm takes that lets its scripts end first."""
    async with serving(running := bridge(path)) as web:
        get, post = web.call(), web.call({"REQUEST_METHOD": "POST"}, b"buy")
        await until(lambda: "cannot be reached" in caplog.text, "the first attempt fails")
        pool = running.pool
        assert pool._down_since is not None
        pool._down_since -= 9.0
        retry = pool._retry
        await until(lambda: pool._retry > retry, "another attempt fails, 9 s later")
        async with fastcgi_server(path, answering):
            assert (await get.over())[1] == b"GET 0"
            assert (await post.over())[1] == b"POST 3"


@run
async def test_a_server_that_ends_before_it_has_accepted(path: Path) -> None:
    """What may be made twice waits for its return; what may not is 502, for nobody can tell whether it was begun."""
    listening = listener(path)
    async with serving(running := bridge(path)) as web:
        get, post = web.call(), web.call({"REQUEST_METHOD": "POST"}, b"buy")
        await until(lambda: running.pool.open == 2 and not running.pool.queue, "both are sent")
        listening.close()
        path.unlink()
        await post.over()
        assert (post.out, post.status) == (b"", ProtocolStatus.INCOMPLETE)
        assert get.end is None
        async with fastcgi_server(path, answering):
            assert (await get.over())[1] == b"GET 0"


@run
async def test_a_server_that_ends_again_and_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Perhaps it is the request that ends it."""
    async with serving(running := bridge(path)) as web:
        call = web.call()
        for number in range(bridge_module.MAX_REPEATS + 1):
            listening = listener(path)
            await until(lambda: running.pool.open == 1 and not running.pool.queue, "the request is sent")
            listening.close()
            path.unlink()
            if number < bridge_module.MAX_REPEATS:
                await until(lambda: running.pool.queue, "it waits for the server's return")
        await call.over()
        assert (call.out, call.status) == (b"", ProtocolStatus.INCOMPLETE)
    assert "closed the connection before the end of its answer" in caplog.text


def listener(path: Path, backlog: int = 128) -> socket.socket:
    """The socket of a server that does not accept."""
    listening = socket.socket(socket.AF_UNIX)
    listening.setblocking(False)
    listening.bind(str(path))
    listening.listen(backlog)
    return listening


@run
async def test_a_full_backlog_is_waited_for(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also after the server was away: it is there again."""
    caplog.set_level("INFO")
    async with serving(bridge(path, keep_connections=False)) as web:
        calls = [web.call() for _ in range(4)]
        await until(lambda: "cannot be reached" in caplog.text, "the server is away")
        with listener(path, backlog=0) as listening, contextlib.ExitStack() as others:
            with contextlib.suppress(BlockingIOError):
                while True:
                    other = others.enter_context(socket.socket(socket.AF_UNIX))
                    other.setblocking(False)
                    other.connect(str(path))
            await until(lambda: "is up again" in caplog.text, "connect says EAGAIN")
            others.close()
            served = 0
            while served < 4:
                accepted, _ = await asyncio.get_running_loop().sock_accept(listening)
                connection = Served(*await asyncio.open_unix_connection(sock=accepted), served)
                if await connection.request_comes():
                    connection.answer()
                    served += 1
                connection.writer.close()
                await connection.writer.wait_closed()
            for call in calls:
                assert (await call.over())[1] == b"hello"


@run
async def test_a_silent_server_is_a_504_or_a_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "SWEEP", 0.01)

    async def serve(connection: Served) -> None:
        assert await connection.request_comes()
        if connection.params["QUERY_STRING"] == "half":
            connection.output(b"Content-Type: text/plain\r\n\r\nhalf")
        await connection.closed()

    async with fastcgi_server(path, serve), serving(bridge(path, connections=2, timeout=0.1)) as web:
        silent, half, waiting = web.call(), web.call(QUERY_STRING="half"), web.call()
        head, body = await silent.over()
        assert head.startswith("Status: 504 Gateway Timeout\r\n")
        assert body == b"504 Gateway Timeout\n"
        assert (await half.over())[1] == b"half"
        assert half.status is ProtocolStatus.INCOMPLETE
        await waiting.over()


@run
async def test_a_server_that_writes_to_stderr_is_not_silent(path: Path) -> None:
    go_on = asyncio.Event()

    async def serve(connection: Served) -> None:
        assert await connection.request_comes()
        await go_on.wait()
        connection.write(record(RecordType.STDERR, 1, b"still here\n"))
        await connection.closed()

    async with fastcgi_server(path, serve) as connections, serving(running := bridge(path)) as web:
        call = web.call()
        await until(lambda: connections and connections[0].params, "the request is there")
        (request,) = running._active
        asked = request.last_activity
        go_on.set()
        await until(lambda: call.err, "STDERR comes")
        assert request.last_activity > asked
        call.abort()
        await until(lambda: not web.connection.requests, "it ends")


@run
async def test_a_slow_client_is_not_the_servers_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "SWEEP", 0.01)
    late: dict[object, set[float]] = {}
    """When each request was last excused, up to now."""

    def excused_twice() -> bool:
        for request in running._active:
            late.setdefault(request, set()).add(request.last_activity)
        return len(late) == 2 and min(map(len, late.values())) > 2

    async def serve(connection: Served) -> None:
        while await connection.request_comes():
            connection.answer(b"x" * 2_000_000)
            await connection.drained()

    async with fastcgi_server(path, serve), serving(running := bridge(path)) as web:
        upload, download = web.call(body=None), web.call(hold=True)
        upload.send(b"begun")
        await until(lambda: len(download.out) > 200_000, "the window fills")
        running.timeout = 0.0  # from now on each look finds both late
        await until(excused_twice, "both are late, twice")
        running.timeout = 60.0
        assert upload.end is download.end is None
        upload.send(b"done", last=True)
        download.release()
        for call in (upload, download):
            assert len((await call.over())[1]) == 2_000_000


# ---- clients that go away


@run
async def test_the_client_goes_away(path: Path) -> None:
    closed: list[int] = []

    async def serve(connection: Served) -> None:
        assert await connection.request_comes()
        connection.output(b"Content-Type: text/plain\r\n\r\n")
        await connection.closed()
        closed.append(connection.number)

    async with fastcgi_server(path, serve) as connections, serving(bridge(path, connections=1)) as web:
        first = web.call()
        await until(lambda: first.out, "the answer begins")
        waiting, third = web.call(), web.call()
        waiting.abort()
        first.abort()
        await until(lambda: closed == [0], "the server sees it")
        await until(lambda: third.out, "the next one has its turn")
        assert len(connections) == 2
        third.abort()
        await until(lambda: not web.connection.requests, "all requests end")


@run
async def test_requests_that_still_run_at_the_end_are_given_up(path: Path) -> None:
    async def serve(connection: Served) -> None:
        assert await connection.request_comes()
        await connection.closed()

    async with fastcgi_server(path, serve) as connections, serving(bridge(path, connections=1), grace=0) as web:
        web.call(), web.call()
        await until(lambda: connections, "the first has its connection")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x.sock", "/run/x.sock"),
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("[::1]:9000", ("::1", 9000)),
        ("php.example:9000", ("php.example", 9000)),
        (":9000", ("127.0.0.1", 9000)),
        ("php_fpm:9000", ("php_fpm", 9000)),
        (f"unix:/{'x' * 106}", f"/{'x' * 106}"),
    ],
)
def test_addresses(text: str, address: Any) -> None:
    assert parse_address(text) == address


WRONG = [
    "",
    "unix:",
    "unix:/a\0b",
    f"unix:/{'x' * 107}",
    "/run/x.sock",
    "host",
    "host:",
    "host:0",
    "host:65536",
    "host:x",
]


@pytest.mark.parametrize("text", [*WRONG, "a..b:1", f"{'x' * 64}:1"])
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="write unix:/PATH"):
        parse_address(text)
