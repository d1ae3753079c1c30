"""FastCGI toward web servers: every shape of request that they may send, and what they must not be sent. No sockets."""

from __future__ import annotations

import asyncio
import functools
import tracemalloc
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.hosting.byte_stream import KEEP_CONN, RecordReader
from fcgi_core.hosting.driver import Driver
from fcgi_core.hosting.links import Link
from fcgi_core.plugin import AssociationInfo
from fcgi_core.protocol.records import (
    HEADER,
    LARGEST_CONTENT,
    MAX_PARAMS,
    ProtocolStatus,
    RecordType,
    Role,
    begin_request,
    decode_pairs,
    encode_pairs,
    record,
    stream_records,
)
from fcgi_core.protocol.request import Request
from fcgi_core.protocol.web import WebConnection
from fcgi_core.web import client_socket, early_stderr
from fcgi_core.web import downstream as module
from fcgi_core.web.downstream import Connections, DownstreamConnection
from fcgi_core.web.exchange import NO_RECORD, State, WebExchange
from tests.byte_stream import Record, records_in

PARAMS = {"REQUEST_METHOD": "GET", "SERVER_NAME": "shop.example"}


class Wire(asyncio.Transport):
    """The transport: it keeps what is written, and blocks when it is told to."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 4711)})
        self.written = b""
        self.closing = ""
        self.reading = True
        self.ended = False
        """Nothing more is written: the web server reads to the end of it."""
        self.unsent = 0
        self.asked = asyncio.Event()
        """Set when somebody looks how much is unsent."""

    def get_write_buffer_size(self) -> int:
        self.asked.set()
        return self.unsent

    def write_eof(self) -> None:
        assert not self.closing
        self.ended = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def write(self, data: Any) -> None:
        assert not self.closing
        assert not self.ended
        self.written += data

    def close(self) -> None:
        self.closing = self.closing or "closed"

    def abort(self) -> None:
        self.closing = self.closing or "aborted"

    def is_closing(self) -> bool:
        return bool(self.closing)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class NoLoop:
    """The association never comes up, so nothing is ever due."""

    def time(self) -> float:
        return 0.0

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Any: ...

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Any: ...


LINK = Link(
    Driver(WebConnection(), NoLoop(), on_events=lambda events: None, on_down=lambda reason: None),
    AssociationInfo(1, "memory", "", ""),
)
"""An association to give credit on."""


class Dispatcher:
    """Takes requests and notes what happens to them."""

    max_requests = 1000

    def __init__(self) -> None:
        self.begun: list[WebExchange] = []
        self.gone: list[WebExchange] = []
        self.more: list[WebExchange] = []

    @property
    def passed_on(self) -> int:
        """Bytes of responses for which the application got credit."""
        return sum(exchange.request.receive_window.consumed for exchange in self.begun)

    def dispatch(self, exchange: WebExchange) -> None:
        exchange.link = LINK
        exchange.request = Request(1, 0, exchange.role, exchange.flags, 1 << 30, 1 << 30)
        self.begun.append(exchange)

    def waiting_grew(self, exchange: WebExchange) -> None:
        self.more.append(exchange)

    def client_gone(self, exchange: WebExchange) -> None:
        self.gone.append(exchange)

    def input_of(self, exchange: WebExchange, kind: RecordType = RecordType.STDIN) -> bytes:
        return b"".join(content for one, content in exchange.body if one == kind)


class Client:
    """A web server's connection, alone or with others."""

    def __init__(self, connections: Connections | None = None) -> None:
        self.dispatcher = Dispatcher()
        self.connections = Connections() if connections is None else connections
        self.connection = DownstreamConnection(self.dispatcher, self.connections)
        self.wire = Wire()
        self.connection.connection_made(self.wire)

    def send(self, *records: bytes) -> None:
        self.connection.data_received(b"".join(records))

    async def answered(self) -> list[Record]:
        """The records that came since the last call."""
        await asyncio.sleep(0)
        written, self.wire.written = self.wire.written, b""
        reader = RecordReader()
        records = records_in(written, reader)
        assert not reader.inside_record
        return records

    def request(self, request_id: int = 1, body: bytes = b"", **named: Any) -> WebExchange:
        self.send(request(request_id, body, **named))
        return self.dispatcher.begun[-1]


def request(
    request_id: int = 1,
    body: bytes = b"",
    *,
    role: int = Role.RESPONDER,
    flags: int = KEEP_CONN,
    params: dict[str, str] | None = None,
    size: int = 8184,
) -> bytes:
    return b"".join(
        [
            begin_request(request_id, role, flags),
            *stream_records(RecordType.PARAMS, request_id, encode_pairs(params or PARAMS), size=size),
            record(RecordType.PARAMS, request_id),
            *stream_records(RecordType.STDIN, request_id, body, size=size),
            record(RecordType.STDIN, request_id),
        ]
    )


def padded(kind: int, request_id: int, content: bytes, padding: int) -> bytes:
    return HEADER.pack(1, kind, request_id, len(content), padding, 0xAA) + content + b"\xff" * padding


def run(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def wrapper(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))  # type: ignore[arg-type]

    return wrapper


# ---- requests of all shapes


@pytest.mark.parametrize(
    ("params", "identity"),
    [({"REQUEST_ID": "abc"}, "abc"), ({"HTTP_X_REQUEST_ID": "abc"}, "unsent.1"), ({"A": "REQUEST_ID"}, "unsent.1")],
)
@run
async def test_the_web_server_may_name_a_request(params: dict[str, str], identity: str) -> None:
    exchange = WebExchange(Client().connection, 1, Role.RESPONDER, KEEP_CONN)
    exchange.raw_params = encode_pairs(params)
    assert exchange.identity == identity


@run
async def test_a_body_is_let_go_at_the_end_however_long_the_request_is_remembered() -> None:
    exchange = Client().request(body=b"body")
    assert exchange.body
    exchange.end()
    assert exchange.body == []


@run
async def test_a_request_and_its_answer() -> None:
    client = Client()
    exchange = client.request(7, b"body")
    assert exchange.params == PARAMS
    assert (client.dispatcher.input_of(exchange), exchange.input_closed) == (b"body", True)
    exchange.send_output(b"Status: 201 Created\r\n\r\nmade")
    exchange.end(3)
    assert await client.answered() == [
        Record(RecordType.STDOUT, 7, b"Status: 201 Created\r\n\r\nmade"),
        Record(RecordType.STDOUT, 7, b""),
        Record(RecordType.END_REQUEST, 7, b"\0\0\0\3\0\0\0\0"),
    ]
    assert exchange.status == 201
    assert not client.wire.closing


@given(st.lists(st.integers(1, 400)), st.data())
def test_any_cut_of_the_bytes_is_the_same_request(cuts: list[int], data: st.DataObject) -> None:
    paddings = data.draw(st.lists(st.integers(0, 255), min_size=6, max_size=6))
    encoded = encode_pairs({**PARAMS, "HTTP_COOKIE": "c" * 300})
    body = bytes(range(256))
    records = [
        (RecordType.BEGIN_REQUEST, bytes((0, 1, 1, 0, 0, 0, 0, 0))),
        (RecordType.PARAMS, encoded[:100]),
        (RecordType.PARAMS, encoded[100:]),
        (RecordType.PARAMS, b""),
        (RecordType.STDIN, body),
        (RecordType.STDIN, b""),
    ]
    stream = b"".join(padded(kind, 5, content, size) for (kind, content), size in zip(records, paddings, strict=True))

    async def test() -> None:
        client = Client()
        position = 0
        for cut in [*cuts, len(stream)]:
            client.send(stream[position : position + cut])
            position += cut
        (exchange,) = client.dispatcher.begun
        assert exchange.params["HTTP_COOKIE"] == "c" * 300
        assert (client.dispatcher.input_of(exchange), exchange.input_closed) == (body, True)

    asyncio.run(test())


@run
async def test_params_over_64_kib_in_many_records() -> None:
    client = Client()
    params = {**PARAMS, **{f"HTTP_X_{number}": str(number) * 40_000 for number in range(5)}}
    for size in (65535, 8, 1000):
        exchange = client.request(params=params, size=size)
        assert exchange.params == params
        exchange.end()


@run
async def test_params_without_end_are_431() -> None:
    client = Client()
    piece = record(RecordType.PARAMS, 1, b"x" * 65535)
    client.send(begin_request(1, Role.RESPONDER, KEEP_CONN), piece * (MAX_PARAMS // 65535 + 2))
    answer = await client.answered()
    assert b"Status: 431 " in b"".join(content for kind, _, content in answer if kind == RecordType.STDOUT)
    client.send(piece * 100)  # what follows is ignored, and kept nowhere
    assert client.request().params == PARAMS


@run
async def test_records_of_65535_bytes() -> None:
    client = Client()
    body = bytes(range(255)) * 1028  # 4 records of the largest size
    assert client.dispatcher.input_of(client.request(body=body, size=65535)) == body


@run
async def test_roles() -> None:
    client = Client()
    client.send(request(1, role=Role.AUTHORIZER))
    client.send(request(2, b"form", role=Role.FILTER))
    client.send(*stream_records(RecordType.DATA, 2, b"data"), record(RecordType.DATA, 2))
    authorizer, a_filter = client.dispatcher.begun
    assert (authorizer.role, authorizer.input_closed) == (Role.AUTHORIZER, True)
    assert (a_filter.role, a_filter.input_closed) == (Role.FILTER, True)
    assert client.dispatcher.input_of(a_filter) == b"form"
    assert client.dispatcher.input_of(a_filter, RecordType.DATA) == b"data"
    client.send(request(3, role=4))
    (end,) = await client.answered()
    assert (end.type, end.content[4]) == (RecordType.END_REQUEST, ProtocolStatus.UNKNOWN_ROLE)


@run
async def test_many_requests_at_once_are_kept_apart() -> None:
    client = Client()
    for request_id in range(1, 101):
        client.send(request(request_id, str(request_id).encode() * 100))
    for exchange in reversed(client.dispatcher.begun):
        exchange.send_output(client.dispatcher.input_of(exchange))
        exchange.end()
    output: dict[int, bytes] = {}
    for kind, request_id, content in await client.answered():
        if kind == RecordType.STDOUT:
            output[request_id] = output.get(request_id, b"") + content
    assert output == {request_id: str(request_id).encode() * 100 for request_id in range(1, 101)}


@run
async def test_more_requests_than_a_connection_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUESTS_PER_CONNECTION", 2)
    client = Client()
    client.send(request(1), request(2), request(3))
    (end,) = await client.answered()
    assert (end.request_id, end.content[4]) == (3, ProtocolStatus.OVERLOADED)


# ---- management, and what is unknown


@run
async def test_get_values() -> None:
    client = Client()
    asked = {"FCGI_MAX_CONNS": "", "FCGI_MAX_REQS": "", "FCGI_MPXS_CONNS": "", "FCGI_SOMETHING": ""}
    client.send(record(RecordType.GET_VALUES, 0, encode_pairs(asked)))
    (answer,) = await client.answered()
    assert (answer.type, answer.request_id) == (RecordType.GET_VALUES_RESULT, 0)
    assert decode_pairs(answer.content) == {
        "FCGI_MAX_CONNS": "1000",
        "FCGI_MAX_REQS": "1000",
        "FCGI_MPXS_CONNS": "1",
    }
    assert client.request().params == PARAMS  # the connection goes on


@run
async def test_unknown_types_are_answered_and_harm_nothing() -> None:
    client = Client()
    client.send(record(77, 0, b"what"))
    (answer,) = await client.answered()
    assert answer == Record(RecordType.UNKNOWN_TYPE, 0, bytes((77, 0, 0, 0, 0, 0, 0, 0)))
    client.send(begin_request(1, Role.RESPONDER, KEEP_CONN), record(99, 1, b"what"), request(2))
    assert [one.type for one in await client.answered()] == [RecordType.UNKNOWN_TYPE]
    assert client.dispatcher.begun[0].id == 2


@pytest.mark.parametrize(
    "wrong",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x02\x01\x00\x01\x00\x08\x00\x00",
        request(1)[:16] + begin_request(1, 1, 0),
        record(RecordType.BEGIN_REQUEST, 1, b"short"),
        begin_request(1, 1, 0) + record(RecordType.STDIN, 1, b"before PARAMS"),
        request(1) + record(RecordType.STDIN, 1, b"after its end"),
        record(RecordType.GET_VALUES, 0, b"\x80"),
    ],
)
@run
async def test_broken_protocol_ends_the_connection(wrong: bytes) -> None:
    client = Client()
    client.send(wrong)
    assert client.wire.closing == "aborted"


@run
async def test_records_for_no_request_are_ignored() -> None:
    client = Client()
    client.send(record(RecordType.STDIN, 9, b"late"), record(RecordType.ABORT_REQUEST, 9), request(1))
    assert client.dispatcher.begun[0].id == 1
    assert await client.answered() == []


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


# ---- input that says nothing new, and input without end


@run
async def test_input_that_is_closed_again_is_no_news() -> None:
    """Its body stays what it was, for another application may be given it, and nothing grows."""
    client = Client()
    exchange = client.request(1, b"order")
    body = list(exchange.body)
    client.send(record(RecordType.STDIN, 1) * 1000)
    assert exchange.body == body
    assert client.dispatcher.more == []
    authorizer = client.request(2, role=Role.AUTHORIZER)
    assert authorizer.body == []


@pytest.mark.parametrize("ends", ["whole", "abort", "connection", "too long"])
@run
async def test_params_that_are_not_whole_are_accounted_for(ends: str) -> None:
    client = Client()
    client.send(begin_request(1, Role.RESPONDER, KEEP_CONN), record(RecordType.PARAMS, 1, b"\x01\x01"))
    assert client.connections.unfinished_params == 2
    client.send(record(RecordType.PARAMS, 1, b"AB"))
    assert (client.connections.unfinished_params, client.connection.unfinished_params()) == (4, 4)
    if ends == "whole":
        client.send(record(RecordType.PARAMS, 1))
    elif ends == "abort":
        client.send(record(RecordType.ABORT_REQUEST, 1))
    elif ends == "connection":
        client.connection.connection_lost(None)
    else:
        client.send(record(RecordType.PARAMS, 1, b"x" * 65535) * (MAX_PARAMS // 65535 + 1))
    assert client.connections.unfinished_params == 0


@run
async def test_params_of_all_connections_have_a_bound_and_who_holds_most_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_UNFINISHED_PARAMS", 200_000)
    rogue = Client()
    lawful = Client(rogue.connections)
    for number in (1, 2, 3):
        rogue.send(begin_request(number, Role.RESPONDER, KEEP_CONN), record(RecordType.PARAMS, number, b"x" * 60_000))
    lawful.send(request(1, size=30)[:-16])
    lawful.send(begin_request(2, Role.RESPONDER, KEEP_CONN), record(RecordType.PARAMS, 2, b"x" * 30_000))
    answers = b"".join(content for kind, _, content in await rogue.answered() if kind == RecordType.STDOUT)
    assert answers.count(b"Status: 503 ") == 3
    assert await lawful.answered() == []
    assert rogue.connections.unfinished_params < 40_000
    lawful.send(request(1)[-16:])
    assert lawful.dispatcher.begun[0].params == PARAMS
    assert rogue.request(1).params == PARAMS, "the connection goes on"


@run
async def test_params_have_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    client.send(begin_request(1, Role.RESPONDER, KEEP_CONN), record(RecordType.PARAMS, 1, b"x"))
    client.send(begin_request(2, Role.RESPONDER, KEEP_CONN))
    whole = client.request(3)
    client.connections.refuse_late()
    assert await client.answered() == []
    monkeypatch.setattr(module, "PARAMS_WITHIN", -1.0)
    client.connections.refuse_late()
    answer = await client.answered()
    assert {one.request_id for one in answer if one.type == RecordType.END_REQUEST} == {1, 2}
    assert b"Status: 408 " in answer[1].content
    assert whole.state is State.WAITING
    client.connections.refuse_late()


# ---- what web servers must not be sent


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
