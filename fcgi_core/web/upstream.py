"""One process of an application as a back end, with one association or several: whether it is up, and what it may get.

All of its associations are one back end: they share its weight, its health and probes, the number of requests that it
accepts, and its place in what is logged. It is up as long as one of them is. `growth` decides how many there are,
`pool` which of them takes a request; `association` has what happens on one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Protocol

from ..common.bounded_queue import Budget
from ..common.operator_log import LimitedLog
from ..errors import RequestRefused
from ..hosting.delivery import Link
from ..hosting.driver import Driver
from ..protocol.channels import Channel
from ..protocol.connection import MAX_HELD_OF_PEER
from ..protocol.events import PeerReady
from ..protocol.settings import MAX_GIVEN_UP
from ..protocol.web import WebConnection
from ..sctp.carrier import Address, Carrier, CarrierError
from ..sctp.endpoints import resolve
from .association import Requests, WebAssociation
from .attempts import Attempts, Away
from .balance import AVOID_FOR, MAX_FAILURES, Health
from .exchange import WebExchange
from .faults import about
from .figures import Events
from .growth import HOLD, LOOK, Growth
from .overload import Overload
from .pool import QUIET_FROM, pick
from .presence import Presence
from .probe import Probe, ProbeOptions, Prober

__all__ = ["SAME_AGAIN", "Owner", "Upstream"]

log = logging.getLogger("fcgi_sctp.web")

SAME_AGAIN = 5.0
"""Seconds after which an address is tried again that reached the process of another member, if that has gone."""
SAME_LOOKS = 12
"""Such times after which it is tried in any case: it may be the address of another process by now."""


class Owner(Requests, Protocol):
    """What an upstream needs of the service."""

    away: Away

    def make_connection(self, member: str, most: int, given_up: tuple[int, ...]) -> WebConnection:
        """Return the protocol's side of a new association with a process of a member, to which there may be `most`."""

    def room_for(self, upstream: Upstream) -> int:
        """Return how many associations with content may be made of themselves in addition with its application."""

    @property
    def waiting(self) -> int:
        """Requests that wait for an application."""

    def other_with(self, instance: str, upstream: Upstream) -> Upstream | None:
        """Return an upstream of another member whose association is with the process of this instance."""

    def workers_reported(self, origin: Upstream, others: Mapping[str, str]) -> None:
        """Connect to the workers that `others` of the SETTINGS of a configured application report."""

    def upstream_ready(self) -> None:
        """Send on what waits: an association came up or has capacity again."""

    def upstream_changed(self) -> None:
        """An upstream came up, went down, or is in or out of the balance by its probes."""

    def upstream_ended(self, upstream: Upstream) -> None:
        """An upstream that was to leave, or to stop, has no association any more."""

    def try_another(self, exchange: WebExchange, failed: Upstream, lost: bool) -> bool:
        """Send the request to another application than `failed`, which may have handled a part of it, or if only an
        association with it was `lost`, also there by another association. Return False if that could do harm, a part
        of an answer has gone on, or no application accepts it."""


class Upstream:
    """One process of an application, and the associations with it."""

    def __init__(
        self,
        address: Address,
        carrier: Carrier,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
        *,
        weight: float = 1.0,
        slow_start: float = 10.0,
        probes: ProbeOptions | None = None,
        origin: Upstream | None = None,
        wanted: int | None = None,
    ) -> None:
        """`wanted`: associations that there are to be; None: as many as help."""
        self.address = address
        """As it was configured: host names are looked up at each attempt."""
        self.origin = origin
        """The configured upstream whose application reported this worker; None if this is configured itself."""
        self.member = str((origin or self).address)
        """The application as it was configured; its workers are the same member."""
        self.reported: Mapping[str, str] = {}
        """The part of its SETTINGS that lists its workers."""
        self.workers_problem = ""
        """Why some of the workers that it reported are ignored; empty if none is."""
        self.weight = weight
        self.rank = 0
        """Requests go to it only while all of a lower rank are away."""
        self.drained = False
        """By hand: it keeps its associations and gets no requests. `members` sees to that."""
        self.wanted = wanted
        self.requests = 0
        """Requests that were sent to it."""
        self.health = Health(slow_start)
        self.associations: list[WebAssociation] = []
        """Those that are up and take requests, the oldest first."""
        self.quiet: WebAssociation | None = None
        """One that is up and takes none, so that urgent items find its window empty."""
        self.last_up = loop.time()
        self.last_error = ""
        self.account: Budget = Budget(MAX_HELD_OF_PEER) if origin is None else origin.account
        """The memory that the associations of this member hold together."""
        self.events: Events = Events() if origin is None else origin.events
        """What happened to the processes of this member."""
        self.overload = Overload(loop, owner.upstream_ready)
        self.growth = Growth(self, loop, wanted)
        self._instance = ""
        """Of the process that the associations are with."""
        self._others: list[WebAssociation] = []
        """Those that are being made, and those that end."""
        self._given_up: deque[int] = deque(maxlen=MAX_GIVEN_UP)
        """Numbers of associations that were lost; the application may not have noticed yet."""
        self._log = LimitedLog(log, loop)
        self._carrier = carrier
        self._owner = owner
        self._loop = loop
        self._attempts: Attempts = Attempts(loop, owner.away) if origin is None else origin._attempts
        self._reached: Address | None = None
        """The numeric address at which it was last reached."""
        self._presence = Presence(address, loop)
        self._stopping = False
        self.stopped = asyncio.Event()
        """Set when the associations are gone after `stop` or `leave`."""
        self._leave_handle: asyncio.TimerHandle | None = None
        self._same: tuple[Upstream, str] | None = None
        """The upstream of another member whose process the last attempt reached, and the process's instance."""
        self._same_looks = 0
        self._again_handle: asyncio.TimerHandle | None = None
        self._tries = 0
        self._was_up = False
        self._lookup: asyncio.Task[None] | None = None
        self._prober = None if probes is None else Prober(probes, self, loop)

    def start(self) -> None:
        """Try to make an association, and try again until `stop`."""
        self._tries += 1
        if self.address.is_numeric():
            self._connect(self.address)
        else:
            self._lookup = self._loop.create_task(self._look_up())

    async def _look_up(self) -> None:
        try:
            address = await resolve(self.address, self._tries)
        except CarrierError as error:
            self._missed(str(error))
            return
        finally:
            self._lookup = None
        self._connect(address)

    def _connect(self, address: Address) -> None:
        self._reached = address
        most = self.growth.reach(all(ip_address(host.partition("%")[0]).is_loopback for host in address.hosts))
        connection = self._owner.make_connection(self.member, most, tuple(self._given_up))
        connection.account = self.account
        association = WebAssociation(self, self._owner, connection, self._loop)
        self._others.append(association)
        association.connect(self._carrier, address)

    def start_soon(self) -> None:
        """Start when the turn comes among the workers of the same application."""
        self._attempts.soon(self)

    def stop(self) -> None:
        """End the associations gracefully, and make no further one."""
        self._make_no_more()
        waits = [one.stop() for one in (*self.up, *self._others)]
        if not any(waits):
            self._end()

    def _make_no_more(self) -> None:
        self._stopping = True
        if self.origin is not None:
            self.events.requests += self.requests  # those of a worker that is gone stay counted
        if self._prober is not None:
            self._prober.stop()
            self._prober = None
        self._attempts.forget(self)
        if self._again_handle is not None:
            self._again_handle.cancel()
        if self._lookup is not None:
            self._lookup.cancel()
        self.growth.stop()

    def leave(self, within: float) -> None:
        """Make no further association, and end those that are up when they have no more requests; `stop` after
        `within` seconds. The application ends each, with DRAIN, once it has sent all that it still has."""
        up = tuple(self.up)
        for one in up:
            self.let_go(one)
        self._make_no_more()
        if not up:
            self.stop()
            return
        for one in tuple(self._others):
            if not one.leaving:
                one.stop()
        self._leave_handle = self._loop.call_later(within, self._leave_late, within)

    def _leave_late(self, within: float) -> None:
        left = sum(one.requests for one in self._others)
        if left:
            text = "%d requests to %s had not ended %g s after its removal and are given up"
            log.warning(text, left, self.address, within)
        self.stop()

    def _end(self) -> None:
        """All associations that were up are gone, after `stop`. Attempts may still end, and call this again."""
        if not self.stopped.is_set():
            if self._leave_handle is not None:
                self._leave_handle.cancel()
            self._log.close()
            self.growth.close()
            self.stopped.set()
            self._owner.upstream_ended(self)

    @property
    def link(self) -> Link | None:
        """The oldest association, while requests may be sent."""
        return self.associations[0].link if self.associations else None

    @property
    def driver(self) -> Driver[WebConnection]:
        """Of the oldest association."""
        return self.associations[0].driver

    @property
    def up(self) -> list[WebAssociation]:
        """The associations that are up, and are to stay."""
        return self.associations if self.quiet is None else [*self.associations, self.quiet]

    @property
    def making(self) -> int:
        """Associations that are being made."""
        return sum(not one.leaving for one in self._others)

    @property
    def waiting(self) -> int:
        """Requests that wait for it, among others."""
        return 0 if self.drained else self._owner.waiting

    @property
    def channels(self) -> list[Channel]:
        """The channels of all plugins of this side."""
        return self._owner.supervisor.channels

    @property
    def reached(self) -> bool:
        """Whether its process has an association, by this address or another member's."""
        return bool(self.associations) or self._same is not None

    @property
    def instance(self) -> str:
        """Of the process that the associations are with; '' while there are none."""
        return self._instance if self.associations else ""

    @property
    def capacity(self) -> int:
        """How many requests it would accept now."""
        associations = self.associations
        if not associations or self.health.out:
            return 0
        capacity, most = associations[0].connection.capacity, self.overload.most
        if self._drains:
            return 0
        fits = self.growth.fits
        if fits is not None:
            most = fits if most is None else min(most, fits)
        return capacity if most is None else max(0, min(capacity, most - self.outstanding))

    @property
    def _drains(self) -> bool:
        """Whether DRAIN has come on one of several associations; it is on its way on the others."""
        return len(self.associations) > 1 and any(one.connection.peer_draining for one in self.associations)

    @property
    def state(self) -> str:
        """``leaving`` (it was removed), ``drained`` (by hand), ``down``, ``out`` (of the balance, by its probes) or
        ``up``."""
        if self._stopping:
            return "leaving"
        if self.drained:
            return "drained"
        return "down" if not self.associations else "out" if self.health.out else "up"

    @property
    def outstanding(self) -> int:
        """How many requests it handles."""
        if self.associations:
            return self.associations[0].connection.count_requests()
        return sum(one.requests for one in self._others) if self._stopping else 0

    async def change(self, changes: dict[str, str]) -> dict[str, str]:
        """Change configuration in the application; return for each name '' or the reason why it was refused."""
        if not self.associations:
            return dict.fromkeys(changes, "no association")
        return await self.associations[0].change(changes)

    # ---- requests

    def begin(self, exchange: WebExchange) -> None:
        """Send the request. RequestRefused if the application accepts none now."""
        associations = self.associations
        if not associations or self.health.out:
            raise RequestRefused(f"{self.address} is {self.state}")
        if self.overload.most is not None and self.capacity <= 0:
            raise RequestRefused(f"{self.address} is overloaded")
        growth = self.growth
        if growth.path_is_long and not growth.has_room():
            raise RequestRefused(f"a request to {self.address} is served sooner by an association that is being made")
        if len(associations) == 1:
            one = associations[0]
        elif self._drains:
            raise RequestRefused(f"{self.address} drains")
        else:
            one = pick(associations, growth.answers.size)
        one.begin(exchange)
        self.requests += 1

    def failed(self) -> None:
        """Count a failure of a request by the application's fault."""
        if self.health.failed(self._loop.time()):
            self.events.avoided += 1
            log.warning(
                "application %s failed %d times in a row and is avoided for %g s", self.address, MAX_FAILURES, AVOID_FOR
            )

    def try_another(self, exchange: WebExchange, lost: bool) -> bool:
        return self._owner.try_another(exchange, self, lost and bool(self.associations))

    # ---- probes

    def send_probe(self, probe: Probe) -> None:
        pick(self.associations, self.growth.answers.size).send_probe(probe)

    def abort_probe(self, probe: Probe) -> None:
        driver: Driver[WebConnection] = probe.link.driver
        driver.connection.abort(probe.request)
        driver.wake()

    def is_answered(self, probe: Probe) -> bool:
        return probe.link.down or probe.request.key not in probe.link.connection.requests

    def probes_say(self, good: bool, why: str) -> None:
        now = self._loop.time()
        if good:
            log.info("application %s answers its probes again and is back in the balance", self.address)
            self.health.came_up(now, first=False)
            self._owner.upstream_changed()
            self._owner.upstream_ready()
        else:
            log.warning("application %s is out of the balance, by its probes: %s", self.address, why)
            self.health.out = True
            self.events.out += 1
            self.last_up = now
            self.last_error = f"probes: {why}"
            self._owner.upstream_changed()

    # ---- associations that come and go

    def say(self, level: int, text: str, *values: object, exchange: WebExchange | None = None) -> None:
        extra = None if exchange is None else about(exchange)
        self._log.log(self._presence.level(level), text, self.address, *values, extra=extra)

    def ready(self, association: WebAssociation, event: PeerReady) -> None:
        settings = event.settings
        instance = settings.instance
        other = self._owner.other_with(instance, self) if instance else None
        if other is not None:
            # it claims to be the other's process, or is reached twice: the other keeps its association either way
            self._same = other, instance
            self._same_looks = 0
            association.driver.abort(
                f"instance {instance} is associated at {other.address} already: connect to it once"
            )
            return
        first = not self.associations
        if not first and (instance != self._instance or not instance):
            # another process has the address now: what the one before it has begun ends where it is
            log.info("application %s is another process now", self.address)
            for one in tuple(self.up):
                self.let_go(one)
            self.growth.hold()
            first = True
        self._others.remove(association)
        self._instance = instance
        association.used_at = now = self._loop.time()
        if first:
            self.overload.end()
            self.health.came_up(now, first=not self._was_up)
            self._was_up = True
            self._presence.came_up(association.number, settings.name or instance)
        else:
            text = "association %d with application %s is up, the %d. of the process"
            log.log(self._presence.level(logging.INFO), text, association.number, self.address, len(self.up) + 1)
        association.use(self.member)
        if self.growth.came_up(association):
            self.quiet = association
        else:
            self.associations.append(association)
        self._regroup()
        self.growth.changed()
        self.growth.fit()
        if first and self._prober is not None:
            self._prober.stop()
            self._prober.start()
        if first and self.origin is None:
            self._owner.workers_reported(self, settings.others)
        self._attempts.hurry()
        if first:
            self._owner.upstream_changed()
        self._owner.upstream_ready()
        self.growth.changed()

    def _regroup(self) -> None:
        """Let each connection know the others of the same process."""
        everyone = [
            one.connection
            for one in (*self.up, *self._others)
            if one.link is not None and one.link.info.peer_instance == self._instance
        ]
        for one in everyone:
            one.siblings = tuple(other for other in everyone if other is not one)

    # ---- what `growth` asks for

    def room(self) -> int:
        return self._owner.room_for(self)

    def make_another(self) -> None:
        address = self._reached
        assert address is not None
        self._connect(address)

    def let_go(self, association: WebAssociation) -> None:
        """Give an association no further requests, and end it when it has none."""
        if association is self.quiet:
            self.quiet = None
        else:
            self.associations.remove(association)
        self._others.append(association)
        association.leave()
        self._regroup()

    def use_quiet(self) -> None:
        """Give requests to the one that had none, if there is one."""
        if self.quiet is not None:
            self.quiet.used_at = self._loop.time()
            self.associations.append(self.quiet)
            self.quiet = None

    def end_left(self) -> bool:
        for one in self._others:
            if one.leaving:
                one.leave()
        return bool(self._others)

    def accepts_again(self) -> None:
        self._owner.upstream_ready()

    # ---- associations that end

    def down(self, association: WebAssociation, link: Link | None, reason: str) -> None:
        was_last = self.up == [association]
        if association is self.quiet:
            self.quiet = None
        else:
            (self.associations if association in self.associations else self._others).remove(association)
            if len(self.associations) < QUIET_FROM:
                self.use_quiet()
        self._regroup()
        association.late_stderr.release_all()  # only now: each end may begin a request that waits
        if self.growth.fits is not None and not self._stopping:
            self._loop.call_soon(self.growth.fit)
        if self._stopping:
            if link is not None and association.requests and self._leave_handle is not None:
                self._lost(association, link, reason)
            elif link is not None:
                association.give_up_requests(reason)
                self._owner.supervisor.association_down(link, reason)
            if not self.up and not self._others:
                self._end()
            return
        if association.leaving or (self.associations and not was_last):
            self._went(association, link, reason)
            return
        if self._prober is not None:
            self._prober.stop()
        self.overload.end()
        self.growth.begin_again()
        self.last_error = reason
        self._owner.upstream_changed()  # first, so that lost requests go where the next ones go
        if link is not None:
            self.last_up = self._loop.time()
            self.events.lost += 1
            if self._presence.went_down():
                self._attempts.steady()
            self._lost(association, link, reason)
        if not any(not one.leaving for one in self._others):
            self._missed(reason, link is not None)

    def _look_at_same(self) -> None:
        assert self._same is not None
        other, instance = self._same
        self._same_looks += 1
        if other.instance == instance and self._same_looks < SAME_LOOKS:
            self._again_handle = self._loop.call_later(SAME_AGAIN, self._look_at_same)
        else:
            self._same = None
            self._attempts.soon(self)

    def _went(self, association: WebAssociation, link: Link | None, reason: str) -> None:
        """Do without one of several associations: the application stays up."""
        if association.leaving and not association.requests:
            assert link is not None
            self._owner.supervisor.association_down(link, reason)
            return
        if not association.leaving:
            steady = link is not None and self._loop.time() - link.since > HOLD
            self.growth.hold(LOOK if steady else HOLD)
        if link is not None:
            self._lost(association, link, reason)
        else:
            log.debug("no further association with %s: %s", self.address, reason)

    def _lost(self, association: WebAssociation, link: Link, reason: str) -> None:
        self._given_up.append(association.number)
        lost = association.give_up_requests(reason)
        more = f"; requests lost: {lost}" if lost else ""
        level, why = self._presence.level(logging.WARNING), reason or "it was shut down"
        log.log(level, "association %d with %s is down: %s%s", association.number, self.address, why, more)
        self._owner.supervisor.association_down(link, reason)

    def _missed(self, reason: str, was_up: bool = False) -> None:
        """Try again later: there is no association."""
        self.last_error = reason
        if self._same is not None:
            self._presence.failed(reason, logging.WARNING)
            self._again_handle = self._loop.call_later(SAME_AGAIN, self._look_at_same)
            return
        if not was_up or self._presence.flaps:
            # of a worker that is away with its application, the application's line says enough
            quiet = self.origin is not None and self.origin.link is None
            self._presence.failed(reason or "it was shut down", logging.DEBUG if quiet else logging.WARNING)
        self._attempts.later(self)
