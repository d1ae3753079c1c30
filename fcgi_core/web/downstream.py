"""FastCGI toward the web server: a server for nginx and its like, on unix sockets and TCP.

A connection may carry one request after the other (KEEP_CONN) or many at once (HAProxy's multiplexer). Nothing here
knows of SCTP: a `Dispatcher` takes each request when its PARAMS are whole, and answers through the methods of
`WebExchange`.

What web servers need, learned by trying them: STDERR before the response's head fills nginx's header buffer and ends in
a 502, so it is held until the head has gone; records are sent unpadded, 16 KiB at most; and a response that breaks off
after it began can only be told by closing the connection, for END_REQUEST would make it look whole.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Protocol, cast

from ..errors import RemoteProtocolError
from ..exchange import Exchange, error_page, status_of
from ..records import (
    KEEP_CONN,
    MAX_PARAMS,
    PREFERRED_CONTENT,
    ROLES,
    ProtocolStatus,
    RecordReader,
    RecordType,
    Role,
    decode_pairs,
    encode_pairs,
    end_request,
    find_value,
    header,
    record,
    stream_records,
    values_of,
)
from ..states import AFTER_PARAMS, INPUT, Input

__all__ = ["Connections", "Dispatcher", "DownstreamConnection", "WebExchange"]

log = logging.getLogger("fcgi_sctp.web")

MAX_REQUESTS_PER_CONNECTION = 1024
"""Requests at once on one connection of a multiplexing client; HAProxy's own limit is 100 by default."""
MAX_HELD_STDERR = 32 * 1024
"""Bytes of STDERR held until the response's head has gone; nginx logs 2 KiB of it. The plugins have it all."""
HIGH_WATER = 64 * 1024
"""Bytes in the socket's write buffer beyond which a response is not read on; asyncio's own default."""
MAX_ANSWERS = 10_000
"""Answers to management records and refused requests that wait in the socket's write buffer; 16 bytes each and more."""
LONG_PART = 4096
"""Bytes from which on a record's content goes to the socket as it is, and is not copied to stand with others."""
NO_RECORD = bytes(8)
"""Sent where a response breaks off: no record, for its version is 0. Closing alone does not do: nginx takes the end of
an unbuffered response without a length for its proper end, however it comes."""


class Dispatcher(Protocol):
    """Who takes requests further."""

    max_requests: int

    def dispatch(self, exchange: WebExchange) -> None:
        """PARAMS are whole; `exchange.body` holds STDIN as far as it came, `exchange.input_closed` tells if that is
        all."""

    def more_input(self, exchange: WebExchange) -> None:
        """`exchange.body` or `exchange.input_closed` changed after dispatch."""

    def client_gone(self, exchange: WebExchange) -> None:
        """Nobody waits for the answer any more; the exchange is over."""

    def consumed(self, exchange: WebExchange, count: int) -> None:
        """So many bytes of the response have gone toward the client."""


class WebExchange(Exchange):
    """One request of a web server and its answer."""

    __slots__ = (
        "_held_stderr",
        "_owed",
        "_params",
        "_server_name",
        "body",
        "can_be_sent_again",
        "dispatched",
        "downstream",
        "flags",
        "growing_params",
        "id",
        "input",
        "input_closed",
        "keep_connection",
        "last_activity",
        "over",
        "queue_deadline",
        "raw_params",
        "role",
        "state",
        "tried_again",
    )

    def __init__(self, downstream: DownstreamConnection, request_id: int, role: Role, flags: int) -> None:
        super().__init__()
        self.downstream = downstream
        self.id = request_id
        """The web server's request id, on its connection."""
        self.role = role
        self.flags = flags
        self.input = Input.PARAMS
        self.raw_params: bytes = b""
        self.growing_params: bytearray | None = None
        """Theirs, while they come in more than one record."""
        self._params: dict[str, str] | None = None
        self._server_name: str | None = None
        self.body: list[tuple[int, bytes]] = []
        """What has come of STDIN (or DATA) and was not passed on; empty content marks an end."""
        self.input_closed = False
        """All of the input has come; with what is in `body`, it is whole."""
        self.can_be_sent_again = False
        """`body` still holds all of the input: another application could be given the request."""
        self.queue_deadline = 0.0
        """When it will have waited for an application for long enough, in the loop's time; 0: it has not waited yet."""
        self.tried_again = False
        """It was given to a second application after the first was lost."""
        self.dispatched = False
        self.over = False
        """Nothing more is sent for it."""
        self.state: object = None
        """The dispatcher's own."""
        self.last_activity = self.began
        self._held_stderr: list[bytes] | None = []
        self._owed = 0

    @property
    def params(self) -> Mapping[str, str]:
        if self._params is None:
            try:
                self._params = decode_pairs(self.raw_params)
            except ValueError:
                self._params = {}  # the application refuses the request; they are not read here until somebody asks
        return self._params

    @property
    def server_name(self) -> str:
        name = self._server_name
        if name is None:
            name = find_value(self.raw_params, b"SERVER_NAME") if self._params is None else None
            name = self._server_name = self.params.get("SERVER_NAME", "") if name is None else name
        return name

    def _given_identity(self) -> str:
        params = self.raw_params
        if b"REQUEST_ID" not in params:
            return ""  # as where nginx has its usual fastcgi_params; a look at every pair takes nearly twice as long
        try:
            return values_of(params, (b"REQUEST_ID",))[0]
        except ValueError:
            return ""  # as for `params`

    def _made_identity(self) -> str:
        if not hasattr(self, "request"):
            return f"unsent.{self.id}"  # no application took it
        settings = self.link.connection.settings
        return f"{settings.instance}.{settings.association}.{self.request.id}.{self.request.generation}"

    # ---- the answer

    def send_output(self, data: bytes) -> None:
        """Part of STDOUT, one record's content as it came."""
        downstream = self.downstream
        if self.over:
            return
        self.last_activity = now = time.monotonic()
        if self.first_byte is None:
            self.first_byte = now
            self.status = status_of(data)
        self.bytes_out += len(data)
        for start in range(0, len(data), PREFERRED_CONTENT):  # once: what came over SCTP was cut to that
            part = data if len(data) <= PREFERRED_CONTENT else data[start : start + PREFERRED_CONTENT]
            if len(part) < LONG_PART:
                downstream.write(record(RecordType.STDOUT, self.id, part))
            else:
                downstream.write(header(RecordType.STDOUT, self.id, len(part)))
                downstream.write(part)
        if self._held_stderr:
            # the head goes with the first output: real applications send it whole
            held, self._held_stderr = self._held_stderr, None
            for text in held:
                self.send_stderr(text)
        if downstream.paused:
            self._owed += len(data)
        else:
            downstream.dispatcher.consumed(self, len(data))

    def send_stderr(self, data: bytes) -> None:
        """Part of STDERR."""
        if self.over:
            return
        if self.first_byte is None and self._held_stderr is not None:
            if sum(map(len, self._held_stderr)) + len(data) <= MAX_HELD_STDERR:
                self._held_stderr.append(data)
            return
        for encoded in stream_records(RecordType.STDERR, self.id, data):
            self.downstream.write(encoded)

    def end(self, app_status: int = 0, status: ProtocolStatus = ProtocolStatus.REQUEST_COMPLETE) -> None:
        """The answer is complete."""
        if self.over:
            return
        if self.first_byte is None and self._held_stderr:
            self.first_byte = time.monotonic()
            for text in self._held_stderr:
                self.send_stderr(text)
        self.over = True
        self._held_stderr = None
        self.body.clear()  # nobody sends it again, and the exchange may be remembered for a while
        self.downstream.write(end_request(self.id, app_status, status, closing=self.bytes_out > 0))
        self.downstream.finished(self)

    def fail(self, status: HTTPStatus, why: str, retry_after: int | None = None) -> None:
        """There will be no (more) answer from the application: say so as a web server expects it."""
        if self.over:
            return
        if self.first_byte is not None:
            # END_REQUEST would make the response look whole
            self.over = True
            self.downstream.break_off(self)
            return
        page = error_page(status, self.params.get("REQUEST_METHOD", ""), retry_after)
        self.status = status.value
        self._held_stderr = None
        self.downstream.write(record(RecordType.STDERR, self.id, f"fcgi-sctp: {why}".encode("utf-8", "replace")[:1024]))
        self.downstream.write(record(RecordType.STDOUT, self.id, page))
        self.bytes_out = len(page)
        self.end()

    def drained(self) -> None:
        """The socket takes more again."""
        if self._owed:
            owed, self._owed = self._owed, 0
            self.downstream.dispatcher.consumed(self, owed)


class Connections:
    """All connections of web servers. Those with something to send write at the end of the loop's turn, each once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: set[DownstreamConnection] = set()
        self._writing: list[DownstreamConnection] = []

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[DownstreamConnection]:
        return iter(tuple(self._open))

    def add(self, connection: DownstreamConnection) -> None:
        self._open.add(connection)

    def discard(self, connection: DownstreamConnection) -> None:
        self._open.discard(connection)

    def write_soon(self, connection: DownstreamConnection) -> None:
        if not self._writing:
            self._loop.call_soon(self._write)
        self._writing.append(connection)

    def _write(self) -> None:
        writing, self._writing = self._writing, []
        for connection in writing:
            connection.flush()


class DownstreamConnection:
    """One connection of a web server."""

    def __init__(self, dispatcher: Dispatcher, connections: Connections) -> None:
        self.dispatcher = dispatcher
        self.paused = False
        """The socket's write buffer is full."""
        self._connections = connections
        self._exchanges: dict[int, WebExchange] = {}
        self._reader = RecordReader()
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._has_long = False
        """Whether something in it is too long to be copied once more."""
        self._close_after = False
        self._stopping = False
        self._reading_paused = False
        self._answers = 0

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
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
            if not exchange.over:
                if exchange.dispatched:
                    self.dispatcher.more_input(exchange)
                else:
                    exchange.dispatched = True
                    self.dispatcher.dispatch(exchange)

    def eof_received(self) -> None:
        """The transport closes. uvloop would do so without this; to asyncio's own loop its absence is an error."""

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            if not exchange.over:
                exchange.over = True
                if exchange.dispatched:
                    self.dispatcher.client_gone(exchange)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._answers = 0
        for exchange in tuple(self._exchanges.values()):
            exchange.drained()

    # ---- the dispatcher's side

    def write(self, encoded: bytes) -> None:
        """Queue a record, or one of its parts; all of a turn of the loop goes in one write."""
        if not self._out:
            self._connections.write_soon(self)
        self._out.append(encoded)
        if len(encoded) >= LONG_PART:
            self._has_long = True

    def finished(self, exchange: WebExchange) -> None:
        """The exchange's END_REQUEST stands in the queue."""
        self._exchanges.pop(exchange.id, None)
        if not exchange.flags & KEEP_CONN:
            self._close_after = True
        if self._stopping and not self._exchanges:
            self._close_after = True
        if exchange.input is not Input.COMPLETE and self._reading_paused:
            self.read_on()

    def break_off(self, exchange: WebExchange) -> None:
        """Close the connection, so that the response is seen to be cut."""
        self._out.append(NO_RECORD)
        self.flush()
        self._transport.close()

    def stop_reading(self) -> None:
        """The window of a request's body is full: let the socket fill up. A connection's requests stop together."""
        if not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def read_on(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def stop(self) -> None:
        """End when the requests under way have ended; at once if there are none."""
        self._stopping = True
        if not self._exchanges:
            self.flush()
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def flush(self) -> None:
        """Hand what is queued to the socket."""
        out, self._out = self._out, []
        if out and not self._transport.is_closing():
            if len(out) == 1:
                self._transport.write(out[0])
            elif self._has_long:
                self._transport.writelines(out)
            else:
                self._transport.write(b"".join(out))
        self._has_long = False
        if self._close_after and not self._exchanges:
            self._transport.close()

    # ---- records

    def _record(self, kind: int, request_id: int, content: bytes, ready: list[WebExchange]) -> None:
        if request_id == 0:
            self._management(kind, content)
            return
        if kind == RecordType.BEGIN_REQUEST:
            self._begin(request_id, content)
            return
        exchange = self._exchanges.get(request_id)
        if exchange is None or exchange.over:
            return  # it crossed the request's end (section 3.3: such records are ignored)
        if kind == RecordType.ABORT_REQUEST:
            exchange.over = True
            self._exchanges.pop(request_id)
            if exchange.dispatched:
                self.dispatcher.client_gone(exchange)
            self._answer(end_request(request_id))
            return
        if kind == RecordType.PARAMS and exchange.input is Input.PARAMS:
            self._params(exchange, content, ready)
            return
        following = INPUT.get((exchange.input, kind, not content))
        if following is None:
            if kind in (RecordType.PARAMS, RecordType.STDIN, RecordType.DATA):
                raise RemoteProtocolError(
                    f"not what comes next, which is: {exchange.input.value}",
                    record_type=kind,
                    request_key=(request_id, 0),
                )
            self._answer(record(RecordType.UNKNOWN_TYPE, 0, bytes((kind, 0, 0, 0, 0, 0, 0, 0))))
            return
        exchange.input = following
        exchange.body.append((kind, content))
        exchange.bytes_in += len(content)
        exchange.input_closed = following is Input.COMPLETE
        if exchange not in ready:
            ready.append(exchange)

    def _params(self, exchange: WebExchange, content: bytes, ready: list[WebExchange]) -> None:
        if content:
            if not exchange.raw_params:
                exchange.raw_params = content
                return
            # many records, or small ones: not a copy of all for each
            growing = exchange.growing_params = exchange.growing_params or bytearray(exchange.raw_params)
            growing += content
            if len(growing) > MAX_PARAMS:
                log.warning("%s sent more than %d bytes of PARAMS; answered 431", self._peer(), MAX_PARAMS)
                exchange.fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {MAX_PARAMS} bytes of PARAMS")
            return
        if exchange.growing_params is not None:
            exchange.raw_params, exchange.growing_params = bytes(exchange.growing_params), None
        exchange.input = AFTER_PARAMS[exchange.role]
        exchange.input_closed = exchange.input is Input.COMPLETE
        ready.append(exchange)

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
            self._exchanges[request_id] = WebExchange(self, request_id, ROLES[role], flags)
            return
        if not flags & KEEP_CONN:
            self._close_after = True

    def _answer(self, encoded: bytes) -> None:
        """Answer what needs no application; a client that floods and does not read the answers is given up."""
        if self.paused:
            self._answers += 1
            if self._answers > MAX_ANSWERS:
                raise RemoteProtocolError(f"{MAX_ANSWERS} answers wait, and more of what they answer comes")
        self.write(encoded)

    def _management(self, kind: int, content: bytes) -> None:
        """Records with request id 0 (section 4)."""
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

    def _peer(self) -> str:
        name = self._transport.get_extra_info("peername")
        return (
            f"the web server at {name[0]}:{name[1]}" if isinstance(name, tuple) else "the web server on the unix socket"
        )
