"""Plugin channels: what a plugin declares, and what one channel carried.

A channel carries *items* (a log line, a snapshot of metrics) from one side to the other. The plugin declares it once,
on both sides; SETTINGS number the channels a side sends on and name those it accepts. A channel of association scope
has one SCTP stream; one of request scope leases a stream for each request that uses it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, IntEnum

from ..common.bounded_queue import WhenFull
from ..errors import PluginError

__all__ = [
    "ASIDE",
    "Channel",
    "ChannelFigures",
    "Direction",
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
"""Largest item of feedback, bytes. syslog receivers accept 8 KiB by default (rsyslog) to 64 KiB (RFC 5425 section 4.3.1
asks for 8 KiB); a traceback of a deep recursion has 300 KiB."""
_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,62}")


class Scope(Enum):
    """What the items of a channel belong to."""

    REQUEST = "request"
    """Items belong to a request, whose id they carry; each request leases a stream."""
    ASSOCIATION = "association"
    """Items belong to the application as a whole; one stream for as long as the association lives."""


class Direction(Enum):
    """Which side receives the items of a channel."""

    TO_WEB = "to-web"
    TO_APPLICATION = "to-application"


ASIDE = ";aside"
"""Ends the description in FCGI_SCTP_ACCEPT of a channel whose plugin is set aside: nothing is to be sent for now. No
declaration has such a description, so a peer that does not know it sends nothing either."""

WITHDRAWN = ";withdrawn"
"""Ends the description of a channel that its sender removed; items under way keep its number."""


class Priority(IntEnum):
    """The order of sending: the lower number first (RFC 8260 section 4.3.3)."""

    CONTROL = 0
    URGENT = 1
    CONTENT = 2
    """Content of requests, and STDERR."""
    ORDINARY = 3
    """Ordinary feedback."""
    BACKGROUND = 4
    """Metrics."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel as a plugin declares it. PluginError if the declaration contradicts itself."""

    name: str
    """Unique: the plugin's name, or that, a dot and more. Lower case, at most 63 characters."""
    scope: Scope = Scope.ASSOCIATION
    direction: Direction = Direction.TO_WEB
    priority: Priority = Priority.ORDINARY
    ordered: bool = True
    """False: an item waits for no other; an urgent one takes the quickest of several associations."""
    lifetime: float | None = None
    """Seconds after which an item that could not be sent is given up (RFC 3758); None: never."""
    queue_bytes: int = 1 << 20
    """Bytes that may wait on one association (request scope: for one request); beyond them items are dropped."""
    when_full: WhenFull = WhenFull.LEAST_URGENT
    """Which items are dropped; an acknowledged channel always drops the new one."""
    acknowledged: bool = False
    """At least once: items are kept, within `queue_bytes`, until the other side has acknowledged them, and sent again
    after a lost association. Only for ordered channels of association scope."""
    spool: str | None = None
    """Directory for a file in which items of an acknowledged channel survive a killed process."""
    counted: bool = False
    """Whether each item begins with the number of its events (four bytes, big-endian), which figures then count."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise PluginError(
                f"channel name {self.name!r}: lower-case letters, digits and . _ - after a letter, up to 63"
            )
        plain = self.scope is Scope.ASSOCIATION and self.ordered and self.lifetime is None
        for wrong, why in (
            (self.priority is Priority.CONTROL, "the priority CONTROL is the protocol's own; URGENT is the highest"),
            (
                self.lifetime is not None and self.lifetime <= 0,
                f"invalid lifetime {self.lifetime}: write more than 0 s",
            ),
            (
                self.acknowledged and not plain,
                "an acknowledged channel is ordered, of association scope, and has no lifetime",
            ),
            (self.spool is not None and not self.acknowledged, "only an acknowledged channel has a spool"),
            (
                self.acknowledged and self.when_full is WhenFull.OLDEST,
                "an acknowledged channel does not drop accepted items, so not OLDEST",
            ),
            (self.queue_bytes < 1024, f"invalid queue_bytes {self.queue_bytes}: write at least 1024"),
        ):
            if wrong:
                raise PluginError(f"channel {self.name}: {why}")

    def events(self, item: bytes) -> int:
        """The events in an item that has no number yet, which items of acknowledged channels get."""
        return events_of(item, False, self.counted)

    def describe(self) -> str:
        """The value of FCGI_SCTP_CHANNEL_n: ``name;scope;priority``, then ``acknowledged`` and ``counted`` if it is."""
        flags = (";acknowledged" if self.acknowledged else "") + (";counted" if self.counted else "")
        return f"{self.name};{self.scope.value};{self.priority.name.lower()}{flags}"

    def is_described_by(self, description: str) -> bool:
        """Whether the peer's description means this channel, so that its items can be read. Missing parts and the
        priority, which concerns the sender alone, make no difference."""
        name, *about = description.split(";")
        if name != self.name or (about and about[0] != self.scope.value):
            return False
        return len(about) < 2 or (
            ("acknowledged" in about) is self.acknowledged and ("counted" in about) is self.counted
        )


def events_of(item: bytes, acknowledged: bool, counted: bool) -> int:
    """The events in an item as it travels: after its number, if the channel is acknowledged."""
    if not counted:
        return 1
    start = 8 if acknowledged else 0
    return int.from_bytes(item[start : start + 4], "big")


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
