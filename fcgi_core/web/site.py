"""The requests of one site: each goes to one of its applications, waits for one, or is refused.

A site has applications, a queue and limits of its own, so that what happens in one site is nothing to another. What it
needs of the process that it shares with others is a `Process`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple, Protocol

from ..errors import RequestRefused
from ..hosting.exchange import SAFE_METHODS
from ..hosting.supervisor import Supervisor
from ..protocol.settings import Settings
from ..protocol.web import WebConnection
from ..sctp.carrier import Address, Carrier
from .attempts import Away
from .balance import choose
from .exchange import State, WebExchange
from .faults import about, logger_of
from .members import BackEndOptions, Members, NameOptions
from .names import Names
from .options import SiteOptions
from .upstream import Upstream
from .waiting import WaitingRequests

__all__ = ["UNSERVED", "Process", "Site", "SiteSetup"]

UNSERVED = ("queue_full", "queue_timeout", "unreachable", "request_timeout")
"""Why a site answers a request itself, see `ServiceFigures`."""


class SiteSetup(NamedTuple):
    """What a site is."""

    connect: Sequence[BackEndOptions | NameOptions]
    options: SiteOptions
    listen: Sequence[str] = ()
    """The addresses at which its requests come."""
    server_names: Sequence[str] = ()
    """Their SERVER_NAMEs, see `Entrance`; none: all that no other site has there."""


class Process(Protocol):
    """What the sites of a process share."""

    supervisor: Supervisor
    carrier: Carrier
    settings: Settings
    names: Names | None
    away: Away

    def make_connection(self, member: str, most: int, given_up: tuple[int, ...]) -> WebConnection:
        """See `upstream.Owner`."""

    def room_for(self, upstream: Upstream) -> int:
        """See `upstream.Owner`."""

    def upstream_ended(self, upstream: Upstream) -> None:
        """An upstream of a site has no association any more."""


class Site:
    """A `Dispatcher` for connections of web servers, and the `Owner` of the upstreams that its requests go to."""

    def __init__(self, process: Process, name: str, setup: SiteSetup) -> None:
        """`name`: '' if there are no others."""
        options = setup.options
        self.name = name
        self.log = logger_of(name)
        self._loop = asyncio.get_running_loop()
        self._process = process
        self.supervisor = process.supervisor
        self.away = process.away
        self.options = options
        self.requests_ended = 0
        self.unserved = dict.fromkeys(UNSERVED, 0)
        """See `ServiceFigures`."""
        self.idle: asyncio.Event | None = None
        """Set while the process stops, when a request has ended."""
        self._active: set[WebExchange] = set()
        """Requests in state SENT."""
        self._waiting = WaitingRequests(timeout=options.queue_timeout, length=options.queue_length)
        self.members = Members(
            *(self._upstream, self._loop, self.upstream_ready, process.names),
            identity=options.identity,
            max_workers=options.max_workers,
            grace=options.grace,
            log=self.log,
        )
        self.members.configure(setup.connect, options.subset)
        self.upstreams = self.members.upstreams
        self._in_use = self.members.in_use

    def _upstream(
        self, address: Address, weight: float, wanted: int | None, origin: Upstream | None = None
    ) -> Upstream:
        options = self.options
        return Upstream(
            *(address, self._process.carrier, self, self._loop),
            weight=weight,
            slow_start=options.slow_start,
            probes=options.probes,
            origin=origin,
            wanted=wanted,
        )

    def is_over(self) -> bool:
        """Return whether a site that was removed has nothing left to end."""
        return not (self._active or self._waiting.queue or self.upstreams or self.members.leaving)

    @property
    def in_flight(self) -> int:
        """Requests that applications handle."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Requests that wait for an application."""
        return len(self._waiting.queue)

    @property
    def waiting_bytes(self) -> int:
        """Memory of what these requests have sent."""
        return self._waiting.size

    # ---- Dispatcher, for the downstream connections

    @property
    def max_requests(self) -> int:
        """Requests at once that the applications which get any accept together."""
        return self._process.settings.max_requests * self.members.count

    def dispatch(self, exchange: WebExchange) -> None:
        # requests that wait already go first, unless the service stops
        if (self._waiting.queue and self.idle is None) or not self._begin(exchange):
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
        return self._process.make_connection(member, most, given_up)

    def room_for(self, upstream: Upstream) -> int:
        return self._process.room_for(upstream)

    def other_with(self, instance: str, upstream: Upstream) -> Upstream | None:
        return self.members.other_with(instance, upstream)

    def workers_reported(self, origin: Upstream, others: Mapping[str, str]) -> None:
        if self.idle is not None:
            return
        self.members.workers_reported(origin, others)

    def upstream_changed(self) -> None:
        self.members.upstream_changed()

    def upstream_ended(self, upstream: Upstream) -> None:
        self.members.ended(upstream)
        self._process.upstream_ended(upstream)

    def upstream_ready(self) -> None:
        self._waiting.serve(self._begin)

    def finished(self, exchange: WebExchange, *, aborted: bool = False, error: str = "") -> None:
        self._active.discard(exchange)
        self.requests_ended += 1
        if self.supervisor.follows_requests:
            self.supervisor.request_end(exchange, exchange.outcome(aborted=aborted, error=error))
        if self._waiting.queue:
            self.upstream_ready()
        if self.idle is not None:
            self.idle.set()

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
            self.unserved["queue_full"] += 1
            self._refuse(
                exchange, HTTPStatus.SERVICE_UNAVAILABLE, "too many requests wait for an application", retry_after=1
            )
        elif reasons := self.members.absent(now - self.options.queue_timeout):
            # none has been there for as long as a request would wait
            self.unserved["unreachable"] += 1
            self._refuse(exchange, HTTPStatus.BAD_GATEWAY, f"no application can be reached ({reasons})")
        else:
            self._waiting.add(exchange, now)

    def _refuse_late(self, exchange: WebExchange) -> None:
        self.unserved["queue_timeout"] += 1
        why = "no application had room in time"
        self._refuse(exchange, HTTPStatus.SERVICE_UNAVAILABLE, why, retry_after=1)

    def _refuse(self, exchange: WebExchange, status: HTTPStatus, why: str, retry_after: int | None = None) -> None:
        self.log.error("answered %d: %s", status.value, why, extra=about(exchange))
        exchange.fail(status, why, retry_after)
        self.requests_ended += 1
        if self.supervisor.follows_requests:
            self.supervisor.request_end(exchange, exchange.outcome(error=why))

    def sweep(self, now: float) -> None:
        """Answer the requests whose time is up."""
        self.members.look()
        late = self._waiting.remove_late(now)
        if late and self.idle is not None:
            self.idle.set()
        for exchange in late:
            if exchange.state is not State.OVER:
                self._refuse_late(exchange)
        limit = now - self.options.request_timeout
        for exchange in [one for one in self._active if one.last_activity < limit]:
            if exchange.state is State.OVER or exchange.request.credited_at > limit or exchange.waits_for_web_server():
                continue
            upstream = exchange.upstream
            assert upstream is not None
            self.unserved["request_timeout"] += 1
            self.log.error(
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
