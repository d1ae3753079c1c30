"""The bridge: it sends requests on to a FastCGI server that runs already, php-fpm or another, and its answers back.

A request waits in the pool for a connection. Its input goes out as fast as the server reads, its answer as fast as the
window toward the web side allows; the ends of answers wait for each other for a moment while more requests wait than
the server serves. Errors:

* The server cannot be reached: requests wait for it as they wait for an application, then 502. The queue of the pool is
  full: OVERLOADED, so that the web side may give the request to another application.
* A connection breaks before the answer, and the request is repeatable: it is sent again, unless the request itself
  seems to be the cause. A kept connection breaks because servers close kept connections at any time; a new one breaks
  because the server ended, if the server cannot be reached afterwards. A request that is not repeatable gets a new
  connection.
* The connection breaks before the answer has begun: 502. In the middle: INCOMPLETE, so that the client sees the cut.
* The server closes the connection without END_REQUEST: the answer is complete if its body is as long as Content-Length
  says, or if it has no body. If the server was asked to close the connection, an answer without Content-Length is
  complete, too, as it is for nginx.
* The server is silent for `timeout` seconds: 504, or the same cut.
* The request takes longer than `app.request_limit`: the same, and the connection is closed.
* The client goes away: the connection is closed, which stops FastCGI servers (php-fpm at its next output).
"""

from __future__ import annotations

import asyncio
import logging
import math
from http import HTTPStatus
from typing import TYPE_CHECKING

from ...common.text import name_of_request
from ...hosting.exchange import SAFE_METHODS, error_page
from ...protocol.records import ProtocolStatus, RecordType, Role
from .client import FastcgiConnection
from .pool import FastcgiPool

if TYPE_CHECKING:
    from ..exchange import AppExchange
    from ..helpers import Helpers
    from ..service import AppService

__all__ = ["FastcgiBridge"]

log = logging.getLogger("fcgi_sctp.app")

SWEEP = 1.0
"""Seconds between checks for requests whose server has been silent for too long."""
GATHERED = 6
"""Answers that wait for each other, at most: `Driver.wake` sends after as many, and 12 save nothing more."""
MAX_GATHERED = 8 * 1024
"""Bytes of an answer that waits for others; longer ones fill packets by themselves."""
GATHER = 0.001
"""Seconds that an answer waits for others, at most."""
MAX_REPEATABLE = 64 * 1024
"""Bytes of input that are kept until the answer begins, to send a request again."""
MAX_REPEATS = 2
"""How often a request is sent again: once for a kept connection that breaks, and once for a server that ends."""


class FastcgiBridge:
    """Forwards to the server at `address` (``unix:/PATH`` or ``HOST:PORT``) on at most `connections` connections."""

    def __init__(
        self, address: str, *, connections: int = 5, keep_connections: bool = True, timeout: float = 60.0
    ) -> None:
        self.address = address
        self.connections = connections
        self.keep_connections = keep_connections
        self.timeout = timeout
        self.loop: asyncio.AbstractEventLoop
        self.pool: FastcgiPool
        self._active: set[BridgedRequest] = set()
        self._gathered: list[tuple[AppExchange, int, bytes]] = []
        """Complete answers that wait for others; see `answer`."""
        self._gathering: asyncio.TimerHandle | None = None
        self._sweep_handle: asyncio.TimerHandle | None = None

    async def start(self, service: AppService) -> None:
        self.loop = asyncio.get_running_loop()
        self.pool = FastcgiPool(self.address, self.connections, keep=self.keep_connections)

    def request(self, exchange: AppExchange) -> None:
        if self.pool.full:
            exchange.end(error="too many requests wait for the FastCGI server", status=ProtocolStatus.OVERLOADED)
            return
        request = BridgedRequest(self, exchange)
        self._active.add(request)
        if self._sweep_handle is None:
            self._sweep_handle = self.loop.call_later(SWEEP, self._sweep)
        self.pool.acquire(request)

    async def stop(self) -> None:
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
        self._send_gathered()
        self.pool.close()

    def over(self, request: BridgedRequest) -> None:
        self._active.discard(request)

    def answer(self, exchange: AppExchange, app_status: int, last: bytes) -> None:
        """Send the last part of an answer and its end.

        While more requests wait for a connection than answers wait here, the server has work, and answers go in groups.
        32 clients of two children of php-fpm then cost 0.28 packets from here a request in the place of 0.62.
        """
        self._gathered.append((exchange, app_status, last))
        if len(last) > MAX_GATHERED or len(self._gathered) >= min(GATHERED, len(self.pool.queue)):
            self._send_gathered()
        elif self._gathering is None:
            self._gathering = self.loop.call_later(GATHER, self._send_gathered)

    def _send_gathered(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        gathered, self._gathered = self._gathered, []
        for exchange, app_status, last in gathered:
            exchange.send(last)  # nothing happens if the client has gone meanwhile
            exchange.end(app_status)

    def _sweep(self) -> None:
        self._sweep_handle = None
        limit = self.loop.time() - self.timeout
        for request in tuple(self._active):
            if request.last_activity < limit:
                request.timed_out()
        if self._active:
            self._sweep_handle = self.loop.call_later(SWEEP, self._sweep)


class BridgedRequest:
    """One request on its way through a connection to the server."""

    __slots__ = (
        "_connection",
        "_data_over",
        "_exchange",
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
        self._kept_input: list[tuple[int, bytes]] | None = None
        """The input that was sent, to send it again; None if the request cannot be sent again."""
        if (
            exchange.params.get("REQUEST_METHOD", "") in SAFE_METHODS
            and exchange.input_closed
            and exchange.bytes_in <= MAX_REPEATABLE
            and self._data_over
        ):
            self._kept_input = []
        self._repeats = 0
        self._lost_by = ""
        """Why a new connection broke. The request is sent again only if the server has been away since."""
        self._returns = 0
        """`returns` of the pool at that time."""
        self.last_activity = owner.loop.time()
        exchange.on_abort = self._aborted
        exchange.work = self

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
        self.last_activity = exchange.busy_since = self._owner.loop.time()
        connection.begin(self, exchange.request.raw_params, exchange.request.role, keep=pool.keeps)
        for kind, data in self._kept_input or ():
            connection.send(kind, data)
        exchange.on_input = self.may_send
        exchange.on_writable = self._read_on
        self.may_send()

    def unreachable(self, why: str) -> None:
        # the pool has logged it, once for all requests
        self._give_up(HTTPStatus.BAD_GATEWAY, f"the FastCGI server cannot be reached: {why}", logging.DEBUG)

    # ---- input

    def may_send(self) -> None:
        """Pass on the input that has come, if the server reads; else it stays where the window counts it."""
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
            if not (self._stdin_over and self._data_over):
                exchange.busy_since = math.inf  # until the client has sent the rest
        connection.flush()

    def _send(self, connection: FastcgiConnection, kind: int, data: bytes) -> None:
        self.last_activity = self._exchange.busy_since = self._owner.loop.time()
        connection.send(kind, data)
        if self._kept_input is not None:
            self._kept_input.append((kind, data))

    def _waits_for_input(self) -> bool:
        """Return whether all input that has come went to the server, and more is to come."""
        exchange, connection = self._exchange, self._connection
        if connection is None or connection.paused:
            return False
        return not (self._stdin_over or exchange.body) or not (self._data_over or exchange.data)

    # ---- FastcgiRequest, for the connection

    def output(self, data: bytes) -> None:
        self._kept_input = None
        self.last_activity = self._owner.loop.time()
        exchange = self._exchange
        exchange.send(data)
        if not exchange.writable and self._connection is not None:
            self._connection.stop_reading()
            exchange.busy_since = math.inf

    def _read_on(self) -> None:
        if self._connection is not None:
            self._connection.read_on()
        self._exchange.busy_since = self._owner.loop.time()

    def stderr(self, data: bytes) -> None:
        self.last_activity = self._owner.loop.time()
        exchange = self._exchange
        if not exchange.shared.supervisor.stderr(exchange, data):
            exchange.stderr(data)

    def ended(self, app_status: int, status: ProtocolStatus, last: bytes) -> None:
        exchange = self._exchange
        self._finish()
        if status is ProtocolStatus.REQUEST_COMPLETE:
            self._owner.answer(exchange, app_status, last)
        else:
            exchange.send(last)
            exchange.end(app_status, f"the FastCGI server answered {status.name}", status)

    def is_whole(self, *, closed: bool) -> bool:
        return self._exchange.has_come_whole(closed=closed)

    def lost(self, error: Exception | None) -> None:
        connection = self._connection
        assert connection is not None
        why = f": {error}" if error is not None else ""
        why = f"the FastCGI server closed the connection before the end of its answer{why}"
        if connection.answered or self._kept_input is None or self._repeats == MAX_REPEATS:
            self._give_up(HTTPStatus.BAD_GATEWAY, why)
            return
        self._connection = None
        self._repeats += 1
        self._lost_by = why if connection.requests == 1 else ""
        self._returns = self._owner.pool.returns
        self._exchange.on_input = self._exchange.on_writable = None
        self._exchange.busy_since = math.inf
        self._owner.pool.acquire(self, first=True)

    # ---- the end

    def _aborted(self) -> None:
        """Close the connection to the server: the client has gone."""
        exchange = self._exchange
        self._drop()
        exchange.end(error="the client went away")

    def timed_out(self) -> None:
        if self._connection is not None and (not self._exchange.writable or self._waits_for_input()):
            self.last_activity = self._owner.loop.time()  # the client is the slow one
            return
        what = "sent no answer" if self._connection is not None else "had no free connection"
        self._give_up(HTTPStatus.GATEWAY_TIMEOUT, f"the FastCGI server {what} for {self._owner.timeout:g} s")

    def has_returned(self, helpers: Helpers) -> bool:
        """True: nothing is left of a connection that is closed."""
        return True

    def where(self, helpers: Helpers) -> str:
        """Return '': only the server knows."""
        return ""

    def give_up(self, error: str) -> None:
        """End the exchange and close the connection, which stops FastCGI servers."""
        self._give_up(HTTPStatus.GATEWAY_TIMEOUT, error, logging.DEBUG)

    def write_off(self) -> None:
        raise AssertionError("a connection does not hang")

    def _give_up(self, status: HTTPStatus, why: str, level: int = logging.WARNING) -> None:
        exchange = self._exchange
        log.log(level, "%s: %s", name_of_request(exchange.params), why)
        self._drop()
        if exchange.bytes_out == 0 and status is not HTTPStatus.BAD_GATEWAY:
            exchange.send(error_page(status, exchange.params.get("REQUEST_METHOD", "")))
            exchange.end(error=why)
        else:
            exchange.fail(why)  # if nothing was sent the web side answers 502 or asks another application

    def _drop(self) -> None:
        """Close the connection of the request, or leave the queue."""
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
