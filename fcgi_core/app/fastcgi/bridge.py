"""The bridge: requests go on to a FastCGI server that is there already, php-fpm or another, and its answers come back.

A request waits in the pool for a connection; its input goes out as the server takes it, its answer as the window toward
the web side allows. What goes wrong:

* The server cannot be reached: requests wait for it as they wait for an application, then 502. More wait than the pool
  holds: OVERLOADED, so that the web side may give the request to another application.
* A connection breaks before anything was answered, and the request may be made twice: once more, if that is not the
  request's own fault as far as can be told. A connection that had been kept breaks because servers close those when
  they please; a new one because the server ended, if it cannot be reached then. What may not be made twice gets a new
  connection.
* The connection breaks before the answer has begun: 502. In the middle: INCOMPLETE, so that the client sees the cut.
* The server closes the connection and does not say that the answer is complete: it is if its body is as long as
  Content-Length says, or has none. If the server was to close the connection, and the answer has no Content-Length, it
  is complete, too; nginx does the same.
* Nothing is heard of the server for `timeout` seconds: 504, or the same cut.
* The client goes away: the connection is closed, which is how FastCGI servers stop (php-fpm at its next output).
"""

from __future__ import annotations

import asyncio
import logging
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from ...common.text import name_of_request
from ...hosting.exchange import SAFE_METHODS, error_page, status_of
from ...protocol.records import ProtocolStatus, RecordType, Role
from .client import FastcgiConnection
from .pool import FastcgiPool

if TYPE_CHECKING:
    from ..service import AppExchange, AppService

__all__ = ["FastcgiBridge"]

log = logging.getLogger("fcgi_sctp.app")

SWEEP = 1.0
"""Seconds between looks for requests of which nothing has been heard for too long."""
MAX_REPEATABLE = 64 * 1024
"""Bytes of input that are kept, until the answer begins, to make a request once more."""
MAX_REPEATS = 2
"""A request goes out again at most so often: once for a kept connection that breaks, once for a server that ends."""
MAX_HEAD = 64 * 1024
"""Bytes in which an answer's head must end, to be asked whether the answer is whole."""


class FastcgiBridge:
    """Forwards to the server at `address` (``unix:/PATH`` or ``HOST:PORT``) on at most `connections` connections."""

    def __init__(
        self, address: str, *, connections: int = 5, keep_connections: bool = True, timeout: float = 60.0
    ) -> None:
        self.address = address
        self.connections = connections
        self.keep_connections = keep_connections
        self.timeout = timeout
        self.service: AppService
        self.pool: FastcgiPool
        self._active: set[BridgedRequest] = set()
        self._sweep_handle: asyncio.TimerHandle | None = None

    async def start(self, service: AppService) -> None:
        self.service = service
        self.pool = FastcgiPool(self.address, self.connections, keep=self.keep_connections)

    def request(self, exchange: AppExchange) -> None:
        if self.pool.full:
            exchange.end(error="too many requests wait for the FastCGI server", status=ProtocolStatus.OVERLOADED)
            return
        request = BridgedRequest(self, exchange)
        self._active.add(request)
        if self._sweep_handle is None:
            self._sweep_handle = self.service.loop.call_later(SWEEP, self._sweep)
        self.pool.acquire(request)

    async def stop(self) -> None:
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
        self.pool.close()

    def over(self, request: BridgedRequest) -> None:
        self._active.discard(request)

    def _sweep(self) -> None:
        self._sweep_handle = None
        limit = self.service.loop.time() - self.timeout
        for request in tuple(self._active):
            if request.last_activity < limit:
                request.timed_out()
        if self._active:
            self._sweep_handle = self.service.loop.call_later(SWEEP, self._sweep)


class BridgedRequest:
    """One request on its way through a connection to the server."""

    __slots__ = (
        "_connection",
        "_data_over",
        "_exchange",
        "_head",
        "_kept_input",
        "_lost_by",
        "_owner",
        "_repeats",
        "_returns",
        "_stdin_over",
        "last_activity",
    )

    def __init__(self, owner: FastcgiBridge, exchange: AppExchange) -> None:
        self._owner = owner
        self._exchange = exchange
        self._connection: FastcgiConnection | None = None
        role = exchange.request.role
        self._stdin_over = role is Role.AUTHORIZER
        self._data_over = role is not Role.FILTER
        self._kept_input: list[tuple[RecordType, bytes]] | None = None
        """What was sent of the input while it could be sent again; None: it cannot."""
        if (
            exchange.params.get("REQUEST_METHOD", "") in SAFE_METHODS
            and exchange.input_closed
            and exchange.bytes_in <= MAX_REPEATABLE
            and self._data_over
        ):
            self._kept_input = []
        self._repeats = 0
        self._lost_by = ""
        """Why a new connection broke: it is made again only if the server has been away since."""
        self._returns = 0
        """`returns` of the pool when that connection broke."""
        self._head: list[bytes] = []
        """The beginning of the answer."""
        self.last_activity = owner.service.loop.time()
        exchange.on_abort = self._aborted

    # ---- Waiter, for the pool

    @property
    def repeatable(self) -> bool:
        return self._kept_input is not None and not self._repeats

    def connected(self, connection: FastcgiConnection) -> None:
        exchange, pool = self._exchange, self._owner.pool
        self._connection = connection
        if self._lost_by and self._returns == pool.returns:
            self._give_up(HTTPStatus.BAD_GATEWAY, self._lost_by)
            return
        self.last_activity = self._owner.service.loop.time()
        connection.begin(self, exchange.request.raw_params, exchange.request.role, keep=pool.keeps)
        for kind, data in self._kept_input or ():
            connection.send(kind, data)
        exchange.on_input = self._send_input
        exchange.on_writable = connection.read_on
        self._send_input()

    def unreachable(self, why: str) -> None:
        # the pool has logged it, once for all requests
        self._give_up(HTTPStatus.BAD_GATEWAY, f"the FastCGI server cannot be reached: {why}", logging.DEBUG)

    # ---- input

    def _send_input(self) -> None:
        """Pass on what has come, if the server takes it; else it stays where the window counts it."""
        connection, exchange = self._connection, self._exchange
        if connection is None:
            return
        if not connection.paused:
            if not self._stdin_over:
                if exchange.body:
                    self._send(connection, RecordType.STDIN, exchange.take_body())
                if exchange.input_closed:
                    self._stdin_over = True
                    self._send(connection, RecordType.STDIN, b"")
            if self._stdin_over and not self._data_over:
                if exchange.data:
                    self._send(connection, RecordType.DATA, exchange.take_data())
                if exchange.data_closed:
                    self._data_over = True
                    self._send(connection, RecordType.DATA, b"")
        connection.flush()

    def _send(self, connection: FastcgiConnection, kind: RecordType, data: bytes) -> None:
        self.last_activity = self._owner.service.loop.time()
        connection.send(kind, data)
        if self._kept_input is not None:
            self._kept_input.append((kind, data))

    def _waits_for_input(self) -> bool:
        """Whether all that came of the input has gone to the server, and more is to come."""
        exchange, connection = self._exchange, self._connection
        if connection is None or connection.paused:
            return False
        return not (self._stdin_over or exchange.body) or not (self._data_over or exchange.data)

    # ---- FastcgiRequest, for the connection

    def may_send(self) -> None:
        self._send_input()

    def output(self, data: bytes) -> None:
        self._kept_input = None
        self.last_activity = self._owner.service.loop.time()
        exchange = self._exchange
        if exchange.bytes_out < MAX_HEAD:
            self._head.append(data[:MAX_HEAD])
        exchange.send(data)
        if not exchange.writable and self._connection is not None:
            self._connection.stop_reading()

    def stderr(self, data: bytes) -> None:
        self.last_activity = self._owner.service.loop.time()
        exchange = self._exchange
        if not exchange.service.supervisor.stderr(exchange, data):
            exchange.stderr(data)

    def ended(self, app_status: int, status: ProtocolStatus) -> None:
        exchange = self._exchange
        self._finish()
        if status is ProtocolStatus.REQUEST_COMPLETE:
            exchange.end(app_status)
        else:
            exchange.end(app_status, f"the FastCGI server answered {status.name}", status)

    def is_whole(self, *, closed: bool) -> bool:
        exchange = self._exchange
        method = exchange.params.get("REQUEST_METHOD", "")
        return is_whole(b"".join(self._head), exchange.bytes_out, method, closed=closed)

    def lost(self, error: Exception | None) -> None:
        connection = self._connection
        assert connection is not None
        why = f": {error}" if error is not None else ""
        why = f"the FastCGI server closed the connection before its answer's end{why}"
        if connection.answered or self._kept_input is None or self._repeats == MAX_REPEATS:
            self._give_up(HTTPStatus.BAD_GATEWAY, why)
            return
        self._connection = None
        self._repeats += 1
        self._lost_by = why if connection.requests == 1 else ""
        self._returns = self._owner.pool.returns
        self._exchange.on_input = self._exchange.on_writable = None
        self._owner.pool.acquire(self, first=True)

    # ---- the end

    def _aborted(self) -> None:
        """The client has gone."""
        exchange = self._exchange
        self._drop()
        exchange.end(error="the client went away")

    def timed_out(self) -> None:
        if self._connection is not None and (not self._exchange.writable or self._waits_for_input()):
            self.last_activity = self._owner.service.loop.time()  # it is the client that does not go on
            return
        what = "answered nothing" if self._connection is not None else "had no connection free"
        self._give_up(HTTPStatus.GATEWAY_TIMEOUT, f"the FastCGI server {what} for {self._owner.timeout:g} s")

    def _give_up(self, status: HTTPStatus, why: str, level: int = logging.WARNING) -> None:
        exchange = self._exchange
        log.log(level, "%s: %s", name_of_request(exchange.params), why)
        self._drop()
        if exchange.bytes_out == 0 and status is not HTTPStatus.BAD_GATEWAY:
            exchange.send(error_page(status, exchange.params.get("REQUEST_METHOD", "")))
            exchange.end(error=why)
        else:
            exchange.fail(why)  # with nothing sent the web side makes a 502 of it, or asks another application

    def _drop(self) -> None:
        """Close what the request had, or leave the queue."""
        connection = self._connection
        if connection is not None:
            connection.close()
        else:
            self._owner.pool.forget(self)
        self._finish()

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        self._owner.over(self)
        if connection is not None:
            connection.read_on()
            self._owner.pool.release(connection)


_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


def is_whole(output: bytes, sent: int, method: str, *, closed: bool) -> bool:
    """Whether a CGI response that begins with `output`, and has `sent` bytes up to now, is complete. `closed`: what has
    no length is."""
    end = _END_OF_HEAD.search(output)
    if end is None:
        return False
    head = output[: end.start()]
    if method == "HEAD" or status_of(head) in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return True
    length = _LENGTH.search(head)
    return closed if length is None else sent - end.end() >= int(length[1])
