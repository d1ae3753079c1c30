"""Plugin channels: what a plugin declares, and the bounded queue that stands before the wire.

A channel carries *items* (a log line, a snapshot of metrics) from one side to the other. It is declared once, by the
plugin, on both sides; SETTINGS number the channels a side sends on and name those it takes. Each channel of association
scope owns one SCTP stream; one of request scope leases a stream for each request that uses it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

from ..errors import PluginError

__all__ = [
    "ASIDE",
    "Budget",
    "Channel",
    "ChannelFigures",
    "Direction",
    "FeedbackQueue",
    "MAX_CHANNELS",
    "MAX_ITEM",
    "Priority",
    "Scope",
    "WITHDRAWN",
    "WhenFull",
    "events_of",
]

MAX_CHANNELS = 96
"""Channels that one side may number: the private record types 64 to 159 (and 160 to 255 for parts)."""
MAX_ITEM = 1 << 20
"""Largest item of feedback, bytes. syslog receivers take 8 KiB by default (rsyslog) to 64 KiB (RFC 5425 section 4.3.1
asks for 8 KiB); a traceback of a deep recursion has 300 KiB."""
_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,62}")


class Scope(Enum):
    REQUEST = "request"
    """Items belong to a request, whose id they carry; each request leases a stream."""
    ASSOCIATION = "association"
    """Items belong to the application as a whole; one stream for as long as the association lives."""


class Direction(Enum):
    TO_WEB = "to-web"
    TO_APPLICATION = "to-application"


ASIDE = ";aside"
"""At the end of a channel's description in FCGI_SCTP_ACCEPT: it is known, and not taken for now, because the plugin is
set aside. Such a description is no channel's, so that nothing is sent."""

WITHDRAWN = ";withdrawn"
"""At the end of the description of a channel that its sender gave up; its number stays, for what is under way."""


class Priority(IntEnum):
    """What goes first when not everything can: the lower number (RFC 8260 section 4.3.3)."""

    CONTROL = 0
    URGENT = 1
    CONTENT = 2
    """Content of requests, and STDERR."""
    ORDINARY = 3
    """Ordinary feedback."""
    BACKGROUND = 4
    """Metrics."""


class WhenFull(Enum):
    """What is dropped, and counted, when an item finds its queue full."""

    LEAST_URGENT = "least-urgent"
    """The items with the highest urgency number, the oldest of them first; the new one, if none is less urgent."""
    OLDEST = "oldest"
    """What has waited longest: for what is worth less the older it is."""
    NEWEST = "newest"
    """The new one: for what must not have gaps in the middle."""


@dataclass(frozen=True, slots=True)
class Channel:
    """What a plugin asks for. PluginError if the declaration makes no sense."""

    name: str
    """Unique in the program: the plugin's name, or begins with it and a dot. Lower case, at most 63 characters."""
    scope: Scope = Scope.ASSOCIATION
    direction: Direction = Direction.TO_WEB
    priority: Priority = Priority.ORDINARY
    ordered: bool = True
    lifetime: float | None = None
    """Seconds after which an item that could not be sent is worthless (RFC 3758); None: never."""
    queue_bytes: int = 1 << 20
    """Bytes that may wait on one association (request scope: for one request); beyond it something is dropped."""
    when_full: WhenFull = WhenFull.LEAST_URGENT
    """What that is. What an acknowledged channel holds is never dropped, but the new item: it has no other choice."""
    acknowledged: bool = False
    """At least once: items are kept, within `queue_bytes`, until the other side has taken them over, and sent again
    after a lost association. Of association scope and ordered alone."""
    spool: str | None = None
    """Directory for a file that keeps the items of an acknowledged channel when the process is killed."""
    counted: bool = False
    """Each item begins with four bytes, big-endian: how many events it holds. Figures then count events, not items."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise PluginError(
                f"channel name {self.name!r}: lower-case letters, digits and . _ - after a letter, up to 63"
            )
        if self.priority is Priority.CONTROL:
            raise PluginError(f"channel {self.name}: the priority CONTROL is the protocol's own; URGENT is the highest")
        if self.lifetime is not None and self.lifetime <= 0:
            raise PluginError(f"channel {self.name}: a lifetime is more than 0 s, not {self.lifetime}")
        if self.acknowledged and not (self.scope is Scope.ASSOCIATION and self.ordered and self.lifetime is None):
            raise PluginError(
                f"channel {self.name}: an acknowledged channel is ordered, of association scope, no lifetime"
            )
        if self.spool is not None and not self.acknowledged:
            raise PluginError(f"channel {self.name}: only an acknowledged channel has a spool")
        if self.acknowledged and self.when_full is WhenFull.OLDEST:
            raise PluginError(f"channel {self.name}: an acknowledged channel does not drop what it has taken")
        if self.queue_bytes < 1024:
            raise PluginError(f"channel {self.name}: a queue of {self.queue_bytes} bytes holds nothing; 1024 at least")

    def events(self, item: bytes) -> int:
        """What an item counts for, before it has the number of an acknowledged channel's."""
        return events_of(item, False, self.counted)

    def describe(self) -> str:
        """The value of FCGI_SCTP_CHANNEL_n, for the peer and for captures: ``name;scope;priority``, and after them
        ``acknowledged`` and ``counted`` if it is."""
        flags = (";acknowledged" if self.acknowledged else "") + (";counted" if self.counted else "")
        return f"{self.name};{self.scope.value};{self.priority.name.lower()}{flags}"

    def is_described_by(self, description: str) -> bool:
        """Whether the peer's description means this channel, so that its items can be read. What is not said there is
        not looked at, and the priority is the sender's matter."""
        name, *about = description.split(";")
        if name != self.name or (about and about[0] != self.scope.value):
            return False
        return len(about) < 2 or (
            ("acknowledged" in about) is self.acknowledged and ("counted" in about) is self.counted
        )


def events_of(item: bytes, acknowledged: bool, counted: bool) -> int:
    """What an item counts for as it travels: that of an acknowledged channel has its number first."""
    if not counted:
        return 1
    start = 8 if acknowledged else 0
    return int.from_bytes(item[start : start + 4], "big")


class Budget:
    """Bytes of memory that several holders may use together."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def add(self, count: int) -> bool:
        """Count bytes that are held from now on; False if they go beyond the limit."""
        self.used += count
        return self.used <= self.limit


class ChannelFigures:
    """What one channel carried on one association: events, which are items unless the channel is counted."""

    __slots__ = ("channel", "dropped", "received", "received_bytes", "sent", "sent_bytes")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.sent = 0
        self.sent_bytes = 0
        self.received = 0
        self.received_bytes = 0
        self.dropped: dict[int, int] = {}
        """By urgency."""

    def events(self, item: bytes) -> int:
        """The events in an item as it travels."""
        return events_of(item, self.channel.acknowledged, self.channel.counted)

    def drop(self, urgency: int, item: bytes) -> None:
        """Count an item that is not sent."""
        self.add_dropped(urgency, self.events(item))

    def add_dropped(self, urgency: int, events: int) -> None:
        self.dropped[urgency] = self.dropped.get(urgency, 0) + events


class FeedbackQueue:
    """Items that wait for the wire, in order, within a bound; `when_full` says what is dropped.

    `urgency` is a small number, lower is more urgent (a syslog severity serves as it is). What is dropped is reported
    to `on_drop` as (urgency, item): the loss is counted where the channel's other figures are.
    """

    __slots__ = ("_budget", "_by_urgency", "_bytes", "_items", "_on_drop", "_when_full", "bound", "size")

    def __init__(
        self,
        bound: int,
        on_drop: Callable[[int, bytes], None],
        budget: Budget | None = None,
        when_full: WhenFull = WhenFull.LEAST_URGENT,
    ) -> None:
        self._when_full = when_full
        self._budget = budget or Budget(bound)
        self.bound = bound
        self.size = 0
        self._items: deque[list[Any]] = deque()
        # [item, urgency]; the same lists, by urgency: emptying one there leaves a gap here that pop() steps over
        self._by_urgency: dict[int, deque[list[Any]]] = {}
        self._bytes: dict[int, int] = {}
        self._on_drop = on_drop

    def __bool__(self) -> bool:
        return self.size > 0

    def push(self, item: bytes, urgency: int) -> bool:
        """Queue an item of at least one byte; False if it was itself the one to be dropped."""
        length = len(item)
        budget = self._budget
        if self.size + length > self.bound or budget.used + length > budget.limit:
            excess = max(self.size + length - self.bound, budget.used + length - budget.limit)
            if excess > self._droppable(urgency):
                # nothing that may be dropped would make room: it is not dropped for nothing
                self._on_drop(urgency, item)
                return False
            while excess > 0:
                excess -= self._drop_oldest() if self._when_full is WhenFull.OLDEST else self._drop_one()
        cell = [item, urgency]
        self._items.append(cell)
        by_urgency = self._by_urgency.get(urgency)
        if by_urgency is None:
            by_urgency = self._by_urgency[urgency] = deque()
            self._bytes[urgency] = 0
        by_urgency.append(cell)
        self._bytes[urgency] += length
        self.size += length
        budget.used += length
        return True

    def _droppable(self, urgency: int) -> int:
        """Bytes that may be dropped for a new item."""
        if self._when_full is WhenFull.NEWEST:
            return 0
        if self._when_full is WhenFull.OLDEST:
            return self.size
        return sum(held for level, held in self._bytes.items() if level > urgency)

    def pop(self) -> bytes:
        """Remove and return the item that has waited longest; b'' if there is none."""
        return self._pop()[0]

    def _pop(self) -> tuple[bytes, int]:
        while self._items:
            item: bytes
            urgency: int
            item, urgency = self._items.popleft()
            if item:
                # the longest waiting of all is the longest waiting of its urgency
                self._by_urgency[urgency].popleft()
                self._account(urgency, len(item))
                return item, urgency
        return b"", 0

    def _drop_oldest(self) -> int:
        """Drop the item that has waited longest; its bytes, 0 if there is none."""
        item, urgency = self._pop()
        if item:
            self._on_drop(urgency, item)
        return len(item)

    def pop_all(self) -> list[tuple[bytes, int]]:
        """Remove and return all items in order, each with its urgency."""
        waiting = []
        while self:
            waiting.append(self._pop())
        return waiting

    def drop_all(self) -> None:
        """Nobody will take what waits."""
        while self._drop_one():
            pass

    def _drop_one(self) -> int:
        """Drop the item that has waited longest among the least urgent; its bytes, 0 if there is none."""
        worst = max((level for level, queue in self._by_urgency.items() if queue), default=None)
        if worst is None:
            return 0
        cell = self._by_urgency[worst].popleft()
        item: bytes
        item, cell[0] = cell[0], b""
        length = len(item)
        self._account(worst, length)
        self._on_drop(worst, item)
        return length

    def _account(self, urgency: int, length: int) -> None:
        self._bytes[urgency] -= length
        self.size -= length
        self._budget.used -= length
