"""Connections that are passed on to the next process, and what becomes of connections at a stop without one."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from fcgi_core.protocol.records import ProtocolStatus, RecordType, Role, begin_request
from fcgi_core.web import downstream
from fcgi_core.web.downstream import Connections, DownstreamConnection
from tests.web.web_server import Client, Wire, request, run

_made: list[socket.socket] = []


@pytest.fixture(autouse=True)
def closed_at_the_end() -> Iterator[None]:
    yield
    while _made:
        _made.pop().close()


class Moving(Client):
    """A connection on a socket, of which copies are passed on once `connections.pass_on` is set."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections)
        self.here, self.there = socket.socketpair()
        _made.extend((self.here, self.there))
        self.wire._extra["socket"] = self.here  # type: ignore[attr-defined]
        connections.pass_on = self.take
        self.passed: list[int] = []

    def take(self, descriptor: int) -> None:
        self.passed.append(descriptor)

    def is_passed_on(self) -> bool:
        """Whether it is, once, and open for the next process; the transport is given up."""
        if not self.passed:
            return False
        (descriptor,) = self.passed
        self.here.close()
        os.write(descriptor, b"x")
        os.close(descriptor)
        assert self.wire.closing == "aborted"
        return self.there.recv(1) == b"x"


def make() -> Moving:
    connections = Connections()
    return Moving(connections)


@run
async def test_one_without_requests_is_passed_on_at_once() -> None:
    client = make()
    client.connection.stop()
    assert client.is_passed_on()


@run
async def test_one_that_was_accepted_just_before_the_end_is_passed_on() -> None:
    connections = Connections()
    taken: list[int] = []
    connections.pass_on = taken.append
    here, there = socket.socketpair()
    wire = Wire()
    wire._extra["socket"] = here  # type: ignore[attr-defined]
    DownstreamConnection(Client().dispatcher, connections).connection_made(wire)
    assert len(taken) == 1
    assert wire.closing == "aborted"
    for one in (here, there, socket.socket(fileno=taken[0])):
        one.close()


@run
async def test_one_with_requests_is_passed_on_after_the_last_answer() -> None:
    client = make()
    first = client.request(1)
    client.connection.stop()
    second = client.request(2)
    assert second is not first, "it goes on meanwhile: nobody else reads it"
    first.end()
    assert [one.type for one in await client.answered()] == [RecordType.END_REQUEST]
    assert not client.passed
    second.end()
    await client.answered()
    assert client.is_passed_on()


@run
async def test_not_before_the_answer_has_gone() -> None:
    client = make()
    exchange = client.request()
    client.connection.stop()
    client.wire.unsent = 1000
    exchange.end()
    await client.answered()
    assert not client.passed
    client.wire.unsent = 0
    client.connection.resume_writing()
    assert client.is_passed_on()


@run
async def test_not_within_a_record() -> None:
    client = make()
    client.send(begin_request(1, Role.RESPONDER, 1)[:5])
    client.connection.stop()
    assert not client.passed
    assert not client.wire.closing
    client.send(request()[5:])
    client.dispatcher.begun[-1].end()
    await client.answered()
    assert client.is_passed_on()


@run
async def test_one_that_is_to_be_closed_is_closed() -> None:
    client = make()
    exchange = client.request(flags=0)
    client.connection.stop()
    exchange.end()
    await client.answered()
    assert client.wire.closing == "closed"
    assert not client.passed


@run
async def test_without_descriptors_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    client = make()
    client.here.close()
    client.connection.stop()
    assert client.wire.closing == "aborted"
    assert not client.passed


# ---- a stop without another process


@run
async def test_one_that_is_idle_is_closed_and_one_whose_first_request_is_on_its_way_is_served() -> None:
    used, fresh = Client(), Client()
    used.request().end()
    await used.answered()
    used.connection.stop()
    fresh.connection.stop()
    assert used.wire.closing == "closed"
    assert not fresh.wire.closing
    fresh.request().end()
    (end,) = await fresh.answered()
    assert end.content[4] == ProtocolStatus.REQUEST_COMPLETE
    assert fresh.wire.closing == "closed"


def test_a_first_request_is_not_awaited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    @run
    async def test() -> None:
        client = Client()
        closed = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(client.wire, "close", lambda: closed.set_result(None))
        client.connection.stop()
        assert not closed.done()
        await closed

    assert downstream.FIRST_WITHIN <= 1.0
    test()
