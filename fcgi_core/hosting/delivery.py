"""Items of feedback on their way from plugins to associations.

Plugins hand items over on any thread; the loop picks them up, many to a wake-up, and gives each to an association. An
item of a plain channel is the association's from then on. One of an acknowledged channel stays in the channel's spool
from the call that sends it until the peer has said that it took it over; if the association is lost before, it is sent
again on another: at least once, numbered, so that the receiver can tell a repetition.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from ..errors import PluginError
from ..plugin import AssociationInfo, Make, RequestInfo
from ..protocol.channels import MAX_ITEM, Channel, Scope, WhenFull
from ..protocol.connection import Connection
from ..protocol.request import Request
from ..protocol.settings import Settings
from .agreement import Disagreement
from .driver import Driver
from .spool import Spool

__all__ = ["Delivery", "Gathering", "Link", "MAX_EXTRA_STREAMS", "RoutedRequest", "Stream", "mark_of"]

log = logging.getLogger("fcgi_sctp.plugins")

_NUMBER = 8
"""Bytes of the number before an item of an acknowledged channel."""
_STREAMS = "fcgi_sctp.streams"
"""In `RequestInfo.plugin_data`: how many more streams were opened, by channel. No plugin has a dot in its name."""
TURN = 500
"""Items that are picked up before other work of the loop has its turn, and what they go to is sent (some 2 ms)."""
MANY = 4 * TURN
"""Items in the queue from which on a thread that adds one lets the loop go first: a thread that does nothing else would
keep the interpreter to itself, and the queue would grow."""
LET_GO_FIRST = 0.001
"""Seconds that it waits then, once."""
GATHER_AFTER = 0.005
"""Seconds after one gathering until the next: what comes meanwhile goes together. What comes first goes at once."""
MOST_URGENT = 2
"""Items of this urgency or less never wait for others."""
CROWDED = 0.25
"""Part of a channel's room from which on it is crowded: something may have to be dropped soon."""
MAX_EXTRA_STREAMS = 16
"""Streams that one request may have on one channel beside its first."""
MOST = 100_000
"""Items in the queue; no more are taken."""
MOST_A_SECOND = 20_000
"""Items that one plugin may hand over in a second, and once as many after a pause: with some 10 µs each they take a
fifth of the loop's time. What is more is dropped; of an acknowledged channel it stays in the spool for a while. One
that has more puts many events into one item (`Host.gather`), as the syslog plugin does with 100,000 lines a second."""
TELL_EXCESS_EVERY = 60.0
"""Seconds between two lines in the log about one plugin that hands over more."""
RETRY_FILL = 0.05
"""Seconds until an association that had no room for the first item of a spool is tried again. After that
acknowledgements tell."""


class RoutedRequest(RequestInfo, Protocol):
    """What the services' own request objects have beside what plugins see: where their feedback goes."""

    link: Link
    request: Request


@dataclass(slots=True, eq=False)
class Link:
    """An association whose SETTINGS have been exchanged."""

    driver: Driver[Any]
    info: AssociationInfo
    mark: int = 0
    """What numbers of its requests begin with: both sides make it of what the web side calls the association."""
    since: float = field(default_factory=time.monotonic)
    """When it came up."""
    taken: frozenset[str] = frozenset()
    """The channels that the peer took when plugins last heard of it."""
    down: bool = False
    """It is over."""
    disagreements: dict[str, Disagreement] = field(default_factory=dict)
    """By plugin: where the two sides declare its channels in different ways."""

    @property
    def connection(self) -> Connection:
        connection: Connection = self.driver.connection
        return connection


class Stream:
    """Implements `fcgi_core.plugin.Stream`: one more stream of a request, and where its items go."""

    __slots__ = ("_channel", "_delivery", "_target", "extra")

    def __init__(self, delivery: Delivery, channel: str, target: RoutedRequest, extra: int) -> None:
        self._delivery = delivery
        self._channel = channel
        self._target = target
        self.extra = extra
        """Its number among those that the request has on the channel, from 1."""

    @property
    def link(self) -> Link:
        return self._target.link

    @property
    def request(self) -> Request:
        return self._target.request

    def send(self, item: bytes, *, urgency: int = 6) -> None:
        self._delivery.queue(self._channel, item, self, urgency)


def mark_of(web_side: Settings) -> int:
    """The `mark` of an association, by the web side's SETTINGS: 32 bits above the 24 of request id and generation."""
    return zlib.crc32(f"{web_side.instance}.{web_side.association}".encode()) << 24


Target = RequestInfo | Link | Stream | None


class _Quota:
    """What one plugin may still hand over, on all its channels. Any thread: a count that gets lost between two of them
    makes no difference."""

    __slots__ = ("excess", "left", "plugin", "since", "told")

    def __init__(self, plugin: str, now: float) -> None:
        self.plugin = plugin
        self.left = MOST_A_SECOND
        self.since = now
        """When it had all of it."""
        self.excess = 0
        """Events dropped since that was last said."""
        self.told = -TELL_EXCESS_EVERY

    def renewed(self, now: float) -> bool:
        """Nothing is left: whether a second has passed, and there is again."""
        if now < self.since + 1.0:
            return False
        self.since = now
        self.left = MOST_A_SECOND
        return True


def _nothing(crowded: bool) -> tuple[tuple[bytes, int, AssociationInfo | None], ...]:
    """The `make` of a gathering whose channel was withdrawn."""
    return ()


class Gathering:
    """Implements `fcgi_core.plugin.Gathering`."""

    def __init__(self, channel: Channel, make: Make, delivery: Delivery) -> None:
        self.channel = channel
        self.make = make
        self._delivery = delivery

    def ready(self) -> None:
        """There is something again: `make` is called soon, on the loop's thread. Any thread."""
        self._delivery.gather_soon()

    def lose(self, count: int) -> None:
        """Count events that there was no room for. Any thread."""
        self._delivery.lose(self.channel.name, count)


def _spool_path(channel: Channel) -> Path | None:
    """The spool file of a channel in this process; workers have one each."""
    if channel.spool is None:
        return None
    worker = os.environ.get("FCGI_SCTP_WORKER", "0")
    return Path(channel.spool) / f"{channel.name}.{worker}.spool"


class Delivery:
    """The sending half of all channels of one process."""

    def __init__(
        self,
        channels: Iterable[Channel],
        wake_loop: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`channels` are those that this side sends on at first; `wake_loop` is asyncio's call_soon_threadsafe,
        `call_later` its call_later, `clock` its time. OSError if the spool of one cannot be opened."""
        self.links: list[Link] = []
        """Associations, the oldest first."""
        self.lost: dict[str, int] = {}
        """Events by channel that found no association and no room to wait."""
        self._channels: dict[str, Channel] = {}
        self._spools: dict[str, Spool] = {}
        self._resting: dict[str, Spool] = {}
        """Spools of channels that are not declared now: what is in them goes when they are again."""
        self._withdrawn: dict[str, Channel] = {}
        self._quotas: dict[str, _Quota] = {}
        """By channel; those of a plugin have one together."""
        self._waiting: dict[str, deque[tuple[bytes, int]]] = {}
        self._waiting_bytes: dict[str, int] = {}
        self._queue: deque[tuple[str, bytes, Target, int]] = deque()
        self._filled: dict[str, None] = {}
        """Acknowledged channels with items that were not there before."""
        self._filling: set[str] = set()
        """Those that are to be filled from their spool after a while."""
        self._gatherings: list[Gathering] = []
        self._gathering = False
        """Whether a gathering is to come."""
        self._loop_thread = threading.get_ident()
        self._takers: dict[str, Link] = {}
        """By channel of association scope: the association that gets its items. Emptied when associations change."""
        self._wake_loop = wake_loop
        self._call_later = call_later
        self._clock = clock
        self._awake = False
        self._expected = False
        """Whether `send_queued` is to come after a while."""
        self._closed = False
        self.declare(channels)

    def declare(self, channels: Iterable[Channel]) -> None:
        """The channels that this side sends on from now on. OSError if the spool of one that is new cannot be opened,
        and nothing has changed. The connections are told by whoever calls this, after it."""
        fresh = {channel.name: channel for channel in channels}
        made: dict[str, Spool] = {}
        for name, channel in fresh.items():
            old = self._spools.get(name) or self._resting.get(name)
            if channel.acknowledged and (old is None or old.path != _spool_path(channel)):
                try:
                    made[name] = self._open_spool(channel)
                except OSError:
                    for spool in made.values():
                        spool.close()
                    raise
        for name, channel in self._channels.items():
            if fresh.get(name) != channel:
                self._withdraw(name)
        for name, channel in fresh.items():
            if not channel.acknowledged:
                continue
            resting = self._resting.pop(name, None)
            if name in made:
                if resting is not None:
                    resting.close()
                    if resting.path is None:
                        self.lose(name, len(resting))
                self._spools[name] = made[name]
            elif resting is not None:
                resting.bound = channel.queue_bytes
                self._spools[name] = resting
            if self._spools[name]:
                self._filled[name] = None
        self._withdrawn |= self._channels
        for name in fresh:
            self._withdrawn.pop(name, None)
            if name not in self._quotas:
                plugin = name.partition(".")[0]
                of_plugin = [one for one in self._quotas.values() if one.plugin == plugin]
                self._quotas[name] = of_plugin[0] if of_plugin else _Quota(plugin, self._clock())
        self._channels = fresh
        self._takers.clear()

    def _open_spool(self, channel: Channel) -> Spool:
        spool = Spool(channel.queue_bytes, _spool_path(channel))
        if spool.unreadable:
            log.warning(
                "spool %s: %d bytes are damaged and were stepped over; %d items could be read",
                spool.path,
                spool.unreadable,
                len(spool) + spool.left_out,
            )
        if spool.left_out:
            log.warning(
                "spool %s holds more than the %d bytes of channel %s; its latest %d items are lost",
                spool.path,
                spool.bound,
                channel.name,
                spool.left_out,
            )
            self.lose(channel.name, spool.left_out)
        return spool

    def _withdraw(self, name: str) -> None:
        for item, _ in self._waiting.pop(name, ()):
            self._lose(name, item)
        self._waiting_bytes.pop(name, None)
        self._filled.pop(name, None)
        kept: list[Gathering] = []
        for gathering in self._gatherings:
            if gathering.channel.name == name:
                gathering.make = _nothing  # it is the half's, which holds the gathering: a circle
            else:
                kept.append(gathering)
        self._gatherings = kept
        spool = self._spools.pop(name, None)
        if spool is not None:
            self._resting[name] = spool

    # ---- any thread

    def queue(self, channel: str, item: bytes, target: Target, urgency: int) -> None:
        """Queue an item for the loop to pick up. PluginError for a channel that was not declared."""
        if channel not in self._channels:
            if channel in self._withdrawn:
                self._lose(channel, item)  # a thread that has not noticed yet
                return
            raise PluginError(f"channel {channel!r} was not declared for sending on this side")
        spool = self._spools.get(channel)
        if spool is None:
            quota = self._quotas[channel]
            if quota.left <= 0 and not quota.renewed(self._clock()) and not self._waited_for(quota):
                self._exceed(quota, channel, item)
                return
            quota.left -= 1
            if len(self._queue) >= MOST:
                self._lose(channel, item)
                return
            self._queue.append((channel, item, target, urgency))
        elif _fits(item) and spool.add(item):  # now: when this returns, the item survives what becomes of the process
            self._filled[channel] = None
        else:
            self._lose(channel, item)
            return
        if not (self._awake or self._closed):
            if target is not None and urgency > MOST_URGENT:
                # its request is about to say more, or to end, which sends it too: no wake-up for each line
                if not self._expected:
                    self._expected = True
                    try:
                        self._wake_loop(self._expect)
                    except BaseException:
                        self._expected = False
                        raise
            else:
                self._wake()
        if len(self._queue) > MANY and threading.get_ident() != self._loop_thread:
            time.sleep(LET_GO_FIRST)

    def gather(self, channel: str, make: Make) -> Gathering:
        """See `Host.gather`. PluginError for a channel that was not declared, or of request scope."""
        declared = self._channels.get(channel)
        if declared is None or declared.scope is Scope.REQUEST:
            raise PluginError(f"channel {channel!r} was not declared for sending on this side at association scope")
        gathering = Gathering(declared, make, self)
        self._gatherings.append(gathering)
        return gathering

    def open_stream(self, channel: str, request: RequestInfo) -> Stream:
        """See `Host.open_stream`."""
        declared = self._channels.get(channel)
        if declared is None or declared.scope is not Scope.REQUEST:
            raise PluginError(f"channel {channel!r} was not declared for sending on this side at request scope")
        opened = request.plugin_data.setdefault(_STREAMS, {})
        opened.setdefault(channel, 0)
        opened[channel] += 1  # another thread may do the same: nothing is called in between
        extra = opened[channel]
        if extra > MAX_EXTRA_STREAMS:
            raise PluginError(f"channel {channel}: {MAX_EXTRA_STREAMS} more streams are all that a request can have")
        return Stream(self, channel, cast(RoutedRequest, request), extra)

    def gather_soon(self) -> None:
        """Somebody has something to be gathered."""
        if not self._gathering and not self._closed:
            self._gathering = True
            try:
                self._wake_loop(self._gather)
            except BaseException:  # whatever it is, the next one tries again
                self._gathering = False
                raise

    def _wake(self) -> None:
        """Have the loop pick up what is queued."""
        self._awake = True
        try:
            self._wake_loop(self.send_queued)
        except BaseException:
            self._awake = False
            raise

    def _waited_for(self, quota: _Quota) -> bool:
        """On another thread than the loop's: let the loop go first, and look whether there is some left then."""
        if threading.get_ident() == self._loop_thread:
            return False
        time.sleep(LET_GO_FIRST)
        return quota.left > 0 or quota.renewed(self._clock())

    def _exceed(self, quota: _Quota, channel: str, item: bytes) -> None:
        """Drop an item, for its plugin has handed over too many."""
        events = self._lose(channel, item)
        quota.excess += events
        now = self._clock()
        if now < quota.told + TELL_EXCESS_EVERY:
            return
        quota.told = now
        excess, quota.excess = quota.excess, 0
        log.warning(
            "plugin %s hands over more than %d items a second; what is more is dropped (%d events since this was last"
            " said)",
            quota.plugin,
            MOST_A_SECOND,
            excess,
        )

    def lose(self, name: str, count: int) -> None:
        """Count events that are lost."""
        self.lost.setdefault(name, 0)
        self.lost[name] += count  # nothing is called in between, so neither a thread nor a destructor can interfere

    # ---- the loop's thread

    def _gather(self) -> None:
        if self._fetch() and not self._gathering and not self._closed:
            self._gathering = True
            self._call_later(GATHER_AFTER, self._gather)

    def _fetch(self) -> bool:
        """Send what is there to be gathered; whether there was something."""
        # from now on whoever adds something calls again; what is there already is seen here
        self._gathering = False
        touched: set[Driver[Any]] = set()
        found = False
        for gathering in self._gatherings:
            channel = gathering.channel
            taker = self._taker(channel.name)
            spool = self._spools.get(channel.name)
            quota = self._quotas[channel.name]
            for item, urgency, association in gathering.make(self._crowded(channel, taker)):
                found = True
                if spool is None:
                    if quota.left <= 0 and not quota.renewed(self._clock()):
                        self._exceed(quota, channel.name, item)
                        continue
                    quota.left -= 1
                    target = next((link for link in self.links if link.info is association), None)
                    link = self._send(channel.name, item, target, urgency)
                    if link is not None:
                        touched.add(link.driver)
                elif not (_fits(item) and spool.add(item)):
                    self._lose(channel.name, item)
            if spool is not None and taker is not None:
                self._fill(channel.name, taker)
                touched.add(taker.driver)
        for driver in touched:
            driver.wake()
        return found

    def send_waiting(self) -> None:
        """A request is about to end: what was queued goes before."""
        if self._queue:
            self.send_queued()

    def flush(self) -> None:
        """Give associations what is queued, and what is there to be gathered; not all, where threads go on adding."""
        for _ in range(MOST // TURN):
            if not self._fetch():
                break
        for _ in range(MOST // TURN):
            if not self._queue and not self._filled:
                break
            self.send_queued()

    def _expect(self) -> None:
        def due() -> None:
            self._expected = False
            self.send_queued()

        self._call_later(GATHER_AFTER, due)

    def _crowded(self, channel: Channel, link: Link | None) -> bool:
        spool = self._spools.get(channel.name)
        if spool is not None:
            return spool.size > CROWDED * spool.bound
        return link is not None and link.connection.feedback.filled(channel.name) > CROWDED

    def add(self, link: Link) -> None:
        """An association is up: what waited goes to it."""
        self.links.append(link)
        self._takers.clear()
        for name in self._channels:
            if link.connection.takes(name):
                self._send_what_waited(name, link)
        link.driver.wake()

    def remove(self, link: Link) -> None:
        """It is gone: what it had not acknowledged, or not handed to SCTP yet, goes to another."""
        self.links.remove(link)
        self._takers.clear()
        for name in self._channels:
            self._send_elsewhere(name, link)
        for spool in self._resting.values():
            spool.forget(link)

    def changed(self, link: Link) -> None:
        """The peer takes other channels than before: what waited for one goes to it, what is on one that it left goes
        elsewhere."""
        self._takers.clear()
        for name in self._channels:
            if link.connection.takes(name):
                self._send_what_waited(name, link)
            else:
                self._send_elsewhere(name, link)
        link.driver.wake()

    def _send_what_waited(self, name: str, link: Link) -> None:
        self._waiting_bytes.pop(name, None)
        for item, urgency in self._waiting.pop(name, ()):
            link.connection.send_feedback(name, item, None, urgency)
        if name in self._spools:
            self._fill(name, link)

    def _send_elsewhere(self, name: str, link: Link) -> None:
        """`link` is gone, or does not take the channel: what has not been acknowledged, or not been handed to SCTP."""
        waiting = link.connection.feedback.take_back(name)
        spool = self._spools.get(name)
        if spool is None:
            for item, urgency in waiting:
                other = self._send(name, item, None, urgency)
                if other is not None:
                    other.driver.wake()
        elif spool.forget(link):
            other = self._taker(name)
            if other is not None:
                self._fill(name, other)
                other.driver.wake()

    def acknowledged(self, link: Link, channel: str, number: int) -> None:
        """The peer has taken over all that was sent to it on this channel, up to `number`."""
        spool = self._spools.get(channel)
        if spool is not None:
            spool.acknowledge(link, number)
            self._fill(channel, link)
        elif (resting := self._resting.get(channel)) is not None:
            resting.acknowledge(link, number)

    def send_queued(self) -> None:
        """Pick up what is queued, and come again if it is much."""
        queue = self._queue
        touched: set[Driver[Any]] = set()
        self._awake = False
        takers = self._takers
        for _ in range(min(len(queue), TURN)):
            channel, item, target, urgency = queue.popleft()
            link = takers.get(channel) if target is None else None
            if link is not None:
                link.connection.send_feedback(channel, item, None, urgency)
            else:
                link = self._send(channel, item, target, urgency)
            if link is not None:
                touched.add(link.driver)
        if queue and not self._awake and not self._closed:
            self._wake()
        while self._filled:
            name, _ = self._filled.popitem()
            link = self._taker(name)
            if link is not None:
                self._fill(name, link)
                touched.add(link.driver)
        for driver in touched:
            driver.wake()

    def close(self) -> None:
        """Send what is queued; nothing is taken after it. What found no peer is lost, and the log says so; a spool's
        file keeps it."""
        self._closed = True
        self.flush()
        unsent = [] if self.links else [name for name, spool in self._spools.items() if spool.path is None]
        for name in (*self._waiting, *unsent):
            count = self.spooled(name)
            if count:
                log.warning("channel %s: %d items are lost with this process, for no peer has taken them", name, count)
        for name, waiting in self._waiting.items():
            for item, _ in waiting:
                self._lose(name, item)
            waiting.clear()
        for spool in (*self._spools.values(), *self._resting.values()):
            spool.close()

    def spooled(self, channel: str) -> int:
        """Items that wait for an acknowledgement or for an association."""
        spool = self._spools.get(channel)
        return len(self._waiting.get(channel, ())) if spool is None else len(spool)

    def _send(self, name: str, item: bytes, target: Target, urgency: int) -> Link | None:
        """Give an item to an association; which one, or None if it waits or is lost."""
        channel = self._channels.get(name)
        if channel is None:
            self._lose(name, item)  # it was withdrawn meanwhile
            return None
        request: Request | None = None
        link: Link | None = None
        if isinstance(target, Link):
            link = target
        elif target is not None:
            # plugins hand back the object that they were given
            routed = cast(RoutedRequest, target)
            link = getattr(routed, "link", None)  # there is none yet if no application took the request
            if channel.scope is Scope.REQUEST:
                request = getattr(routed, "request", None)
        if channel.scope is Scope.REQUEST:
            if request is None or link not in self.links:
                self._lose(name, item)
                return None
            link.connection.send_feedback(name, item, request, urgency, getattr(target, "extra", 0))
            return link
        if link not in self.links or not link.connection.takes(name):
            link = self._taker(name)
        if link is None:
            self._wait(channel, item, urgency)
        else:
            link.connection.send_feedback(name, item, None, urgency)
            if target is None:
                self._takers[name] = link
        return link

    def _taker(self, name: str) -> Link | None:
        return next((link for link in self.links if link.connection.takes(name)), None)

    def _fill(self, name: str, link: Link) -> None:
        """Send what the spool holds and no association has, as far as there is room, which acknowledgements make, and
        the plugin's share allows."""
        spool = self._spools[name]
        connection = link.connection
        quota = self._quotas[name]
        while (entry := spool.next()) is not None:
            number, item = entry
            if connection.failed:
                return  # it is about to go, and what it has goes elsewhere
            if not connection.feedback.has_room(name, len(item) + _NUMBER):
                if not spool.in_flight(link):
                    self._fill_later(name, RETRY_FILL)
                return
            if quota.left <= 0 and not quota.renewed(self._clock()):
                self._fill_later(name, quota.since + 1.0 - self._clock())
                return
            quota.left -= 1
            connection.send_feedback(name, number.to_bytes(_NUMBER, "big") + item, None, 0)
            spool.sent(link, number)

    def _fill_later(self, name: str, seconds: float) -> None:
        if name not in self._filling:
            self._filling.add(name)
            self._call_later(seconds, lambda: self._fill_again(name))

    def _fill_again(self, name: str) -> None:
        self._filling.discard(name)
        link = self._taker(name)
        if link is not None and name in self._spools:
            self._fill(name, link)
            link.driver.wake()

    def _wait(self, channel: Channel, item: bytes, urgency: int) -> None:
        """Nobody takes the channel yet: keep the latest, or the first, within the channel's bound."""
        waiting = self._waiting.setdefault(channel.name, deque())
        size = self._waiting_bytes.get(channel.name, 0) + len(item)
        if size > channel.queue_bytes and channel.when_full is WhenFull.NEWEST:
            self._lose(channel.name, item)
            return
        waiting.append((item, urgency))
        while size > channel.queue_bytes:
            oldest, _ = waiting.popleft()
            size -= len(oldest)
            self._lose(channel.name, oldest)
        self._waiting_bytes[channel.name] = size

    def _lose(self, name: str, item: bytes) -> int:
        """Count an item that is lost; its events."""
        channel = self._channels.get(name) or self._withdrawn[name]
        events = channel.events(item)
        self.lose(name, events)
        return events


def _fits(item: bytes) -> bool:
    """Whether an acknowledged channel can ever carry the item: what it cannot would hold up what comes after it."""
    return 0 < len(item) <= MAX_ITEM - _NUMBER
