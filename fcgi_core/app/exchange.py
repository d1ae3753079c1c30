"""A request on its way through an application of any kind."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from ..hosting.delivery import Link
from ..hosting.exchange import Exchange
from ..hosting.supervisor import Supervisor
from ..protocol.application import ApplicationConnection
from ..protocol.records import ProtocolStatus, Role
from ..protocol.request import Request
from .helpers import Helpers

__all__ = ["AppExchange", "Shared", "Work"]

log = logging.getLogger("fcgi_sctp.app")


class Shared:
    """What the requests of an application side share: the loop, the plugins, and the STDERR that threads write."""

    def __init__(self, loop: asyncio.AbstractEventLoop, supervisor: Supervisor) -> None:
        self.loop = loop
        self.supervisor = supervisor
        self.requests_ended = 0
        self.on_change: Callable[[], None] | None = None
        """Called, while the service stops, when a request or an association ended or a web side drains."""
        self.queued_stderr: deque[tuple[AppExchange, bytes]] = deque()
        """STDERR of threads that is not sent yet."""
        self._send_is_due = False

    def queue_stderr(self, exchange: AppExchange, data: bytes) -> None:
        """Send FCGI_STDERR from any thread, before anything that the exchange sends later. RuntimeError if the loop is
        closed."""
        self.queued_stderr.append((exchange, data))
        if not self._send_is_due:
            self._send_is_due = True
            self.loop.call_soon_threadsafe(self.send_queued_stderr)

    def send_queued_stderr(self) -> None:
        """Send the STDERR that threads have queued."""
        self._send_is_due = False
        queue = self.queued_stderr
        for _ in range(len(queue)):  # another call is due for what is queued meanwhile
            exchange, data = queue.popleft()
            exchange.stderr(data)


class Work(Protocol):
    """What runs a request: a thread with it, a task, a connection to another server. For `request_limit`."""

    def has_returned(self, helpers: Helpers) -> bool:
        """Whether the thread has come back, or the task and what worked for it has ended, after `give_up`."""

    def where(self, helpers: Helpers) -> str:
        """Return the frames in which it is; '' if they are not known."""

    def give_up(self, error: str) -> None:
        """End the exchange before the application does: with 504, or cut if the response has begun. `error` is as in
        `AppExchange.end`."""

    def write_off(self) -> None:
        """Do without the thread or task, which hangs."""


class AppExchange(Exchange):
    """One request on its way through the application. Methods are for the loop's thread."""

    __slots__ = (
        "body",
        "busy_since",
        "connection",
        "data",
        "data_closed",
        "ended",
        "input_closed",
        "on_abort",
        "on_input",
        "on_writable",
        "shared",
        "work",
    )

    def __init__(self, shared: Shared, link: Link, request: Request) -> None:
        super().__init__()
        self.shared = shared
        self.link = link
        self.request = request
        self.connection: ApplicationConnection = link.driver.connection
        self.body: list[bytes] = []
        """STDIN that has come and that the application has not read."""
        self.input_closed = request.role is Role.AUTHORIZER  # which has no STDIN (section 6.3)
        self.data: list[bytes] = []
        """For a filter (section 6.4): DATA that has come and that the application has not read."""
        self.data_closed = False
        self.ended = False
        self.on_input: Callable[[], None] | None = None
        """Called when `body`, `data` or one of their ends changed."""
        self.on_abort: Callable[[], None] | None = None
        """Called when the client or the association has gone."""
        self.on_writable: Callable[[], None] | None = None
        """Called when the window has room for all that was sent."""
        self.work: Work | None = None
        """What runs it."""
        self.busy_since = math.inf
        """When the application began with it, or last went on after it had waited for the client; by the clock of
        `began`, and infinite while it waits."""

    @property
    def params(self) -> Mapping[str, str]:
        return self.request.params

    @property
    def raw_params(self) -> bytes:
        return self.request.raw_params

    def _made_identity(self) -> str:
        peer = self.connection.peer_settings
        assert peer is not None
        return f"{peer.instance}.{peer.association}.{self.request.id}.{self.request.generation}"

    def is_whole(self) -> bool:
        # what waits for credit, and is thrown away when the client goes, was not passed on
        return self.request.send_window.sent >= self.bytes_out and super().is_whole()

    def take_body(self) -> bytes:
        """Remove and return the STDIN that has come; the window opens by as much."""
        return self._take(self.body)

    def take_data(self) -> bytes:
        """Remove and return the DATA that has come for a filter; the window opens by as much."""
        return self._take(self.data)

    def _take(self, pieces: list[bytes]) -> bytes:
        data = b"".join(pieces)
        pieces.clear()
        if data and not self.ended:
            self.connection.consumed(self.request, len(data))
            self.link.driver.wake()
        return data

    @property
    def writable(self) -> bool:
        """False while what was sent waits for credit."""
        return self.ended or self.request.writable

    def send(self, data: bytes) -> None:
        """Send a part of the response: CGI header and body, in order."""
        if self.ended or not data:
            return
        if self.shared.queued_stderr:
            self.shared.send_queued_stderr()
        if self.first_byte is None:
            self.first_byte = time.monotonic()
        if not self.head_size:
            self.read_head(data)
        self.bytes_out += len(data)
        self.connection.send_output(self.request, data)
        self.link.driver.wake()

    def stderr(self, data: bytes) -> None:
        """Send FCGI_STDERR; offer it to the plugins before (`Supervisor.stderr`)."""
        if not self.ended:
            connection = self.connection
            dropped = connection.stderr_dropped
            connection.send_stderr(self.request, data)
            dropped = connection.stderr_dropped - dropped
            if dropped:
                log.warning(
                    "%d bytes of STDERR of %s are left out: too many bytes wait to be sent", dropped, self.identity
                )
            self.link.driver.wake()

    def end(
        self, app_status: int = 0, error: str = "", status: ProtocolStatus = ProtocolStatus.REQUEST_COMPLETE
    ) -> None:
        """End the request with a complete response. `error` tells plugins what went wrong in it."""
        if self.ended:
            return
        shared = self.shared
        if shared.queued_stderr:
            shared.send_queued_stderr()
        self.ended = True
        request = self.request
        # without reference cycles the objects of a request are freed at once, without the garbage collector
        request.context = self.on_input = self.on_abort = self.on_writable = self.work = None
        aborted = request.aborted
        shared.supervisor.delivery.send_waiting()  # items of this request go before its end, on their own streams
        self.connection.end_request(request, app_status, status)
        self.link.driver.wake()
        shared.requests_ended += 1
        if shared.supervisor.follows_requests:
            shared.supervisor.request_end(self, self.outcome(aborted=aborted, error=error))
        if shared.on_change is not None:
            shared.on_change()

    def fail(self, error: str) -> None:
        """End the request with an incomplete response: the web server sees it cut, or gets a 502 if nothing was sent.
        `error` tells plugins why."""
        self.end(1, error, ProtocolStatus.INCOMPLETE)
