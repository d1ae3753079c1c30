"""Channels that this side sends on: what waits on each, how much its plugin may send, what is lost."""

from __future__ import annotations

import logging
import os
from collections import deque
from pathlib import Path

from ..common.loop import Loop
from ..plugin import AssociationInfo, Make
from ..protocol.channels import MAX_ITEM, Channel, WhenFull
from .inbox import WakeLoop, WakeUp
from .links import Link, Router
from .spool import Spool

__all__ = ["Gathering", "Outgoing", "PlainChannel", "Quota", "SpooledChannel", "spool_path"]

log = logging.getLogger("fcgi_sctp.plugins")

_NUMBER = 8
"""Bytes of the number before an item of an acknowledged channel."""
CROWDED = 0.25
"""Part of a channel's room from which on it is crowded: something may have to be dropped soon."""
MOST_A_SECOND = 20_000
"""Items that one plugin may send in a second, and once as many after a pause: with some 10 µs each they take a fifth of
the loop's time. Further ones are dropped; on an acknowledged channel they stay in the spool for a while. A plugin that
has more events puts many into one item (`Host.gather`), as the syslog plugin does with 100,000 lines a second."""
REPORT_EXCESS_EVERY = 60.0
"""Seconds between two lines in the log about one plugin that sends more."""
RETRY_FILL = 0.05
"""Seconds until an association that had no room for the first item of a spool is tried again. Once it has an item, its
acknowledgement says that there is room."""


class Quota:
    """The items that one plugin may still send, on all its channels. Any thread: a count that gets lost between two
    threads makes no difference."""

    __slots__ = ("_loop", "_reported", "_since", "excess", "left", "plugin")

    def __init__(self, plugin: str, loop: Loop) -> None:
        self.plugin = plugin
        self.left = MOST_A_SECOND
        self.excess = 0
        """Events dropped since the log last said so."""
        self._loop = loop
        self._since = loop.time()
        """When `left` was last filled up."""
        self._reported = self._since - REPORT_EXCESS_EVERY

    def spend(self) -> bool:
        """Count one item; False if none is left in this second."""
        if self.left <= 0:
            now = self._loop.time()
            if now < self._since + 1.0:
                return False
            self._since = now
            self.left = MOST_A_SECOND
        self.left -= 1
        return True

    def renewed_in(self) -> float:
        """Seconds until there is some again."""
        return self._since + 1.0 - self._loop.time()

    def exceed(self, events: int) -> None:
        """Count events that were dropped because `spend` was False."""
        self.excess += events
        now = self._loop.time()
        if now < self._reported + REPORT_EXCESS_EVERY:
            return
        self._reported = now
        excess, self.excess = self.excess, 0
        log.warning(
            "plugin %s sends more than %d items a second; further ones are dropped (%d events since the last report)",
            self.plugin,
            MOST_A_SECOND,
            excess,
        )


class Gathering:
    """Implements `fcgi_core.plugin.Gathering`."""

    def __init__(self, outgoing: Outgoing, make: Make, wake_up: WakeUp) -> None:
        self.make = make
        self._outgoing = outgoing
        self._wake_up = wake_up

    def ready(self) -> None:
        self._wake_up.ask()

    def lose(self, count: int) -> None:
        self._outgoing.count_lost(count)


def _nothing(crowded: bool) -> tuple[tuple[bytes, int, AssociationInfo | None], ...]:
    """The `make` of a gathering whose channel was withdrawn."""
    return ()


class Outgoing:
    """A channel that this side sends on."""

    def __init__(self, channel: Channel, quota: Quota, lost: dict[str, int]) -> None:
        self.channel = channel
        self.name = channel.name
        self.quota = quota
        self.gatherings: list[Gathering] = []
        self._lost = lost
        """Lost events by channel, of all channels."""

    def lose(self, item: bytes) -> int:
        """Count an item as lost. Returns its number of events. Any thread."""
        events = self.channel.events(item)
        self.count_lost(events)
        return events

    def count_lost(self, events: int) -> None:
        """Count events as lost. Any thread."""
        self._lost.setdefault(self.name, 0)
        self._lost[self.name] += events  # nothing is called in between, so neither a thread nor a destructor interferes

    def exceed(self, item: bytes) -> None:
        """Drop an item, because its plugin has sent too many."""
        self.quota.exceed(self.lose(item))

    def withdraw(self) -> None:
        """The channel is not declared any more, or in another way."""
        for gathering in self.gatherings:
            gathering.make = _nothing  # it belongs to the half, which holds the gathering: a circle
        self.gatherings = []

    def waiting(self) -> int:
        """The number of items that wait for an association, or for an acknowledgement."""
        raise NotImplementedError

    def crowded(self, link: Link | None) -> bool:
        """Whether items may have to be dropped soon, if they go to `link`."""
        raise NotImplementedError

    def go_to(self, link: Link) -> None:
        """Send what waits to an association that has come up, or whose peer accepts the channel now."""
        raise NotImplementedError

    def close(self, *, peers: bool) -> None:
        """Report what is lost with this process; `peers`: whether there is an association."""
        raise NotImplementedError

    def _report_waiting(self) -> None:
        text = "channel %s: %d items are lost with this process, because no peer has accepted them"
        log.warning(text, self.name, self.waiting())


class PlainChannel(Outgoing):
    """A channel whose items are the association's as soon as it has them, and wait here while there is none."""

    def __init__(self, channel: Channel, quota: Quota, lost: dict[str, int]) -> None:
        super().__init__(channel, quota, lost)
        self._waiting: deque[tuple[bytes, int]] = deque()
        """Items with their urgency."""
        self._size = 0
        """Bytes of these."""

    def wait(self, item: bytes, urgency: int) -> None:
        """Keep an item that no peer accepts yet; within the channel's bound, beyond which the channel says whether the
        oldest or the newest is lost."""
        bound = self.channel.queue_bytes
        size = self._size + len(item)
        if size > bound and self.channel.when_full is WhenFull.NEWEST:
            self.lose(item)
            return
        self._waiting.append((item, urgency))
        while size > bound:
            oldest, _ = self._waiting.popleft()
            size -= len(oldest)
            self.lose(oldest)
        self._size = size

    def waiting(self) -> int:
        return len(self._waiting)

    def crowded(self, link: Link | None) -> bool:
        return link is not None and link.connection.feedback.filled(self.name) > CROWDED

    def go_to(self, link: Link) -> None:
        waiting, self._waiting, self._size = self._waiting, deque(), 0
        for item, urgency in waiting:
            link.connection.send_feedback(self.name, item, None, urgency)

    def withdraw(self) -> None:
        super().withdraw()
        waiting, self._waiting, self._size = self._waiting, deque(), 0
        for item, _ in waiting:
            self.lose(item)

    def close(self, *, peers: bool) -> None:
        if self._waiting:
            self._report_waiting()
        self.withdraw()


class SpooledChannel(Outgoing):
    """An acknowledged channel: its spool keeps each item until the peer has acknowledged it.

    If an association is lost before, its items are sent again on another: at least once, and numbered, so that the
    receiver recognizes a repetition.
    """

    def __init__(
        self,
        channel: Channel,
        quota: Quota,
        lost: dict[str, int],
        router: Router,
        loop: Loop,
        wake_loop: WakeLoop,
        spool: Spool | None = None,
    ) -> None:
        """`spool` is that of the channel before it was declared in another way. OSError if none can be opened."""
        super().__init__(channel, quota, lost)
        self.spool = spool or self._open_spool()
        self.filled = True
        """Whether items may have come that no association has yet."""
        self._router = router
        self._again = WakeUp(self._fill_again, loop, wake_loop)

    def _open_spool(self) -> Spool:
        spool = Spool(self.channel.queue_bytes, spool_path(self.channel))
        if spool.unreadable:
            text = "spool %s: %d bytes are damaged and were skipped; %d items could be read"
            log.warning(text, spool.path, spool.unreadable, len(spool) + spool.left_out)
        if spool.left_out:
            text = "spool %s holds more than the %d bytes of channel %s; its latest %d items are lost"
            log.warning(text, spool.path, spool.bound, self.name, spool.left_out)
            self.count_lost(spool.left_out)
        return spool

    def keep(self, item: bytes) -> bool:
        """Keep an item, which then survives the end of the process; False if it is lost. Any thread."""
        # an item that the channel can never carry would hold up all items after it
        if 0 < len(item) <= MAX_ITEM - _NUMBER and self.spool.add(item):
            self.filled = True
            return True
        self.lose(item)
        return False

    def fill(self) -> Link | None:
        """Send what no association has yet; returns the association that it was sent to, None if there is none."""
        self.filled = False
        link = self._router.route(self.name)
        if link is not None:
            self.go_to(link)
        return link

    def go_to(self, link: Link) -> None:
        """Send what no association has yet, as far as there is room, which acknowledgements make, and the plugin's
        quota allows."""
        spool = self.spool
        connection = link.connection
        while (entry := spool.next()) is not None:
            number, item = entry
            if connection.failed:
                return  # it is about to go, and its items go elsewhere
            if not connection.feedback.has_room(self.name, len(item) + _NUMBER):
                if not spool.in_flight(link):
                    self._again.ask_after(RETRY_FILL)
                return
            if not self.quota.spend():
                self._again.ask_after(self.quota.renewed_in())
                return
            connection.send_feedback(self.name, number.to_bytes(_NUMBER, "big") + item, None, 0)
            spool.sent(link, number)

    def _fill_again(self) -> None:
        link = self.fill()
        if link is not None:
            link.driver.wake()

    def waiting(self) -> int:
        return len(self.spool)

    def crowded(self, link: Link | None) -> bool:
        return self.spool.size > CROWDED * self.spool.bound

    def withdraw(self) -> None:
        super().withdraw()
        self._again.closed = True

    def close(self, *, peers: bool) -> None:
        if not peers and self.spool.path is None and len(self.spool):
            self._report_waiting()
        self.spool.close()


def spool_path(channel: Channel) -> Path | None:
    """The spool file of a channel in this process; workers have one each."""
    if channel.spool is None:
        return None
    worker = os.environ.get("FCGI_SCTP_WORKER", "0")
    return Path(channel.spool) / f"{channel.name}.{worker}.spool"
