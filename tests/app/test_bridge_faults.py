"""The bridge in front of servers that close connections, send nonsense, are away or silent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.app.fastcgi import bridge as bridge_module
from fcgi_core.app.fastcgi import pool as pool_module
from fcgi_core.process.config import WebConfig
from fcgi_core.protocol.records import ProtocolStatus, RecordType, record
from tests.app.fastcgi_server import Served, answering, bridge, fastcgi_server
from tests.app.harness import run, serving, until

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
