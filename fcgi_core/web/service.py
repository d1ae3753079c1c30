"""The web side of the program: it accepts requests of the web server and sends them to applications."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from math import inf
from typing import cast

from .. import __version__
from ..errors import RequestRefused
from ..hosting.discovery import EnabledPlugin
from ..hosting.exchange import SAFE_METHODS
from ..hosting.supervisor import Supervisor
from ..hosting.switching import change_plugins, switches_off
from ..plugin import FeedEntry, ServiceFigures
from ..protocol.settings import Settings, new_instance
from ..protocol.web import WebConnection
from ..sctp.carrier import Address, Carrier
from .attempts import Away
from .balance import choose
from .downstream import Connections, DownstreamConnection
from .exchange import State, WebExchange
from .faults import FaultFeed, about
from .feed import Feed
from .figures import application_figures
from .listeners import ListenError, Listeners
from .members import BackEndOptions, Members, NameOptions
from .names import Names
from .pool import MOST
from .probe import ProbeOptions
from .upstream import Upstream
from .waiting import WaitingRequests

__all__ = ["BackEndOptions", "WebOptions", "WebService"]

log = logging.getLogger("fcgi_sctp.web")

SWEEP = 1.0
"""Seconds between looks for requests whose time is up."""
LOOK_FOR_UP = 0.02
"""Seconds between looks whether all applications are up, before a process takes over from another."""
MADE_AFTER = 3
"""Rounds of the event loop from when it accepts a connection to `connection_made`: three of asyncio, one of uvloop."""
AT_ONCE = 100
"""Connections that are closed or passed on in one turn of the event loop at the end."""
LAST_WORD = 0.5
"""Seconds that applications have at the end to report that they send no more to plugins: a few round trips."""
SHUTDOWN_WITHIN = 2.0
"""Seconds that associations have at the end to shut down; then they are aborted."""


@dataclass(frozen=True, slots=True)
class WebOptions:
    """Options of the web side. Times are seconds."""

    request_timeout: float = 60.0
    """Longest silence of an application in a request before it is answered 504; nginx's fastcgi_read_timeout."""
    queue_timeout: float = 10.0
    """How long a request waits for an application to come back before it is answered 503."""
    queue_length: int = 10_000
    """Most requests that wait; the next is answered 503 at once."""
    slow_start: float = 10.0
    """How long an application that returned takes to get its whole share."""
    probes: ProbeOptions | None = None
    """The request that each application regularly gets to see whether it answers; None: there are no probes."""
    socket_mode: int = 0o666
    """Permissions of the unix socket toward the web server, which runs as another user."""
    socket_group: str | None = None
    """Group that may connect to it."""
    max_workers: int = 64
    """Most workers of one application that the web side connects to."""
    subset: int | None = None
    """How many of the applications are used; None: all."""
    identity: str = ""
    """What tells this web side from others: it decides which applications those are, and which gets the first request.
    Empty: the first ones in `connect`."""
    grace: float = 10
    """How long requests may take to end whose application is removed."""
    needs_feed: bool = True
    """Whether it is an error that the live feed cannot be offered."""


class WebService:
    """Listens for a web server and keeps associations with applications."""

    def __init__(
        self,
        carrier: Carrier,
        listen: Sequence[str],
        connect: Sequence[BackEndOptions | NameOptions],
        *,
        plugins: Sequence[EnabledPlugin] = (),
        settings: Settings | None = None,
        feed: Feed | None = None,
        names: Names | None = None,
        options: WebOptions | None = None,
    ) -> None:
        """`names` looks up the names in `connect`; none are used without it."""
        self._loop = asyncio.get_running_loop()
        self.options = options = options or WebOptions()
        self._carrier = carrier
        self._listen = listen
        self._settings = settings or Settings()
        self._instances: dict[str, str] = {}
        """By member: what this process is called there, so that no application can pose as this one to another."""
        self._feed = feed
        self._faults: FaultFeed | None = None
        self.supervisor = Supervisor(
            plugins,
            self._loop,
            self._loop.call_soon_threadsafe,
            web=True,
            process_name=self._settings.name,
            publish_all=self._publish_all,
            service=self.figures,
        )
        self._connections = Connections()
        self._listeners = Listeners(
            lambda: DownstreamConnection(self, self._connections), mode=options.socket_mode, group=options.socket_group
        )
        self.requests_ended = 0
        self._active: set[WebExchange] = set()
        """Requests in state SENT."""
        self._waiting = WaitingRequests(timeout=options.queue_timeout, length=options.queue_length)
        self._unserved = dict.fromkeys(("queue_full", "queue_timeout", "unreachable", "request_timeout"), 0)
        """See `ServiceFigures`."""
        self.away = Away()
        self.away = Away()
        self._association = 0
        """The number of the newest association."""
        self.members = Members(
            *(self._upstream, self._loop, self.upstream_ready, names),
            identity=options.identity,
            max_workers=options.max_workers,
            grace=options.grace,
        )
        self.members.configure(connect, options.subset)
        self.upstreams = self.members.upstreams
        self._in_use = self.members.in_use
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event | None = None
        """Set while the service stops, when a request has ended or a connection is closed."""

    def _upstream(
        self, address: Address, weight: float, wanted: int | None, origin: Upstream | None = None
    ) -> Upstream:
        options = self.options
        return Upstream(
            *(address, self._carrier, self, self._loop),
            weight=weight,
            slow_start=options.slow_start,
            probes=options.probes,
            origin=origin,
            wanted=wanted,
        )

    async def start(self, connect_within: float = 0.0, *, must_reach: bool = False) -> None:
        """Start to connect, then to listen, after the applications are up or `connect_within` seconds. ListenError;
        if it `must_reach` one of them, also if it does not."""
        if self._feed is not None:
            try:
                await self._feed.start()
            except OSError as error:
                why = f"cannot offer the live feed at {self._feed.path}: {getattr(error, 'strerror', None) or error}"
                if self.options.needs_feed:
                    raise ListenError(why) from error
                log.warning("%s; going on without it", why)
                self._feed = None
        if self._feed is not None:
            self._faults = FaultFeed(self._feed.publish, self._loop)
            log.addHandler(self._faults)
        self.members.start()
        until = self._loop.time() + connect_within
        while self._loop.time() < until and not self.members.is_complete:
            await asyncio.sleep(LOOK_FOR_UP)
        if must_reach and (why := self.members.absent(inf)):
            # the feed's socket stays as it is: another process has it too
            raise ListenError(f"no application can be reached, and the process that serves now reaches some: {why}")
        try:
            for where in self._listen:
                await self._listeners.open(where)
        except ListenError:
            self._listeners.close()
            self._close_feed()
            raise
        self._sweep()

    async def serve(self, connection: socket.socket) -> None:
        """Serve a web server's connection that the process before this one passes on."""
        make = cast(Callable[[], asyncio.Protocol], lambda: DownstreamConnection(self, self._connections))
        await self._loop.connect_accepted_socket(make, connection)

    async def stop(self, grace: float = 10.0, pass_on: Callable[[int], None] | None = None) -> None:
        """Accept no new connections, let requests end within `grace` seconds, then close everything. `pass_on` takes
        the descriptor of each connection without requests, for the process that comes after this one."""
        self._connections.pass_on = pass_on
        self._listeners.close()
        for _ in range(MADE_AFTER):
            await asyncio.sleep(0)
        for number, connection in enumerate(self._connections, 1):
            connection.stop()
            if not number % AT_ONCE:
                await asyncio.sleep(0)  # what is passed on needs a second descriptor until it is closed here
        self._idle = asyncio.Event()
        self._connections.on_closed = self._idle.set
        try:
            async with asyncio.timeout(grace):
                # until the last answers have been written, too
                while self._active or self._waiting.queue or self._connections.are_closing():
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            left = len(self._active) + len(self._waiting.queue)
            if left:
                log.warning("%d requests had not ended after %g s and are given up", left, grace)
        silent = asyncio.Event()
        self.supervisor.take_no_more(silent.set)
        try:
            async with asyncio.timeout(LAST_WORD):
                await silent.wait()
        except TimeoutError:
            pass  # items that still come are counted as dropped
        self.supervisor.close()  # while associations still carry the last items of plugins
        upstreams = self.members.stop()
        try:
            async with asyncio.timeout(SHUTDOWN_WITHIN):
                for upstream in upstreams:
                    await upstream.stopped.wait()
        except TimeoutError:
            pass  # the peer is gone; closing the carrier aborts the association
        self._carrier.close()
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
        for connection in self._connections:
            connection.abort()
        self._close_feed()

    async def change(self, changes: dict[str, str]) -> dict[str, dict[str, str]]:
        """Change options of plugins here and in all applications. Return for "web" and for the address of each
        application the result of each change by its name: '', or the reason why it was refused."""
        applications_first = switches_off(changes)
        results = {} if applications_first else {"web": change_plugins(self.supervisor, changes)}
        upstreams = tuple(self.upstreams)
        answers = await asyncio.gather(*(upstream.change(changes) for upstream in upstreams))
        if applications_first:
            results["web"] = change_plugins(self.supervisor, changes)
        return results | {str(upstream.address): answer for upstream, answer in zip(upstreams, answers, strict=True)}

    @property
    def max_requests(self) -> int:
        """Requests at once that the applications which get any accept together."""
        return self._settings.max_requests * self.members.count

    @property
    def in_flight(self) -> int:
        """Requests that applications handle."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Requests that wait for an application."""
        return len(self._waiting.queue)

    @property
    def stderr_left_out(self) -> int:
        """Bytes of STDERR that web servers did not read."""
        return self._connections.stderr_left_out

    def figures(self) -> ServiceFigures:
        """Returns the state of the service, for plugins."""
        applications = application_figures(self.upstreams, self._loop.time())
        return ServiceFigures(
            __version__,
            self._carrier.name,
            self._obstacle(any(one.up for one in applications)),
            applications,
            self.waiting,
            self._waiting.size,
            dict(self._unserved),
        )

    def _obstacle(self, any_up: bool) -> str:
        if self._idle is not None:
            return "it stops: no new requests are accepted"
        if not self._listeners.are_open:
            return "it does not listen for the web server"
        if not any_up:
            return f"no application is up, of {sum(one.origin is None for one in self.upstreams)}"
        return ""

    # ---- Dispatcher, for the downstream connections

    def dispatch(self, exchange: WebExchange) -> None:
        # requests that wait already go first, unless the service stops
        if (self._waiting.queue and self._idle is None) or not self._begin(exchange):
            self._wait(exchange)

    def waiting_grew(self, exchange: WebExchange) -> None:
        self._waiting.grew(exchange)

    def client_gone(self, exchange: WebExchange) -> None:
        upstream = exchange.upstream
        answered = False
        if upstream is not None:
            answered = upstream.has_answered(exchange)
            upstream.abort(exchange)
        # a request that waits is dequeued when its turn comes
        self.finished(exchange, aborted=not answered)

    # ---- Owner, for the upstreams

    def make_connection(self, member: str, most: int, given_up: tuple[int, ...]) -> WebConnection:
        self._association += 1
        instance = self._instances.setdefault(member, new_instance())
        settings = replace(
            self._settings,
            instance=instance,
            association=self._association,
            max_associations=most,
            given_up=given_up,
        )
        return WebConnection(settings, channels=self.supervisor.channels)

    def room_for(self, upstream: Upstream) -> int:
        member = upstream.member
        return MOST - sum(one.growth.content for one in self.upstreams if one.member == member)

    def other_with(self, instance: str, upstream: Upstream) -> Upstream | None:
        return self.members.other_with(instance, upstream)

    def workers_reported(self, origin: Upstream, others: Mapping[str, str]) -> None:
        if self._idle is not None:
            return
        self.members.workers_reported(origin, others)

    def upstream_changed(self) -> None:
        self.members.upstream_changed()

    def upstream_ended(self, upstream: Upstream) -> None:
        self.members.ended(upstream)
        member = upstream.member
        if not any(one.member == member for one in (*self.upstreams, *self.members.leaving)):
            self._instances.pop(member, None)

    def upstream_ready(self) -> None:
        self._waiting.serve(self._begin)

    def finished(self, exchange: WebExchange, *, aborted: bool = False, error: str = "") -> None:
        self._active.discard(exchange)
        self.requests_ended += 1
        if self.supervisor.follows_requests:
            self.supervisor.request_end(exchange, exchange.outcome(aborted=aborted, error=error))
        if self._waiting.queue:
            self.upstream_ready()
        if self._idle is not None:
            self._idle.set()

    def requeue(self, exchange: WebExchange, *, overloaded: bool = False) -> None:
        self._active.discard(exchange)
        exchange.state, exchange.upstream = State.WAITING, None
        if self._waiting.add_again(exchange, self._loop.time(), overloaded):
            self._loop.call_soon(self.upstream_ready)  # not now: further requests may be queued again
        else:
            self._refuse_late(exchange)

    def try_another(self, exchange: WebExchange, failed: Upstream, lost: bool) -> bool:
        if exchange.tried_again or not exchange.can_be_sent_again or exchange.first_byte is not None:
            return False
        if exchange.params.get("REQUEST_METHOD") not in SAFE_METHODS:
            return False
        exchange.tried_again = True
        return self._begin(exchange, avoid=[failed]) or (lost and self._begin(exchange))

    # ---- choosing

    def _begin(self, exchange: WebExchange, avoid: Sequence[Upstream] = ()) -> bool:
        """Send the request to an application; return False if none accepts it."""
        if len(self._in_use) == 1 and not avoid:
            best: Upstream | None = self._in_use[0]
        else:
            best = choose(self._in_use, self._loop.time(), avoid)
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
        if self._waiting.is_full:
            self._unserved["queue_full"] += 1
            self._refuse(
                exchange, HTTPStatus.SERVICE_UNAVAILABLE, "too many requests wait for an application", retry_after=1
            )
        elif reasons := self.members.absent(now - self.options.queue_timeout):
            # none has been there for as long as a request would wait
            self._unserved["unreachable"] += 1
            self._refuse(exchange, HTTPStatus.BAD_GATEWAY, f"no application can be reached ({reasons})")
        else:
            self._waiting.add(exchange, now)

    def _refuse_late(self, exchange: WebExchange) -> None:
        self._unserved["queue_timeout"] += 1
        why = "no application had room in time"
        self._refuse(exchange, HTTPStatus.SERVICE_UNAVAILABLE, why, retry_after=1)

    def _refuse(self, exchange: WebExchange, status: HTTPStatus, why: str, retry_after: int | None = None) -> None:
        log.error("answered %d: %s", status.value, why, extra=about(exchange))
        exchange.fail(status, why, retry_after)
        self.requests_ended += 1
        if self.supervisor.follows_requests:
            self.supervisor.request_end(exchange, exchange.outcome(error=why))

    def _sweep(self) -> None:
        """Answer the requests whose time is up."""
        self._sweep_handle = self._loop.call_later(SWEEP, self._sweep)
        now = self._loop.time()
        self.members.look()
        self._connections.refuse_late()
        late = self._waiting.remove_late(now)
        if late and self._idle is not None:
            self._idle.set()
        for exchange in late:
            if exchange.state is not State.OVER:
                self._refuse_late(exchange)
        limit = now - self.options.request_timeout
        for exchange in [one for one in self._active if one.last_activity < limit]:
            if exchange.state is State.OVER or exchange.request.credited_at > limit or exchange.waits_for_web_server():
                continue
            upstream = exchange.upstream
            assert upstream is not None
            self._unserved["request_timeout"] += 1
            log.error(
                "application %s sent nothing for %g s in request %s; answered 504",
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
