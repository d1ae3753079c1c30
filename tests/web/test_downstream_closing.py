"""How connections of web servers are kept, aborted and closed, with input that has not come yet."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import cast

import pytest

from fcgi_core.hosting.byte_stream import KEEP_CONN
from fcgi_core.protocol.records import (
    ProtocolStatus,
    RecordType,
    Role,
    begin_request,
    record,
)
from fcgi_core.web import client_socket
from fcgi_core.web.downstream import Connections, DownstreamConnection
from fcgi_core.web.exchange import NO_RECORD, WebExchange
from tests.byte_stream import records_in
from tests.web.web_server import Client, Dispatcher, request, run

# ---- keeping, aborting, closing


@run
async def test_the_connection_stays_only_if_that_was_asked_for() -> None:
    client = Client()
    for _ in range(3):
        client.request().end()
        await client.answered()
        assert not client.wire.closing
    client.request(flags=0).end()
    assert [one.type for one in await client.answered()] == [RecordType.END_REQUEST]
    assert client.wire.closing == "closed"


@run
async def test_abort_request_is_answered_and_the_id_is_free_again() -> None:
    client = Client()
    exchange = client.request(1)
    exchange.send_output(b"begun")
    client.send(record(RecordType.ABORT_REQUEST, 1))
    assert client.dispatcher.gone == [exchange]
    exchange.send_output(b"too late")
    exchange.end()
    assert [one.type for one in await client.answered()] == [RecordType.STDOUT, RecordType.END_REQUEST]
    assert client.request(1) is not exchange


@run
async def test_the_application_hears_of_a_client_that_left() -> None:
    client = Client()
    first, second = client.request(1), client.request(2)
    first.end()
    client.connection.connection_lost(None)
    assert client.dispatcher.gone == [second]
    assert not client.connections
    second.send_output(b"too late")
    second.fail(HTTPStatus.BAD_GATEWAY, "too late")


@run
async def test_connect_and_close_is_nothing() -> None:
    for sent in (b"", b"\x01", begin_request(1, 1, 1), request()[:-1]):
        client = Client()
        client.send(sent)
        client.connection.connection_lost(None)
        await asyncio.sleep(0)
        assert not client.connections


@run
async def test_a_connection_that_is_to_end_lets_requests_end() -> None:
    client = Client()
    exchange = client.request(1)
    client.connection.stop()
    client.send(begin_request(2, Role.RESPONDER, KEEP_CONN))
    (refused,) = await client.answered()
    assert (refused.request_id, refused.content[4]) == (2, ProtocolStatus.OVERLOADED)
    assert not client.wire.closing
    exchange.end()
    await client.answered()
    assert client.wire.ended, "the rest of what was refused may still come"
    client.send(request(2)[16:])
    assert client.connections.are_closing()
    client.connection.connection_lost(None)
    assert not client.connections.are_closing()


@run
async def test_an_idle_connection_that_is_to_end_is_closed_at_once() -> None:
    client = Client()
    client.request().end()
    client.connection.stop()
    assert [one.type for one in await client.answered()] == [RecordType.END_REQUEST]
    assert client.wire.closing == "closed"


@pytest.mark.parametrize("flags", [0, KEEP_CONN])
@run
async def test_an_abort_ends_a_connection_as_an_answer_does(flags: int) -> None:
    client = Client()
    client.request(flags=flags)
    client.send(record(RecordType.ABORT_REQUEST, 1))
    assert [one.type for one in await client.answered()] == [RecordType.END_REQUEST]
    assert bool(client.wire.closing) is (flags == 0)


@run
async def test_the_input_of_an_answered_request_is_read_on() -> None:
    """Whatever stopped it: the connection is kept, and the next request comes on it."""
    client = Client()
    for ends in (lambda one: one.end(), lambda one: one.fail(HTTPStatus.BAD_GATEWAY, "x"), None):
        for sent in (request(1), request(1)[:-8]):
            client.send(sent)
            exchange = client.dispatcher.begun[-1]
            client.connection.stop_reading(exchange)
            assert not client.wire.reading
            if ends is None:
                client.send(record(RecordType.ABORT_REQUEST, 1))
            else:
                ends(exchange)
            assert client.wire.reading


# ---- answers before the input has come

EARLY = request(1, b"x" * 100, flags=0)[:-8]
"""All but the end of its input."""


@run
async def test_a_connection_with_unread_input_is_closed_when_the_web_server_has_read_the_answer() -> None:
    """To close it earlier is to reset it, and the answer is lost."""
    client = Client()
    client.send(EARLY)
    (exchange,) = client.dispatcher.begun
    client.connection.stop_reading(exchange)
    exchange.send_output(b"Status: 413\r\n\r\n")
    exchange.end()
    assert [one.type for one in await client.answered()] == [
        RecordType.STDOUT,
        RecordType.STDOUT,
        RecordType.END_REQUEST,
    ]
    assert client.wire.ended
    assert client.wire.reading
    for _ in range(5):
        client.send(b"no record", b"x" * 65536)
    client.connection.write(b"nothing is written any more")
    await asyncio.sleep(0)
    assert not client.wire.closing, "that is for the loop to do, when the web server closes"
    client.connection.connection_lost(None)
    assert client.dispatcher.gone == []


@pytest.mark.parametrize(
    "sent",
    [
        request(1, role=4, flags=0)[:-8],
        request(1, role=Role.AUTHORIZER, flags=0)[:-8],
        request(1, flags=0) + b"\x01",
    ],
    ids=["a role that is not known", "an authorizer, whose STDIN clients close", "more than a request"],
)
@run
async def test_other_answers_that_input_may_cross(sent: bytes) -> None:
    client = Client()
    client.send(sent)
    for exchange in client.dispatcher.begun:
        exchange.end()
    assert [one.type for one in await client.answered()] == [RecordType.END_REQUEST]
    assert client.wire.ended
    assert not client.wire.closing


@run
async def test_an_answer_that_broke_off_is_read_too() -> None:
    client = Client()
    other = client.request(2)
    client.send(EARLY)
    exchange = client.dispatcher.begun[-1]
    exchange.send_output(b"Content-Type: text/plain\r\n\r\nhalf")
    exchange.fail(HTTPStatus.BAD_GATEWAY, "it died")
    assert client.wire.written.endswith(b"half" + NO_RECORD)
    assert client.wire.ended
    assert client.dispatcher.gone == [other], "nothing can be written for it any more"
    other.send_output(b"late")
    other.end()
    await asyncio.sleep(0)


class Refusing(Dispatcher):
    """Answers before the input has come."""

    def dispatch(self, exchange: WebExchange) -> None:
        super().dispatch(exchange)
        exchange.send_output(b"Status: 413\r\n\r\n" + b"x" * 100_000)
        exchange.end()


@run
async def test_a_web_server_that_sends_all_before_it_reads_gets_the_answer(tmp_path: Path) -> None:
    """On a real socket, with asyncio's own loop."""
    loop = asyncio.get_running_loop()
    connections = Connections()
    path = str(tmp_path / "s")

    def make() -> asyncio.Protocol:
        return cast(asyncio.Protocol, DownstreamConnection(Refusing(), connections))

    server = await loop.create_unix_server(make, path)
    async with asyncio.timeout(30):
        for _ in range(5):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(request(1, bytes(8 << 20), flags=0))
            await writer.drain()
            while writer.transport.get_write_buffer_size():  # type: ignore[attr-defined]
                await asyncio.sleep(0.001)
            answer = records_in(await reader.read())
            assert sum(len(content) for kind, _, content in answer if kind == RecordType.STDOUT) > 100_000
            assert answer[-1].type == RecordType.END_REQUEST
            writer.close()
        while connections:
            await asyncio.sleep(0.001)
    server.close()


@run
async def test_what_is_thrown_away_is_bounded_in_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_socket, "LINGER_BYTES", 1000)
    client = Client()
    client.send(EARLY)
    client.dispatcher.begun[0].end()
    await client.answered()
    client.send(bytes(1000))
    assert not client.wire.closing
    client.send(b"x")
    assert client.wire.closing == "closed"


@run
async def test_what_is_thrown_away_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_socket, "LINGER_FOR", 0.001)
    client = Client()
    client.send(EARLY)
    client.wire.unsent = 1
    client.dispatcher.begun[0].end()
    await client.answered()
    turns = client.wire.asked = asyncio.Event()
    for _ in range(2):
        await asyncio.wait_for(turns.wait(), 10)
        turns.clear()
    assert not client.wire.closing, "a slow reader still gets the answer"
    client.wire.unsent = 0
    await asyncio.wait_for(turns.wait(), 10)
    assert client.wire.closing == "closed"
