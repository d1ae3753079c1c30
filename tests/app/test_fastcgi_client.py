"""One connection to a FastCGI server, by itself: the order of events that no server can be made to keep."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from fcgi_core.app.fastcgi.client import FastcgiConnection
from fcgi_core.protocol.records import HEADER_SIZE, ProtocolStatus, RecordType, Role, end_request, record
from tests.app.harness import settle, until

ANSWER = record(RecordType.STDOUT, 1, b"A: b\r\n\r\ntoo large") + record(RecordType.STDOUT, 1) + end_request(1, 3)


async def connected(ours: socket.socket) -> FastcgiConnection:
    """A connection on this socket."""
    make: Any = FastcgiConnection
    connection: FastcgiConnection
    _, connection = await asyncio.get_running_loop().create_connection(make, sock=ours)
    return connection


class Asking:
    """A request that notes what it hears."""

    def __init__(self) -> None:
        self.out = b""
        self.end: object = None

    def output(self, data: bytes) -> None:
        self.out += data

    def stderr(self, data: bytes) -> None: ...

    def ended(self, app_status: int, status: ProtocolStatus, last: bytes) -> None:
        self.out += last
        self.end = (app_status, status)

    def lost(self, error: Exception | None) -> None:
        self.end = error

    def may_send(self) -> None: ...

    def is_whole(self, *, closed: bool) -> bool:
        return False


@pytest.mark.parametrize("whole", [True, False])
def test_an_answer_that_came_before_writing_failed(whole: bool) -> None:
    """The server answered and closed with input unread, and the loop comes to writing before it reads."""

    async def test() -> None:
        ours, theirs = socket.socketpair()
        request = Asking()
        connection = await connected(ours)
        connection.begin(request, b"", Role.RESPONDER, keep=True)
        connection.flush()
        connection.stop_reading()
        theirs.sendall(ANSWER if whole else ANSWER[:-1])
        theirs.close()
        connection.send(RecordType.STDIN, b"x" * 200_000)
        connection.flush()
        await until(lambda: connection.closed, "its end is noticed")
        assert request.out == b"A: b\r\n\r\ntoo large"
        if whole:
            assert request.end == (3, ProtocolStatus.REQUEST_COMPLETE)
        else:
            assert isinstance(request.end, ConnectionError)

    asyncio.run(test())


async def ended_request(theirs: socket.socket, connection: FastcgiConnection, behind: bytes = b"") -> Asking:
    """A request that was answered, with `behind` in the same piece; the server has not read it yet."""
    request = Asking()
    connection.begin(request, b"", Role.RESPONDER, keep=True)
    connection.send(RecordType.STDIN, b"")
    connection.flush()
    theirs.sendall(ANSWER + behind)
    await until(lambda: request.end is not None, "the answer comes")
    assert request.end == (3, ProtocolStatus.REQUEST_COMPLETE)
    assert request.out == b"A: b\r\n\r\ntoo large"
    return request


def test_a_server_is_ready_when_it_has_read_all() -> None:
    """php-fpm leaves the record that ends the input unread while its script works on behind the answer."""

    async def test() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            connection = await connected(ours)
            await ended_request(theirs, connection)
            assert connection.reusable
            assert len(theirs.recv(HEADER_SIZE * 2)) == HEADER_SIZE * 2
            assert not connection.is_ready()
            theirs.recv(65536)
            assert connection.is_ready()
            theirs.sendall(b"?")
            assert not connection.is_ready()
            await until(lambda: connection.closed, "the connection is given up")
            assert not connection.is_ready()
            await settle()

    asyncio.run(test())


def test_a_server_that_has_closed_is_not_ready() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        connection = await connected(ours)
        await ended_request(theirs, connection)
        theirs.recv(65536)
        theirs.close()
        assert not connection.is_ready()
        await until(lambda: connection.closed, "it is noticed")

    asyncio.run(test())


@pytest.mark.parametrize(
    "behind", [record(RecordType.STDOUT, 1, b"LATE"), record(RecordType.STDERR, 1, b"LATE"), b"\x01\x06\x00"]
)
def test_records_after_the_end_are_no_part_of_an_answer(behind: bytes) -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            connection = await connected(ours)
            await ended_request(theirs, connection, behind)
            theirs.recv(65536)
            assert not connection.reusable
            connection.close()
            await settle()

    asyncio.run(test())
