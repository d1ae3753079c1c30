"""A web server's connection, without sockets."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from fcgi_core.hosting.byte_stream import KEEP_CONN, RecordReader
from fcgi_core.hosting.driver import Driver
from fcgi_core.hosting.links import Link
from fcgi_core.plugin import AssociationInfo
from fcgi_core.protocol.records import (
    HEADER,
    RecordType,
    Role,
    begin_request,
    encode_pairs,
    record,
    stream_records,
)
from fcgi_core.protocol.request import Request
from fcgi_core.protocol.web import WebConnection
from fcgi_core.web.downstream import Connections, DownstreamConnection
from fcgi_core.web.exchange import WebExchange
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

    def input_of(self, exchange: WebExchange, kind: int = RecordType.STDIN) -> bytes:
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
