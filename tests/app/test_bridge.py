"""The bridge, in front of a FastCGI server that does what each test says: requests, limits, TCP, addresses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.app.fastcgi import bridge as bridge_module
from fcgi_core.app.fastcgi import pool as pool_module
from fcgi_core.app.fastcgi.bridge import FastcgiBridge
from fcgi_core.app.fastcgi.pool import parse_address
from fcgi_core.hosting.discovery import EnabledPlugin
from fcgi_core.plugin import ApplicationHalf, Host, Plugin, RequestInfo
from fcgi_core.protocol.records import HEADER, ProtocolStatus, RecordType, Role, end_request, record
from tests.app.fastcgi_server import BODY, Served, answering, bridge, fastcgi_server
from tests.app.harness import run, serving, settle, until
from tests.system.stack import free_port


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
async def test_answers_go_together_while_requests_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "GATHER", 1000.0)
    turns = asyncio.Semaphore(0)

    async def serve(connection: Served) -> None:
        while await connection.request_comes():
            await turns.acquire()
            connection.answer()

    async with fastcgi_server(path, serve) as connections, serving(bridge(path, connections=1)) as web:
        first = web.call(REQUEST_URI="/1")
        await until(lambda: connections, "the first has its connection")
        second, third, fourth = web.call(REQUEST_URI="/2"), web.call(REQUEST_URI="/3"), web.call(REQUEST_URI="/4")
        turns.release()
        await until(lambda: connections[-1].params.get("REQUEST_URI") == "/2", "the first is answered")
        assert not first.out
        turns.release()
        assert (await first.over())[1] == (await second.over())[1] == b"hello"  # as many as requests wait
        turns.release()
        assert (await third.over())[1] == b"hello"
        turns.release()
        assert (await fourth.over())[1] == b"hello"  # no other one waits


@run
async def test_a_client_goes_away_while_its_answer_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "GATHER", 1000.0)
    go_on = asyncio.Event()

    async def serve(connection: Served) -> None:
        while await connection.request_comes():
            if connection.params["REQUEST_URI"] != "/first":
                await go_on.wait()
            connection.answer()

    async with fastcgi_server(path, serve) as connections, serving(bridge(path, connections=1)) as web:
        first, second, third = web.call(REQUEST_URI="/first"), web.call(REQUEST_URI="/2"), web.call(REQUEST_URI="/3")
        await until(lambda: connections and connections[-1].params.get("REQUEST_URI") == "/2", "the second is served")
        assert not first.out  # it is answered, and two wait
        first.abort()
        await until(lambda: len(web.connection.requests) == 2, "the first is over")
        go_on.set()
        assert (await second.over())[1] == (await third.over())[1] == b"hello"


@run
async def test_an_answer_waits_for_others_for_a_moment_only(path: Path) -> None:
    go_on = asyncio.Event()

    async def serve(connection: Served) -> None:
        while await connection.request_comes():
            if connection.params["REQUEST_URI"] != "/first":
                await go_on.wait()
            connection.answer()

    async with fastcgi_server(path, serve), serving(bridge(path, connections=1)) as web:
        calls = [web.call(REQUEST_URI=uri) for uri in ("/first", "/2", "/3", "/4")]
        assert (await calls[0].over())[1] == b"hello"  # none of the others is answered before
        assert not any(call.out for call in calls[1:])
        go_on.set()
        for call in calls[1:]:
            assert (await call.over())[1] == b"hello"


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
