"""Associations as plugins use them, and which of them carries the items of a channel.

A process may have several associations with another. What has an order keeps to the oldest; an item of a *swift*
channel, which is urgent and has no order, takes the one on which it arrives first.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..common.loop import Loop
from ..plugin import AssociationInfo, RequestInfo
from ..protocol.channels import Channel, Direction, Priority, Scope
from ..protocol.connection import Connection
from ..protocol.request import Request
from ..protocol.settings import Settings
from .driver import Driver

__all__ = ["Disagreement", "Link", "RoutedRequest", "Router", "is_swift", "mark_of"]

LOOK_AFTER = 0.005
"""Seconds for which counts what SCTP said of an association; it takes 3.5 µs to ask."""
LEAST_ROUND_TRIP = 0.001
"""Seconds. On one host all are alike, and often not known."""
LEAST_WINDOW = 1280
"""Bytes; a carrier may not know it."""
ITEM = 400
"""Bytes that an urgent item takes in the congestion window, about, until SCTP is asked again."""


@dataclass(slots=True, eq=False)
class Disagreement:
    """What each of two sides declares for a plugin, in the words of SETTINGS; '' for nothing."""

    here: str
    there: str
    loses: bool
    """Whether this side sends on a channel that the other side does not accept."""
    since: float = 0.0
    reported: bool = False

    def __str__(self) -> str:
        return f"here {self.here or 'nothing'}, there {self.there or 'nothing'}"


@dataclass(slots=True, eq=False)
class Link:
    """An association whose SETTINGS have been exchanged."""

    driver: Driver[Any]
    info: AssociationInfo
    mark: int = 0
    """The upper bits of its requests' numbers (`RequestInfo.reference`); see `mark_of`."""
    since: float = 0.0
    """When it came up, by the loop's clock."""
    account: str = ""
    """Under which plugins are set aside for it: the address of the oldest association with its process."""
    taken: frozenset[str] = frozenset()
    """The channels that the peer accepted when plugins were last informed."""
    down: bool = False
    """Whether it has ended."""
    together: list[Link] = field(default_factory=list)
    """The associations with its process, this one too, the oldest first, while it is up."""
    disagreements: dict[str, Disagreement] = field(default_factory=dict)
    """By plugin: where the two sides declare its channels in different ways."""
    looked: float = -math.inf
    """When SCTP was last asked for the following three."""
    round_trip: float = LEAST_ROUND_TRIP
    window: int = LEAST_WINDOW
    queued: int = 0
    """Bytes that SCTP has, and that were sent since."""

    @property
    def connection(self) -> Connection:
        connection: Connection = self.driver.connection
        return connection

    def carries(self, channel: Channel) -> bool:
        """Returns whether one side sends on the channel, and the other accepts it."""
        return channel.name in self.taken or self.connection.feedback.peer_number(channel.name) is not None

    def delay(self, now: float) -> float:
        """Returns about how many seconds an urgent item takes that is sent now: half a round trip, and the share of one
        to which the congestion window is filled. A loss makes the window smaller, so it counts, too. With requests
        under way content may come at any moment, which counts like half a window."""
        if now >= self.looked + LOOK_AFTER:
            self.looked = now
            association = self.driver.association
            if association is not None:
                figures = association.statistics()
                self.round_trip = max(figures.round_trip or 0.0, LEAST_ROUND_TRIP)
                self.window = max(figures.congestion_window or 0, LEAST_WINDOW)
                self.queued = figures.queued
        filled = self.queued / self.window + (0.5 if self.connection.requests else 0.0)
        return self.round_trip * (0.5 + filled)


class RoutedRequest(RequestInfo, Protocol):
    """A request of the services, with the association that carries it: plugins hand back the object they were given."""

    link: Link
    request: Request


def mark_of(web_side: Settings) -> int:
    """The `mark` of an association, which both sides compute from the web side's SETTINGS: 32 bits above the 24 of
    request id and generation."""
    return zlib.crc32(f"{web_side.instance}.{web_side.association}".encode()) << 24


class Router:
    """The associations that are up, and the route of each item that has no request's stream."""

    def __init__(self, loop: Loop) -> None:
        self.links: list[Link] = []
        """The oldest first."""
        self.routes: dict[str, Link] = {}
        """What `route` found, by channel, where it is the same for all items. Emptied when associations or channels
        change."""
        self._loop = loop
        self._swift: frozenset[str] = frozenset()
        self._processes: dict[tuple[str, ...], list[Link]] = {}
        """The associations with each process, the oldest first."""
        self._homes: dict[str, tuple[str, ...]] = {}
        """The process that got the last items for any, by channel: what it may have got already goes there again."""

    def add(self, link: Link) -> None:
        self.links.append(link)
        link.together = self._processes.setdefault(_process(link.info), [])
        link.together.append(link)
        self.routes.clear()

    def remove(self, link: Link) -> None:
        self.links.remove(link)
        link.together.remove(link)
        if not link.together:
            del self._processes[_process(link.info)]
        link.together = []  # it would keep the others
        self.routes.clear()

    def together(self, info: AssociationInfo) -> Sequence[Link]:
        """Returns the associations with a process, the oldest first."""
        return self._processes.get(_process(info), ())

    def declare(self, channels: Iterable[Channel]) -> None:
        """Send on these channels from now on."""
        now = {channel.name: is_swift(channel) for channel in channels}
        self._swift = frozenset(name for name, swift in now.items() if swift)
        self._homes = {name: home for name, home in self._homes.items() if name in now}
        self.routes.clear()

    def route(self, channel: str, to: AssociationInfo | None = None) -> Link | None:
        """Returns the association for the next item of a channel: with the process of `to`, if that accepts the
        channel, else with the one that got the last item, else with the one that is up for longest; None if none
        accepts it."""
        if to is not None:
            found = self.with_process(channel, to)
            if found is not None:
                return found
        found = self.routes.get(channel)
        if found is not None:
            return found
        together = self._processes.get(self._homes.get(channel, ()), [])
        found = self._oldest(together, channel)
        if found is None:
            found = self._oldest(self.links, channel)
            if found is None:
                return None
            home = self._homes[channel] = _process(found.info)
            together = self._processes[home]
        if len(together) == 1 or channel not in self._swift:
            self.routes[channel] = found
            return found
        return self._among(together, channel)

    def with_process(self, channel: str, to: AssociationInfo) -> Link | None:
        """Returns an association with the process of `to`, which may have ended; None if none accepts the channel."""
        return self._among(self.together(to), channel)

    def beside(self, channel: str, link: Link) -> Link | None:
        """Returns the association for the next item of a channel with the process of `link`, which is up; None if it
        does not accept the channel."""
        if len(link.together) == 1:
            return link if link.connection.takes(channel) else None
        return self._among(link.together, channel)

    def quickest(self, channel: str, link: Link) -> Link:
        """Returns the association for the next item of a request that `link` carries."""
        if len(link.together) <= 1 or channel not in self._swift:
            return link
        return self._among(link.together, channel) or link

    def of_processes(self, channel: str) -> list[Link]:
        """Returns an association with each process that accepts the channel. Any thread."""
        found = [self._oldest(tuple(together), channel) for together in tuple(self._processes.values())]
        return [link for link in found if link is not None]

    def _among(self, together: Sequence[Link], channel: str) -> Link | None:
        """Returns one of the associations with a process: the quickest, or the oldest where items keep their order."""
        oldest = self._oldest(together, channel)
        if oldest is None or len(together) == 1 or channel not in self._swift:
            return oldest
        now = self._loop.time()
        best, least = oldest, math.inf
        for link in together:
            connection = link.connection
            if connection.failed or connection.draining or connection.peer_draining or not connection.takes(channel):
                continue
            delay = link.delay(now)
            if delay < least:
                best, least = link, delay
        best.queued += ITEM
        return best

    @staticmethod
    def _oldest(links: Sequence[Link], channel: str) -> Link | None:
        for link in links:
            if link.connection.takes(channel) and not link.connection.failed:
                return link
        return None


def _process(info: AssociationInfo) -> tuple[str, ...]:
    """Returns what the associations with a process have in common; one that does not name it is alone."""
    return info.process if info.peer_instance else ("", info.peer, str(info.identity))


def is_swift(channel: Channel) -> bool:
    """Returns whether each item takes the association on which it arrives first. An item of a request then carries the
    number of the request, before what figures would count by; and the application could get it before the request."""
    if channel.priority is not Priority.URGENT or channel.ordered:
        return False
    return channel.scope is Scope.ASSOCIATION or (channel.direction is Direction.TO_WEB and not channel.counted)
