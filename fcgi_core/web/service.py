"""The web side of the program: requests of the web server in, associations with applications out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import NamedTuple, cast

from ..common.unix_socket import BACKLOG, UnixSocket
from ..errors import FcgiSctpError, RequestRefused
from ..hosting.discovery import EnabledPlugin
from ..hosting.supervisor import Supervisor
from ..hosting.switching import change_plugins, switches_off
from ..plugin import FeedEntry
from ..protocol.settings import Settings, new_instance
from ..protocol.web import WebConnection
from ..sctp.carrier import Address, Carrier
from ..sctp.endpoints import advertised
from .balance import choose
from .downstream import Connections, DownstreamConnection, WebExchange
from .faults import FaultFeed, about
from .feed import Feed
from .probe import ProbeOptions
from .upstream import Upstream

__all__ = ["ListenError", "WebOptions", "WebService"]

log = logging.getLogger("fcgi_sctp.web")

SWEEP = 1.0
"""Seconds between looks for requests whose time is up."""
MAX_QUEUED_INPUT = 64 * 1024
"""Bytes of a waiting request's body beyond which its connection is not read on."""
MAX_WAITING_BYTES = 256 << 20
"""Bytes of PARAMS and bodies of waiting requests beyond which the next is answered 503: 27 KiB for each of 10,000."""
OVERLOADED_FOR = 1.0
"""Seconds after an application's first refusal of a request, because it has more to do than it takes, from which on
the next refusal is answered 503; a FastCGI server whose backlog is full refuses at once."""
LAST_WORD = 0.5
"""Seconds that applications have at the end to say that they send no more to plugins: a few round trips."""


REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods whose requests may be made twice: the safe ones (RFC 9110 section 9.2.1). PUT and DELETE are idempotent, but
real applications' are not always; nginx repeats them, Apache httpd does not."""


class ListenError(FcgiSctpError):
    """The address that the web server is to connect to cannot be listened at."""


class BackEndOptions(NamedTuple):
    """One application to connect to."""

    address: Address
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class WebOptions:
    """What the web side can be told. Times are seconds."""

    request_timeout: float = 60.0
    """Longest silence of an application in a request before it is answered 504; nginx's fastcgi_read_timeout."""
    queue_timeout: float = 10.0
    """How long a request waits for an application to come back before it is answered 503."""
    queue_length: int = 10_000
    """Requests that wait at most; the next is answered 503 at once."""
    slow_start: float = 10.0
    """How long an application that returned takes to get its whole share."""
    probes: ProbeOptions | None = None
    """What each application is asked now and then to see whether it answers."""
    socket_mode: int = 0o666
    """Permissions of the unix socket toward the web server, which runs as another user."""
    socket_group: str | None = None
    """Group that may connect to it."""
    max_workers: int = 64
    """Workers of one application that are connected to at most."""
    needs_feed: bool = True
    """Whether it is an error that the live feed cannot be offered."""


class WebService:
    """Listens for a web server and keeps associations with applications."""

    def __init__(
        self,
        carrier: Carrier,
        listen: Sequence[str],
        connect: Sequence[BackEndOptions],
        *,
        plugins: Sequence[EnabledPlugin] = (),
        settings: Settings | None = None,
        feed: Feed | None = None,
        options: WebOptions | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.options = options or WebOptions()
        self._carrier = carrier
        self._listen = listen
        self._settings = replace(settings or Settings(), instance=new_instance())
        self._feed = feed
        self._faults: FaultFeed | None = None
        self.supervisor = Supervisor(
            plugins,
            self._loop,
            self._loop.call_soon_threadsafe,
            web=True,
            process_name=self._settings.name,
            publish_all=self._publish_all,
        )
        self.upstreams = [
            Upstream(
                one.address,
                carrier,
                self,
                self._loop,
                weight=one.weight,
                slow_start=self.options.slow_start,
                probes=self.options.probes,
            )
            for one in connect
        ]
        self.max_requests = self._settings.max_requests * len(self.upstreams)
        self._connections = Connections()
        self.requests_ended = 0
        self._active: set[WebExchange] = set()
        self._queue: deque[tuple[float, WebExchange]] = deque()
        self._waiting_bytes = 0
        """Bytes that the requests in it hold."""
        self._servers: list[asyncio.Server] = []
        self._unix_sockets: list[UnixSocket] = []
        self._association = 0
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event | None = None

    async def start(self) -> None:
        """Start to connect, then to listen. ListenError."""
        if self._feed is not None:
            try:
                await self._feed.start()
            except OSError as error:
                why = f"cannot offer the live feed at {self._feed.path}: {getattr(error, 'strerror', None) or error}"
                if self.options.needs_feed:
                    raise ListenError(why) from error
                log.warning("%s; going on without", why)
                self._feed = None
        if self._feed is not None:
            self._faults = FaultFeed(self._feed.publish, self._loop)
            log.addHandler(self._faults)
        for upstream in self.upstreams:
            upstream.start()
        try:
            for where in self._listen:
                self._servers.append(await self._open(where))
                log.info("listening for the web server at %s", where)
        except ListenError:
            for unix in self._unix_sockets:
                unix.close()
            self._close_feed()
            raise
        self._sweep()

    async def stop(self, grace: float = 10.0) -> None:
        """Take no new connections, let requests end within `grace` seconds, then close everything."""
        for server in self._servers:
            server.close()
        for unix in self._unix_sockets:
            unix.close()
        for connection in self._connections:
            connection.stop()
        self._idle = asyncio.Event()
        self._connections.on_closed = self._idle.set
        try:
            async with asyncio.timeout(grace):
                # until the last answers have gone, too
                while self._active or self._queue or self._connections.are_closing():
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            left = len(self._active) + len(self._queue)
            if left:
                log.warning("%d requests still ran after %g s and are given up", left, grace)
        silent = asyncio.Event()
        self.supervisor.take_no_more(silent.set)
        try:
            async with asyncio.timeout(LAST_WORD):
                await silent.wait()
        except TimeoutError:
            pass  # what still comes is counted as dropped
        self.supervisor.close()  # while there are associations that take what plugins say last
        stopped = asyncio.Event()
        running = len(self.upstreams)

        def one_stopped() -> None:
            nonlocal running
            running -= 1
            if running <= 0:
                stopped.set()

        for upstream in self.upstreams:
            upstream.stop(one_stopped)
        try:
            async with asyncio.timeout(2.0):
                await stopped.wait()
        except TimeoutError:
            pass  # the peer is gone; closing the carrier aborts what is left
        self._carrier.close()
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
        for connection in self._connections:
            connection.abort()
        self._close_feed()

    async def change(self, changes: dict[str, str]) -> dict[str, dict[str, str]]:
        """Change options of plugins here and in all applications; for each of them, by name '' or the reason why
        not."""
        applications_first = switches_off(changes)
        results = {} if applications_first else {"web": change_plugins(self.supervisor, changes)}
        upstreams = tuple(self.upstreams)
        answers = await asyncio.gather(*(upstream.change(changes) for upstream in upstreams))
        if applications_first:
            results["web"] = change_plugins(self.supervisor, changes)
        return results | {str(upstream.address): answer for upstream, answer in zip(upstreams, answers, strict=True)}

    @property
    def in_flight(self) -> int:
        """Requests that applications work on."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Requests that wait for an application."""
        return len(self._queue)

    @property
    def stderr_left_out(self) -> int:
        """Bytes of STDERR that web servers did not take."""
        return self._connections.stderr_left_out

    # ---- Dispatcher, for the downstream connections

    def dispatch(self, exchange: WebExchange) -> None:
        if self._queue and self._idle is None:
            self._wait(exchange)  # those before it wait already
        elif not self._begin(exchange):
            self._wait(exchange)

    def more_input(self, exchange: WebExchange) -> None:
        exchange.last_activity = self._loop.time()
        upstream = exchange.state
        if isinstance(upstream, Upstream):
            upstream.send_input(exchange)
        elif not exchange.input_closed and exchange.size_of_input() > MAX_QUEUED_INPUT:
            exchange.downstream.stop_reading(exchange)
        if exchange.waiting_bytes:
            self._count_waiting(exchange)

    def client_gone(self, exchange: WebExchange) -> None:
        upstream = exchange.state
        answered = False
        if isinstance(upstream, Upstream):
            answered = upstream.has_answered(exchange)
            upstream.abort(exchange)
        # one that waits is stepped over when its turn comes
        self.finished(exchange, aborted=not answered)

    def consumed(self, exchange: WebExchange, count: int) -> None:
        upstream = exchange.state
        if isinstance(upstream, Upstream):
            upstream.consumed(exchange, count)

    # ---- Owner, for the upstreams

    def make_connection(self) -> tuple[WebConnection, int]:
        self._association += 1
        settings = replace(self._settings, association=self._association)
        return WebConnection(settings, channels=self.supervisor.channels), self._association

    def other_with(self, instance: str, upstream: Upstream) -> Upstream | None:
        for one in self.upstreams:
            if one.link is not None and one.link.info.peer_instance == instance and one.member != upstream.member:
                return one
        return None

    def workers_told(self, origin: Upstream, others: Mapping[str, str]) -> None:
        if self._idle is not None:
            return
        addresses, problem = advertised(origin.address, others, self.options.max_workers)
        if problem != origin.workers_problem:
            origin.workers_problem = problem
            if problem:
                log.warning("application %s reports workers that are ignored: %s", origin.address, problem)
        known = {one.address for one in self.upstreams}
        fresh = [address for address in addresses if address not in known]
        gone = [one for one in self.upstreams if one.origin is origin and one.address not in addresses]
        if fresh or gone:
            log.info("application %s has %d workers", origin.address, len(addresses))
        for address in fresh:
            self._add_worker(address, origin)
        for one in gone:
            self.upstreams.remove(one)
            one.stop(lambda: None)

    def _add_worker(self, address: Address, origin: Upstream) -> None:
        worker = Upstream(
            address,
            self._carrier,
            self,
            self._loop,
            weight=origin.weight,
            slow_start=self.options.slow_start,
            probes=self.options.probes,
            origin=origin,
        )
        self.upstreams.append(worker)
        worker.start_soon()

    def upstream_ready(self) -> None:
        self._serve_queue()

    def finished(self, exchange: WebExchange, *, aborted: bool = False, error: str = "") -> None:
        self._active.discard(exchange)
        self.requests_ended += 1
        if self.supervisor.follows_requests:
            self.supervisor.request_end(exchange, exchange.outcome(aborted=aborted, error=error))
        if self._queue:
            self._serve_queue()
        if self._idle is not None:
            self._idle.set()

    def requeue(self, exchange: WebExchange, *, overloaded: bool = False) -> None:
        self._active.discard(exchange)
        exchange.state = None
        # the time that it may wait goes on from the first time: who is refused again and again does not stay for ever
        now = self._loop.time()
        exchange.queue_deadline = exchange.queue_deadline or now + self.options.queue_timeout
        if overloaded:
            exchange.overloaded_at = exchange.overloaded_at or now
        if exchange.queue_deadline < now or (overloaded and exchange.overloaded_at + OVERLOADED_FOR < now):
            self._refuse_late(exchange)
            return
        self._enqueue(exchange)
        self._loop.call_soon(self._serve_queue)  # not now: there may be more of them

    def try_another(self, exchange: WebExchange, failed: Upstream) -> bool:
        if exchange.tried_again or not exchange.can_be_sent_again or exchange.first_byte is not None:
            return False
        if exchange.params.get("REQUEST_METHOD") not in REPEATABLE:
            return False
        exchange.tried_again = True
        return self._begin(exchange, avoid=[failed])

    # ---- choosing

    def _begin(self, exchange: WebExchange, avoid: Sequence[Upstream] = ()) -> bool:
        """Give the request to an upstream; False if none takes it."""
        if len(self.upstreams) == 1 and not avoid:
            best: Upstream | None = self.upstreams[0]
        else:
            best = choose(self.upstreams, self._loop.time(), avoid)
        if best is None:
            return False
        try:
            best.begin(exchange)
        except RequestRefused:
            return False
        exchange.last_activity = now = time.monotonic()
        if exchange.started is None:
            exchange.started = now
        self._active.add(exchange)
        self.supervisor.request_begin(exchange)
        return True

    def _wait(self, exchange: WebExchange) -> None:
        now = self._loop.time()
        if len(self._queue) >= self.options.queue_length or self._waiting_bytes > MAX_WAITING_BYTES:
            self._refuse(
                exchange, HTTPStatus.SERVICE_UNAVAILABLE, "too many requests wait for an application", retry_after=1
            )
        elif all(
            upstream.state != "up" and now - upstream.last_up > self.options.queue_timeout
            for upstream in self.upstreams
        ):
            # nobody has been there for as long as a request would wait
            reasons = "; ".join(f"{upstream.address}: {upstream.last_error}" for upstream in self.upstreams)
            self._refuse(exchange, HTTPStatus.BAD_GATEWAY, f"no application can be reached ({reasons})")
        else:
            exchange.queue_deadline = now + self.options.queue_timeout
            self._enqueue(exchange)

    def _enqueue(self, exchange: WebExchange) -> None:
        self._queue.append((exchange.queue_deadline, exchange))
        self._count_waiting(exchange)

    def _count_waiting(self, exchange: WebExchange) -> None:
        self._waiting_bytes -= exchange.waiting_bytes
        exchange.waiting_bytes = len(exchange.raw_params) + exchange.size_of_input()
        self._waiting_bytes += exchange.waiting_bytes

    def _dequeued(self, exchange: WebExchange) -> None:
        self._waiting_bytes -= exchange.waiting_bytes
        exchange.waiting_bytes = 0

    def _serve_queue(self) -> None:
        queue = self._queue
        while queue:
            exchange = queue[0][1]
            if exchange.over or self._begin(exchange):
                queue.popleft()
                self._dequeued(exchange)
            else:
                return

    def _refuse_late(self, exchange: WebExchange) -> None:
        why = "no application had room in time"
        self._refuse(exchange, HTTPStatus.SERVICE_UNAVAILABLE, why, retry_after=1)

    def _refuse(self, exchange: WebExchange, status: HTTPStatus, why: str, retry_after: int | None = None) -> None:
        log.error("answered %d: %s", status.value, why, extra=about(exchange))
        exchange.fail(status, why, retry_after)
        self.requests_ended += 1
        if self.supervisor.follows_requests:
            self.supervisor.request_end(exchange, exchange.outcome(error=why))

    def _sweep(self) -> None:
        """Look for requests whose time is up."""
        self._sweep_handle = self._loop.call_later(SWEEP, self._sweep)
        now = self._loop.time()
        self._connections.refuse_late()
        late = [one for one in self._queue if one[0] < now or one[1].over]  # those that came back are not in order
        if late:
            self._queue = deque(one for one in self._queue if one[0] >= now and not one[1].over)
            if self._idle is not None:
                self._idle.set()
        for _, exchange in late:
            self._dequeued(exchange)
            if not exchange.over:
                self._refuse_late(exchange)
        limit = now - self.options.request_timeout
        for exchange in [one for one in self._active if one.last_activity < limit]:
            if exchange.over or exchange.request.credited_at > limit or exchange.waits_for_web_server():
                continue
            upstream = exchange.state
            assert isinstance(upstream, Upstream)
            log.error(
                "no sign of application %s for %g s in %s; answered 504",
                upstream.address,
                self.options.request_timeout,
                exchange.identity,
                extra=about(exchange),
            )
            upstream.failed()
            exchange.fail(HTTPStatus.GATEWAY_TIMEOUT, "the application took too long")
            upstream.abort(exchange)
            self.finished(exchange, error="timed out")

    def _close_feed(self) -> None:
        if self._faults is not None:
            log.removeHandler(self._faults)
        if self._feed is not None:
            self._feed.close()

    def _publish_all(self, entries: Iterable[FeedEntry]) -> None:
        if self._feed is not None:
            self._feed.publish_all(entries)

    # ---- listening

    async def _open(self, where: str) -> asyncio.Server:
        def make() -> asyncio.Protocol:
            return cast(asyncio.Protocol, DownstreamConnection(self, self._connections))

        if not where.startswith("unix:"):
            address = Address.parse(where)
            try:
                return await self._loop.create_server(make, address.hosts, address.port, backlog=BACKLOG)
            except OSError as error:
                raise ListenError(f"cannot listen at {where}: {error.strerror}") from error
        try:
            options = self.options
            unix = UnixSocket(where.removeprefix("unix:"), mode=options.socket_mode, group=options.socket_group)
        except OSError as error:
            raise ListenError(f"cannot listen at {where}: {error.strerror or error}") from error
        self._unix_sockets.append(unix)
        return await self._loop.create_unix_server(make, sock=unix.socket, backlog=BACKLOG)
