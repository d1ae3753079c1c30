"""FastCGI toward the web server: a server for nginx and its like, on unix sockets and TCP.

A connection may carry one request after the other (KEEP_CONN) or many at once (HAProxy's multiplexer). Nothing here
knows of SCTP: a `Dispatcher` takes each request when its PARAMS are whole, and answers through the methods of
`WebExchange`.

What web servers need, learned by trying them: STDERR that comes before the response's head fills the buffer that nginx
reads the head into and ends in a 502, so as much of it goes first as leaves the head room there (fastcgi_catch_stderr
looks at no other), and the rest after the head; records are sent unpadded, 16 KiB at most; a response that breaks off
after it began can only be told by closing the connection, for END_REQUEST would make it look whole; and a connection
that is closed while input of it is unread takes the answer along, so that is read first.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Protocol, cast

from ..errors import RemoteProtocolError
from ..hosting.byte_stream import KEEP_CONN, RecordReader, find_value
from ..hosting.exchange import Exchange, error_page
from ..protocol.records import (
    HEADER_SIZE,
    MAX_PARAMS,
    PREFERRED_CONTENT,
    ROLES,
    ProtocolStatus,
    RecordType,
    Role,
    decode_pairs,
    encode_pairs,
    end_request,
    header,
    record,
    stream_records,
    values_of,
)
from ..protocol.states import AFTER_PARAMS, INPUT, Input

__all__ = ["Connections", "Dispatcher", "DownstreamConnection", "WebExchange"]

log = logging.getLogger("fcgi_sctp.web")

MAX_REQUESTS_PER_CONNECTION = 1024
"""Requests at once on one connection of a multiplexing client; HAProxy's own limit is 100 by default."""
MAX_HELD_STDERR = 32 * 1024
"""Bytes of STDERR held until the response's head comes; nginx logs 2 KiB of it. The plugins have it all."""
RECORD_COST = 128
"""Bytes that keeping a piece of input or STDERR costs beside its content."""
HEAD_BUFFER = 4096 - 256
"""Bytes that the response's head and the STDERR before it may have together: nginx reads them into one page
(fastcgi_buffer_size), and stalls if the head ends just where that does."""
MAX_UNREAD_STDERR = 256 * 1024
"""Bytes of STDERR that wait on a connection whose web server does not read; what is beyond is left out and reported."""
MAX_UNFINISHED_PARAMS = 64 << 20
"""Bytes of PARAMS that are not whole, those of all connections together: 64 requests with as much as MAX_PARAMS."""
PARAMS_WITHIN = 60.0
"""Seconds that a request's PARAMS may take; a web server has them all when it begins. nginx' fastcgi_send_timeout."""
LINGER_FOR = 30.0
"""Seconds for which a connection that is to be closed is read on, so that its web server can read the answer; nginx'
lingering_time."""
LINGER_BYTES = 256 << 20
"""Bytes that are then thrown away at most; php-fpm knows no bound."""
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
        "_held_bytes",
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
        "overloaded_at",
        "queue_deadline",
        "raw_params",
        "role",
        "state",
        "tried_again",
        "waiting_bytes",
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
        self.overloaded_at = 0.0
        """When an application first refused it because it had too much to do, in the loop's time; 0: none has."""
        self.waiting_bytes = 0
        """What it holds, as the dispatcher counts it while it waits for an application."""
        self.tried_again = False
        """It was given to a second application after the first was lost."""
        self.dispatched = False
        self.over = False
        """Nothing more is sent for it."""
        self.state: object = None
        """The dispatcher's own."""
        self.last_activity = self.began
        self._held_stderr: list[bytes] | None = []
        """STDERR that came before the response's head; None once that has gone."""
        self._held_bytes = 0
        self._owed = 0

    def size_of_input(self) -> int:
        """Bytes that keeping its input costs, while all that has come of it is kept."""
        return self.bytes_in + len(self.body) * RECORD_COST

    def size_of_params(self) -> int:
        """Bytes of PARAMS that have come."""
        growing = self.growing_params
        return len(self.raw_params) if growing is None else len(growing)

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
            self.body.clear()  # nobody is given the request again
        if not self.head_size:
            self.read_head(data)
        after = None
        if self._held_stderr:
            after = self._send_held(self.head_size or max(len(data), HEAD_BUFFER // 2))
        else:
            self._held_stderr = None
        self.bytes_out += len(data)
        for start in range(0, len(data), PREFERRED_CONTENT):  # once: what came over SCTP was cut to that
            part = data if len(data) <= PREFERRED_CONTENT else data[start : start + PREFERRED_CONTENT]
            if len(part) < LONG_PART:
                downstream.write(record(RecordType.STDOUT, self.id, part))
            else:
                downstream.write(header(RecordType.STDOUT, self.id, len(part)))
                downstream.write(part)
        if after:
            for text in after:
                self.send_stderr(text)
        if downstream.paused:
            self._owed += len(data)
        else:
            downstream.dispatcher.consumed(self, len(data))

    def send_stderr(self, data: bytes) -> None:
        """Part of STDERR."""
        if self.over:
            return
        downstream = self.downstream
        held = self._held_stderr
        if held is not None:
            self._held_bytes += len(data) + RECORD_COST
            if self._held_bytes <= MAX_HELD_STDERR:
                held.append(data)
            else:
                downstream.left_out(self, len(data))
        elif downstream.takes_stderr(len(data)):
            for encoded in stream_records(RecordType.STDERR, self.id, data):
                downstream.write(encoded)
        else:
            downstream.left_out(self, len(data))

    def _send_held(self, head: int) -> list[bytes]:
        """Send of the STDERR that is held what leaves room for a head of `head` bytes in the web server's buffer; what
        is to be sent after the head is returned."""
        held, self._held_stderr = self._held_stderr or [], None
        room = HEAD_BUFFER - HEADER_SIZE - head
        for position, text in enumerate(held):
            room -= HEADER_SIZE
            if room < len(text):
                if room <= 0:
                    return held[position:]
                self.downstream.write(record(RecordType.STDERR, self.id, text[:room]))
                return [text[room:], *held[position + 1 :]]
            self.downstream.write(record(RecordType.STDERR, self.id, text))
            room -= len(text)
        return []

    def end(self, app_status: int = 0, status: ProtocolStatus = ProtocolStatus.REQUEST_COMPLETE) -> None:
        """The answer is complete."""
        if self.over:
            return
        if self._held_stderr:  # there is no head
            held, self._held_stderr = self._held_stderr, None
            for text in held:
                self.send_stderr(text)
        self.over = True
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
        # why, before what the application itself had to say
        self._held_stderr = [f"fcgi-sctp: {why}".encode("utf-8", "replace")[:1024], *(self._held_stderr or ())]
        after = self._send_held(len(page))
        self.downstream.write(record(RecordType.STDOUT, self.id, page))
        self.bytes_out = len(page)
        for text in after:
            self.send_stderr(text)
        self.end()

    def is_whole(self) -> bool:
        return not self.downstream.paused and super().is_whole()

    def waits_for_web_server(self) -> bool:
        """Whether it is the web server that does not go on, which does not read the answer or has not sent all of the
        input that is wanted of it."""
        downstream = self.downstream
        if downstream.paused:
            return True
        if self.input_closed or downstream.is_held_up_by(self):
            return False
        length = self.params.get("CONTENT_LENGTH", "")  # all of it has come if only the record that closes STDIN misses
        return not (length.isdecimal() and self.bytes_in >= int(length[:18]))

    def drained(self) -> None:
        """The socket takes more again."""
        self.last_activity = time.monotonic()
        if self._owed:
            owed, self._owed = self._owed, 0
            self.downstream.dispatcher.consumed(self, owed)


class Connections:
    """All connections of web servers. Those with something to send write at the end of the loop's turn, each once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: set[DownstreamConnection] = set()
        self._writing: list[DownstreamConnection] = []
        self.unfinished_params = 0
        """Bytes of PARAMS that are not whole."""
        self.stderr_left_out = 0
        """Bytes of STDERR that web servers did not take."""
        self.on_closed: Callable[[], None] = lambda: None
        """Called when one has been closed."""

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
        """Whether one has no requests, which after its `stop` is one whose last answer is still on its way."""
        return any(connection.is_idle for connection in self._open)

    def refuse_unfinished(self) -> None:
        """There are too many PARAMS that are not whole: refuse the requests of the connection that holds most."""
        most = max(self._open, key=lambda one: one.unfinished_params())
        most.refuse_unfinished(HTTPStatus.SERVICE_UNAVAILABLE, "too many PARAMS are not whole")

    def refuse_late(self) -> None:
        """Refuse the requests whose PARAMS take too long."""
        if self.unfinished_params:
            limit = time.monotonic() - PARAMS_WITHIN
            for connection in tuple(self._open):
                why = f"PARAMS were not whole after {PARAMS_WITHIN:g} s"
                connection.refuse_unfinished(HTTPStatus.REQUEST_TIMEOUT, why, began_before=limit)

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
        self._full: set[WebExchange] = set()
        """Exchanges of which no more input is wanted now. As long as there are any the socket is not read, and nothing
        else keeps it from being read."""
        self._unread = False
        """Input of a request that is over may still come."""
        self._lingering: asyncio.TimerHandle | None = None
        """While it is read only so that the web server can read the last answer."""
        self._thrown_away = 0
        self._answers = 0
        self._stderr_waiting = 0
        self._stderr_left_out = 0

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._lingering is not None:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self._transport.close()
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
            if not exchange.over:
                if exchange.dispatched:
                    self.dispatcher.more_input(exchange)
                else:
                    exchange.dispatched = True
                    self.dispatcher.dispatch(exchange)

    def eof_received(self) -> None:
        """The transport closes. uvloop would do so without this; to asyncio's own loop its absence is an error."""

    def connection_lost(self, error: Exception | None) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
        self._give_up_requests()
        self._tell_left_out()
        self._connections.discard(self)

    def _give_up_requests(self) -> None:
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            if exchange.input is Input.PARAMS:
                self._connections.unfinished_params -= exchange.size_of_params()
            self.read_on(exchange)
            if not exchange.over:
                exchange.over = True
                if exchange.dispatched:
                    self.dispatcher.client_gone(exchange)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._answers = 0
        self._stderr_waiting = 0
        self._tell_left_out()
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
        """Nothing more is written for the exchange; its END_REQUEST stands in the queue, or goes there now."""
        self._exchanges.pop(exchange.id, None)
        if exchange.input is Input.PARAMS:
            self._connections.unfinished_params -= exchange.size_of_params()
        if exchange.input is not Input.COMPLETE or exchange.role is Role.AUTHORIZER:  # whose STDIN clients close
            self._unread = True
        if not exchange.flags & KEEP_CONN:
            self._close_after = True
        if self._full:
            self.read_on(exchange)

    def break_off(self, exchange: WebExchange) -> None:
        """Close the connection, so that the response is seen to be cut."""
        self.write(NO_RECORD)
        self.finished(exchange)
        self._give_up_requests()  # no more can be written for the others
        self._close_after = True
        self.flush()

    def takes_stderr(self, size: int) -> bool:
        """Whether so many bytes of STDERR may be written. Nothing else bounds them: STDERR has no window."""
        if self.paused:
            self._stderr_waiting += size
        return self._stderr_waiting <= MAX_UNREAD_STDERR

    def left_out(self, exchange: WebExchange, size: int) -> None:
        """So many bytes of the exchange's STDERR are not written."""
        self._stderr_left_out += size
        self._connections.stderr_left_out += size

    def _tell_left_out(self) -> None:
        if self._stderr_left_out:
            log.warning("%s did not take %d bytes of STDERR; they are left out", self._peer(), self._stderr_left_out)
            self._stderr_left_out = 0

    def stop_reading(self, exchange: WebExchange) -> None:
        """No more input of the exchange is wanted before `read_on`: let the socket fill up. A connection's requests
        stop together."""
        if not self._full and not self._transport.is_closing():
            self._transport.pause_reading()
        self._full.add(exchange)

    def read_on(self, exchange: WebExchange) -> None:
        """Input of the exchange is wanted again, or it is over."""
        if exchange in self._full:
            self._full.discard(exchange)
            if not self._full and not self._transport.is_closing():
                self._transport.resume_reading()

    def is_held_up_by(self, exchange: WebExchange) -> bool:
        """Whether no more input of the exchange is wanted now."""
        return exchange in self._full

    def stop(self) -> None:
        """End when the requests under way have ended; at once if there are none."""
        self._stopping = True
        self.flush()

    @property
    def is_idle(self) -> bool:
        """Whether there are no requests on it."""
        return not self._exchanges

    def abort(self) -> None:
        self._transport.abort()

    def flush(self) -> None:
        """Hand what is queued to the socket."""
        out, self._out = self._out, []
        if out and self._lingering is None and not self._transport.is_closing():
            if len(out) == 1:
                self._transport.write(out[0])
            elif self._has_long:
                self._transport.writelines(out)
            else:
                self._transport.write(b"".join(out))
        self._has_long = False
        if (self._close_after or self._stopping) and not self._exchanges:
            self._close()

    def _close(self) -> None:
        """Close when all that is written has gone. If input may still come it is read, for a while, and thrown away:
        to close a socket with unread input, or before it comes, is to reset the connection (RFC 1122 section
        4.2.2.13), and the web server reads nothing of the answer any more."""
        transport = self._transport
        if self._lingering is not None or transport.is_closing():
            return
        if not self._unread and not self._reader.inside_record:
            transport.close()
            return
        self._lingering = self._loop.call_later(LINGER_FOR, self._linger_no_more)
        try:
            transport.write_eof()
        except OSError:
            transport.abort()  # the web server has gone

    def _linger_no_more(self) -> None:
        if self._transport.get_write_buffer_size():
            # the answer is still on its way to a slow reader
            self._lingering = self._loop.call_later(LINGER_FOR, self._linger_no_more)
        else:
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
            self.finished(exchange)
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
        """Bytes of PARAMS that are not whole."""
        return sum(one.size_of_params() for one in self._exchanges.values() if one.input is Input.PARAMS)

    def refuse_unfinished(self, status: HTTPStatus, why: str, began_before: float = math.inf) -> None:
        """Answer the requests whose PARAMS are not whole with an error, if they began before `began_before`."""
        late = [one for one in self._exchanges.values() if one.input is Input.PARAMS and one.began < began_before]
        if late:
            log.warning("%s: %s; answered %d requests %d", self._peer(), why, len(late), status.value)
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
                self._unread = False  # of those before it all has come
            self._exchanges[request_id] = WebExchange(self, request_id, ROLES[role], flags)
            return
        self._unread = True
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
