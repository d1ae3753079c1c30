"""What a web server is sent: records it can read, STDERR before the head, nothing beyond what it reads."""

from __future__ import annotations

import asyncio
import tracemalloc
from http import HTTPStatus

import pytest

from fcgi_core.hosting.byte_stream import KEEP_CONN
from fcgi_core.protocol.records import (
    HEADER,
    LARGEST_CONTENT,
    RecordType,
    begin_request,
    record,
)
from fcgi_core.web import client_socket, early_stderr
from fcgi_core.web import downstream as module
from fcgi_core.web.downstream import DownstreamConnection
from fcgi_core.web.exchange import NO_RECORD
from tests.web.web_server import Client, run


@run
async def test_output_is_cut_into_records_that_every_web_server_takes() -> None:
    """HAProxy stalls for good on padded records of 65,535 bytes; nothing is padded, nor longer than 60 KiB."""
    client = Client()
    exchange = client.request()
    exchange.send_output(b"x" * 65535)
    exchange.send_stderr(b"y" * 65535)
    exchange.end()
    await asyncio.sleep(0)
    position = 0
    while position < len(client.wire.written):
        _, _, _, length, padding, reserved = HEADER.unpack_from(client.wire.written, position)
        assert (padding, reserved) == (0, 0)
        assert length <= LARGEST_CONTENT
        position += 8 + length


@pytest.mark.parametrize("size", [10, 999, 4000, 5000])
@pytest.mark.parametrize("head", [b"Content-Type: text/plain\r\n\r\n", b"X: " + b"x" * 2000 + b"\r\n\r\n"])
@run
async def test_stderr_that_came_before_the_head_goes_before_it(head: bytes, size: int) -> None:
    """For nginx's fastcgi_catch_stderr; as much of it as leaves room in the buffer that nginx reads the head into. It
    answers 502 when ten lines of 1,000 bytes come before the head."""
    client = Client()
    exchange = client.request()
    written = [b"%d" % number * (size - 1) + b"\n" for number in range(10)]
    for text in written:
        exchange.send_stderr(text)
    assert await client.answered() == []
    exchange.send_output(head + b"y" * 10_000)
    exchange.send_stderr(b"late\n")
    exchange.end()
    answer = await client.answered()
    kinds = [kind for kind, _, _ in answer]
    first = kinds.index(RecordType.STDOUT)
    before = sum(8 + len(content) for _, _, content in answer[:first])
    held = sum(8 + len(text) for text in written)
    assert before + 8 + len(head) <= early_stderr.MAX_HEAD_BUFFER
    assert before >= min(held, early_stderr.MAX_HEAD_BUFFER - 8 - len(head) - 8)
    stderr = [content for kind, _, content in answer if kind == RecordType.STDERR]
    assert b"".join(stderr) == b"".join(written[: sum(map(len, stderr)) // size]) + b"late\n"
    assert kinds[-1] == RecordType.END_REQUEST


@run
async def test_stderr_before_a_head_in_pieces() -> None:
    client = Client()
    exchange = client.request()
    exchange.send_stderr(b"e" * 5000)
    for part in (b"Content-Type: text/plain\r\n", b"Status: 404\r\n", b"\r\n", b"body"):
        exchange.send_output(part)
    assert exchange.status == 404
    first, second, *_ = await client.answered()
    assert (first.type, second.type) == (RecordType.STDERR, RecordType.STDOUT)
    assert 1000 < len(first.content) < 3000, "room is left for the rest of the head"


@run
async def test_stderr_before_an_error_of_our_own() -> None:
    client = Client()
    exchange = client.request()
    exchange.send_stderr(b"PHP Fatal error: out of memory\n")
    exchange.fail(HTTPStatus.BAD_GATEWAY, "the application's answer broke off")
    kinds = [(kind, content[:20]) for kind, _, content in await client.answered()]
    assert kinds[:3] == [
        (RecordType.STDERR, b"fcgi-sctp: the appli"),
        (RecordType.STDERR, b"PHP Fatal error: out"),
        (RecordType.STDOUT, b"Status: 502 Bad Gate"),
    ]


@run
async def test_stderr_that_a_web_server_does_not_read_is_bounded_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    exchange = client.request()
    exchange.send_output(b"Content-Type: text/plain\r\n\r\n")
    client.connection.pause_writing()
    for _ in range(100):
        exchange.send_stderr(b"e" * 10_000)
    told = sum(len(content) for kind, _, content in await client.answered() if kind == RecordType.STDERR)
    assert client_socket.MAX_UNREAD_STDERR - 10_000 < told <= client_socket.MAX_UNREAD_STDERR
    client.connection.resume_writing()
    assert f"did not read its STDERR; {1_000_000 - told} bytes were dropped" in caplog.text
    assert client.connections.stderr_left_out == 1_000_000 - told
    exchange.send_stderr(b"again")
    assert [content for _, _, content in await client.answered()] == [b"again"]


@run
async def test_stderr_without_an_answer_is_bounded() -> None:
    client = Client()
    exchange = client.request()
    for _ in range(1000):
        exchange.send_stderr(b"e" * 1000)
    exchange.end()
    answer = await client.answered()
    told = sum(len(content) for kind, _, content in answer if kind == RecordType.STDERR)
    assert 16_000 <= told <= early_stderr.MAX_HELD_STDERR
    assert client.connections.stderr_left_out == 1_000_000 - told
    assert answer[-1].type == RecordType.END_REQUEST
    exchange = client.request()
    for _ in range(10_000):
        exchange.send_stderr(b"e")
    exchange.end()
    kinds = [kind for kind, _, _ in await client.answered()]
    assert len(kinds) < 1000, "what is held is counted with what it costs"


@run
async def test_failures_before_and_in_the_answer() -> None:
    client = Client()
    exchange = client.request()
    exchange.send_stderr(b"e" * 10_000)
    exchange.fail(HTTPStatus.SERVICE_UNAVAILABLE, "nobody is there", retry_after=3)
    answer = await client.answered()
    page = b"".join(content for kind, _, content in answer if kind == RecordType.STDOUT)
    assert page.startswith(b"Status: 503 Service Unavailable\r\n")
    assert b"Retry-After: 3\r\n" in page
    assert answer[-1].type == RecordType.END_REQUEST
    assert not client.wire.closing
    exchange = client.request()
    exchange.send_output(b"Content-Type: text/plain\r\n\r\nhalf")
    exchange.fail(HTTPStatus.BAD_GATEWAY, "it died")
    # END_REQUEST would make it look whole, and so would an end of the connection to an nginx that does not buffer
    assert client.wire.written.endswith(b"half" + NO_RECORD)
    assert client.wire.closing == "closed"


@run
async def test_a_reader_that_stopped_is_not_sent_more() -> None:
    """The window toward the application is opened by what the web server took, and by nothing else."""
    client = Client()
    exchange = client.request()
    exchange.send_output(b"x" * 1000)
    assert client.dispatcher.passed_on == 1000
    client.connection.pause_writing()
    exchange.send_output(b"x" * 2000)
    exchange.send_output(b"x" * 3000)
    assert client.dispatcher.passed_on == 1000
    client.connection.resume_writing()
    assert client.dispatcher.passed_on == 6000


@run
async def test_a_body_is_not_read_on_while_the_application_does_not() -> None:
    client = Client()
    one, other = client.request(1), client.request(2)
    for exchange in (one, one, other):
        client.connection.stop_reading(exchange)
        assert not client.wire.reading
    client.connection.read_on(one)
    client.connection.read_on(one)
    assert not client.wire.reading, "the other still stops it"
    client.connection.read_on(other)
    assert client.wire.reading
    client.connection.read_on(other)


@run
async def test_ten_thousand_idle_connections_cost_little() -> None:
    tracemalloc.start()
    clients = [Client() for _ in range(10_000)]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(clients) < 8192, "bytes for each, the transport and the dispatcher of this test included"


@pytest.mark.parametrize(
    "asked", [record(RecordType.GET_VALUES, 0), record(200, 0), begin_request(9, 9, KEEP_CONN)], ids=lambda one: one[1]
)
@run
async def test_a_client_that_floods_and_reads_no_answers_is_given_up(asked: bytes) -> None:
    client = Client()
    client.send(asked * module.MAX_ANSWERS * 2)  # it is being read: this is no flood
    await asyncio.sleep(0)
    client.connection.pause_writing()
    client.send(asked * module.MAX_ANSWERS)
    assert not client.wire.closing
    client.connection.resume_writing()
    client.connection.pause_writing()
    client.send(asked * module.MAX_ANSWERS)
    assert not client.wire.closing
    client.send(asked)
    assert client.wire.closing == "aborted"


def test_it_has_all_that_asyncio_calls() -> None:
    """A compiled class inherits nothing from `asyncio.Protocol`. uvloop does without what is missing, asyncio not."""
    called = {name for name in dir(asyncio.Protocol) if not name.startswith("_")}
    assert called <= set(dir(DownstreamConnection))
