"""FastCGI toward the web server: a server for nginx and its like, on unix sockets and TCP.

A connection may carry one request after the other (KEEP_CONN) or many at once (HAProxy's multiplexer). Nothing here
knows of SCTP: a `Dispatcher` gets each request when its PARAMS are whole, and answers through the methods of
`WebExchange`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Protocol, cast

from ..errors import RemoteProtocolError
from ..hosting.byte_stream import KEEP_CONN, RecordReader
from ..protocol.records import (
    MAX_PARAMS,
    ROLES,
    ProtocolStatus,
    RecordType,
    Role,
    decode_pairs,
    encode_pairs,
    end_request,
    record,
)
from ..protocol.states import AFTER_PARAMS, INPUT, Input
from .client_socket import HIGH_WATER, Sockets
from .exchange import NO_RECORD, RequestConnection, RequestSite, State, WebExchange

__all__ = ["Connections", "Dispatcher", "DownstreamConnection"]

log = logging.getLogger("fcgi_sctp.web")

MAX_REQUESTS_PER_CONNECTION = 1024
"""Requests at once on one connection of a multiplexing client; HAProxy's own limit is 100 by default."""
MAX_UNFINISHED_PARAMS = 64 << 20
"""Bytes of PARAMS that are not whole, of all connections together: 64 requests with as much as MAX_PARAMS."""
PARAMS_WITHIN = 60.0
"""Seconds that a request's PARAMS may take; a web server has them all when it begins. nginx' fastcgi_send_timeout."""
FIRST_WITHIN = 1.0
"""Seconds that the first request of a connection may take while the process stops; web servers send it at once."""
MAX_ANSWERS = 10_000
"""Answers to management records and refused requests that wait in the socket's write buffer; 16 bytes each and more."""


class Dispatcher(RequestSite, Protocol):
    """Decides which application gets a request."""

    @property
    def max_requests(self) -> int:
        """Requests at once that are worth sending; FCGI_MAX_REQS says so."""

    def dispatch(self, exchange: WebExchange) -> None:
        """Send a request on whose PARAMS are whole. `exchange.body` holds the STDIN that has come; it is all if
        `exchange.input_closed`."""


class Connections(Sockets):
    """All connections of web servers."""

    def __init__(self) -> None:
        super().__init__()
        self._open: set[DownstreamConnection] = set()
        self.unfinished_params = 0
        """Bytes of PARAMS that are not whole."""
        self.on_closed: Callable[[], None] = lambda: None
        """Called when a connection has been closed."""
        self.pass_on: Callable[[int], None] | None = None
        """Takes a copy of the descriptor of a connection without requests, once the next process is to serve it."""

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[DownstreamConnection]:
        return iter(tuple(self._open))

    def add(self, connection: DownstreamConnection) -> None:
        self._open.add(connection)

    def discard(self, connection: DownstreamConnection) -> None:
        self._open.discard(connection)
        self.on_closed()

    def are_closing(self) -> bool:
        """Return whether a connection has no requests: after its `stop`, its last answer is still on its way, or the
        first record of the next request has not come whole."""
        return any(connection.is_idle for connection in self._open)

    def refuse_unfinished(self) -> None:
        """Refuse the requests of the connection that holds most PARAMS which are not whole: there are too many."""
        most = max(self._open, key=lambda one: one.unfinished_params())
        most.refuse_unfinished(HTTPStatus.SERVICE_UNAVAILABLE, "too many bytes of PARAMS are not whole")

    def refuse_late(self) -> None:
        """Refuse the requests whose PARAMS take too long."""
        if self.unfinished_params:
            limit = time.monotonic() - PARAMS_WITHIN
            for connection in tuple(self._open):
                why = f"PARAMS were not whole after {PARAMS_WITHIN:g} s"
                connection.refuse_unfinished(HTTPStatus.REQUEST_TIMEOUT, why, began_before=limit)


class DownstreamConnection(RequestConnection):
    """One connection of a web server."""

    def __init__(self, dispatcher: Dispatcher, connections: Connections) -> None:
        super().__init__(connections)
        self.dispatcher = dispatcher
        self._connections = connections
        self._exchanges: dict[int, WebExchange] = {}
        """The requests that are not over, by the web server's id."""
        self._reader = RecordReader()
        self._used = False
        """It has carried a request."""
        self._stopping = False
        self._moves = False
        """The next process gets the connection when its requests have ended."""
        self._unread = False
        """Input of a request that is over may still come."""
        self._answers = 0

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER)
        self._connections.add(self)
        if self._connections.pass_on is not None:
            self.stop()  # accepted just before this process stopped to accept

    def data_received(self, data: bytes) -> None:
        if self._lingering is not None:
            self._throw_away(data)
            return
        try:
            records = self._reader.feed(data)
            ready: list[WebExchange] = []
            for kind, request_id, content in records:
                self._record(kind, request_id, content, ready)
        except RemoteProtocolError as error:
            log.warning("%s broke the protocol: %s; the connection is closed", self._peer(), error)
            self._transport.abort()
            return
        # dispatched only now, so that a body that came in the same read goes in the same message
        for exchange in ready:
            if exchange.state is State.RECEIVING:
                exchange.state = State.WAITING
                self.dispatcher.dispatch(exchange)
            elif exchange.state is State.SENT:
                exchange.last_activity = time.monotonic()
                assert exchange.upstream is not None
                exchange.upstream.send_input(exchange)
            elif exchange.state is State.WAITING:
                self.dispatcher.waiting_grew(exchange)

    def eof_received(self) -> None:
        """The transport closes. uvloop would do so without this; to asyncio's own loop its absence is an error."""

    def connection_lost(self, error: Exception | None) -> None:
        self._give_up_requests()
        self._closed()
        self._connections.discard(self)

    def _give_up_requests(self) -> None:
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            if exchange.state is not State.OVER:
                self._give_up(exchange)

    def _give_up(self, exchange: WebExchange) -> None:
        """End a request whose answer is not wanted any more."""
        was_dispatched = exchange.state is not State.RECEIVING
        exchange.state = State.OVER
        self.finished(exchange)
        if was_dispatched:
            self.dispatcher.client_gone(exchange)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answers = 0
        for exchange in tuple(self._exchanges.values()):
            exchange.drained()
        if self._moves:
            self.end_if_idle()

    # ---- what an exchange asks for

    def finished(self, exchange: WebExchange) -> None:
        self._exchanges.pop(exchange.id, None)
        if exchange.input is Input.PARAMS:
            self._connections.unfinished_params -= exchange.size_of_params()
        if exchange.input is not Input.COMPLETE or exchange.role is Role.AUTHORIZER:  # whose STDIN clients close
            self._unread = True
        if not exchange.flags & KEEP_CONN:
            self._ending, self._moves = True, False
        if self._full:
            self.read_on(exchange)

    def break_off(self, exchange: WebExchange) -> None:
        self.write(NO_RECORD)
        self.finished(exchange)
        self._give_up_requests()  # no more can be written for the others
        self._ending, self._moves = True, False
        self.flush()

    # ---- the end of a connection

    def stop(self) -> None:
        """Close the connection, or pass it on, when its requests have ended; at once if there are none. A connection
        that is closed without ever a request would lose its first one, which is on its way: it carries that first."""
        self._moves = not self._ending and self._connections.pass_on is not None
        # a connection with many requests at once goes on until it has none
        self._stopping = self._used and not self._moves
        self._ending = True
        if self._used or self._moves:
            self.flush()
        else:
            self._loop.call_later(FIRST_WITHIN, self._give_up_waiting)

    def _give_up_waiting(self) -> None:
        if not self._used and not self._transport.is_closing():
            self.flush()

    @property
    def is_idle(self) -> bool:
        """Whether the connection has no requests."""
        return not self._exchanges

    def end_if_idle(self) -> None:
        if self._exchanges:
            return
        if self._moves and not self._transport.is_closing():
            self._move()
        else:
            self.close(unread=self._unread or self._reader.inside_record)

    def _move(self) -> None:
        """Pass the connection on, unless a part of a record has been read here: then after that request."""
        if self._transport.get_write_buffer_size():
            self._transport.set_write_buffer_limits(0)  # `resume_writing` comes when it is empty
        elif not self._reader.inside_record and self._connections.pass_on is not None:
            try:
                copy = os.dup(self._transport.get_extra_info("socket").fileno())
            except OSError as error:
                log.warning("%s is not passed on but closed: %s", self._peer(), error.strerror)
            else:
                self._connections.pass_on(copy)
            self._transport.abort()  # nothing is sent to the web server by that: the copy keeps the connection

    # ---- records

    def _record(self, kind: int, request_id: int, content: bytes, ready: list[WebExchange]) -> None:
        if request_id == 0:
            self._management(kind, content)
            return
        if kind == RecordType.BEGIN_REQUEST:
            self._begin(request_id, content)
            return
        exchange = self._exchanges.get(request_id)
        if exchange is None:
            return  # it crossed the request's end (section 3.3: such records are ignored)
        if kind == RecordType.ABORT_REQUEST:
            self._give_up(exchange)
            self._answer(end_request(request_id))
            return
        if kind == RecordType.PARAMS and exchange.input is Input.PARAMS:
            self._params(exchange, content, ready)
            return
        following = INPUT.get((exchange.input, kind, not content))
        if following is None:
            if kind in (RecordType.PARAMS, RecordType.STDIN, RecordType.DATA):
                raise RemoteProtocolError(
                    f"out of order; the state of the input is: {exchange.input.value}",
                    record_type=kind,
                    request_key=(request_id, 0),
                )
            self._answer(record(RecordType.UNKNOWN_TYPE, 0, bytes((kind, 0, 0, 0, 0, 0, 0, 0))))
            return
        if exchange.input is Input.COMPLETE:
            return  # its input was closed before: that is no news, and the body stands as it was
        exchange.input = following
        exchange.body.append((kind, content))
        exchange.bytes_in += len(content)
        exchange.input_closed = following is Input.COMPLETE
        if exchange not in ready:
            ready.append(exchange)

    def _params(self, exchange: WebExchange, content: bytes, ready: list[WebExchange]) -> None:
        connections = self._connections
        if content:
            connections.unfinished_params += len(content)
            if not exchange.raw_params:
                exchange.raw_params = content
            else:
                # many records, or small ones: not a copy of all for each
                growing = exchange.growing_params = exchange.growing_params or bytearray(exchange.raw_params)
                growing += content
            if connections.unfinished_params > MAX_UNFINISHED_PARAMS:
                connections.refuse_unfinished()
            elif exchange.size_of_params() > MAX_PARAMS:
                log.warning("%s sent more than %d bytes of PARAMS; answered 431", self._peer(), MAX_PARAMS)
                exchange.fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {MAX_PARAMS} bytes of PARAMS")
            return
        if exchange.growing_params is not None:
            exchange.raw_params, exchange.growing_params = bytes(exchange.growing_params), None
        connections.unfinished_params -= len(exchange.raw_params)
        exchange.input = AFTER_PARAMS[exchange.role]
        exchange.input_closed = exchange.input is Input.COMPLETE
        ready.append(exchange)

    def unfinished_params(self) -> int:
        """Return how many bytes of PARAMS are not whole."""
        return sum(one.size_of_params() for one in self._exchanges.values() if one.input is Input.PARAMS)

    def refuse_unfinished(self, status: HTTPStatus, why: str, began_before: float = math.inf) -> None:
        """Answer the requests whose PARAMS are not whole with an error, if they began before `began_before`."""
        late = [one for one in self._exchanges.values() if one.input is Input.PARAMS and one.began < began_before]
        if late:
            log.warning("%s: %s; answered %d requests with %d", self._peer(), why, len(late), status.value)
        for exchange in late:
            exchange.fail(status, why)

    def _begin(self, request_id: int, content: bytes) -> None:
        if len(content) != 8 or request_id in self._exchanges:
            raise RemoteProtocolError(
                "BEGIN_REQUEST of a request under way"
                if len(content) == 8
                else f"BEGIN_REQUEST of {len(content)} bytes",
                record_type=RecordType.BEGIN_REQUEST,
                request_key=(request_id, 0),
            )
        role, flags = content[0] << 8 | content[1], content[2]
        if role not in AFTER_PARAMS:
            self._answer(end_request(request_id, 0, ProtocolStatus.UNKNOWN_ROLE))
        elif len(self._exchanges) >= MAX_REQUESTS_PER_CONNECTION or self._stopping:
            self._answer(end_request(request_id, 0, ProtocolStatus.OVERLOADED))
        else:
            if not self._exchanges:
                self._unread = False  # all the input of earlier requests has come
            self._used = True
            self._exchanges[request_id] = WebExchange(self, request_id, ROLES[role], flags)
            return
        self._unread = True
        if not flags & KEEP_CONN:
            self._ending, self._moves = True, False

    def _answer(self, encoded: bytes) -> None:
        """Write an answer that needs no application. RemoteProtocolError if a client floods and does not read."""
        if self.paused:
            self._answers += 1
            if self._answers > MAX_ANSWERS:
                raise RemoteProtocolError(f"it does not read {MAX_ANSWERS} answers, and sends more to be answered")
        self.write(encoded)

    def _management(self, kind: int, content: bytes) -> None:
        """Answer a record with request id 0 (section 4)."""
        if kind != RecordType.GET_VALUES:
            self._answer(record(RecordType.UNKNOWN_TYPE, 0, bytes((kind, 0, 0, 0, 0, 0, 0, 0))))
            return
        try:
            asked = decode_pairs(content)
        except ValueError as error:
            raise RemoteProtocolError(str(error), record_type=kind, request_key=(0, 0)) from None
        most = str(self.dispatcher.max_requests)
        values = {"FCGI_MAX_CONNS": most, "FCGI_MAX_REQS": most, "FCGI_MPXS_CONNS": "1"}
        answer = encode_pairs({name: value for name, value in values.items() if name in asked})
        self._answer(record(RecordType.GET_VALUES_RESULT, 0, answer))
