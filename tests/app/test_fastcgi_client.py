"""One connection to a FastCGI server, by itself: the order of events that no server can be made to keep."""

from __future__ import annotations

import asyncio
import socket

import pytest

from fcgi_core.app.fastcgi_client import FastcgiConnection
from fcgi_core.records import ProtocolStatus, RecordType, Role, end_request, record

ANSWER = record(RecordType.STDOUT, 1, b"A: b\r\n\r\ntoo large") + record(RecordType.STDOUT, 1) + end_request(1, 3)


class Asking:
    """A request that notes what it hears."""

    def __init__(self) -> None:
        self.out = b""
        self.end: object = None

    def output(self, data: bytes) -> None:
        self.out += data

    def stderr(self, data: bytes) -> None: ...

    def ended(self, app_status: int, status: ProtocolStatus) -> None:
        self.end = (app_status, status)

    def lost(self, error: Exception | None) -> None:
        self.end = error

    def may_send(self) -> None: ...


@pytest.mark.parametrize("whole", [True, False])
def test_an_answer_that_came_before_writing_failed(whole: bool) -> None:
    """The server answered and closed with input unread, and the loop comes to writing before it reads."""

    async def test() -> None:
        ours, theirs = socket.socketpair()
        request, gone = Asking(), asyncio.Event()
        _, connection = await asyncio.get_running_loop().create_connection(FastcgiConnection, sock=ours)
        connection.gone = gone.set  # type: ignore[method-assign]
        connection.begin(request, b"", Role.RESPONDER, keep=True)
        connection.flush()
        connection.stop_reading()
        theirs.sendall(ANSWER if whole else ANSWER[:-1])
        theirs.close()
        connection.send(RecordType.STDIN, b"x" * 200_000)
        connection.flush()
        await asyncio.wait_for(gone.wait(), 10)
        assert request.out == b"A: b\r\n\r\ntoo large"
        if whole:
            assert request.end == (3, ProtocolStatus.REQUEST_COMPLETE)
        else:
            assert isinstance(request.end, ConnectionError)

    asyncio.run(test())
