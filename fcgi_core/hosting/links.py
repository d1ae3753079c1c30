"""Associations as plugins use them, and which of them carries the items of a channel."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..plugin import AssociationInfo, RequestInfo
from ..protocol.connection import Connection
from ..protocol.request import Request
from ..protocol.settings import Settings
from .driver import Driver

__all__ = ["Disagreement", "Link", "RoutedRequest", "Router", "mark_of"]


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
    taken: frozenset[str] = frozenset()
    """The channels that the peer accepted when plugins were last informed."""
    down: bool = False
    """Whether it has ended."""
    disagreements: dict[str, Disagreement] = field(default_factory=dict)
    """By plugin: where the two sides declare its channels in different ways."""

    @property
    def connection(self) -> Connection:
        connection: Connection = self.driver.connection
        return connection


class RoutedRequest(RequestInfo, Protocol):
    """A request of the services, with the association that carries it: plugins hand back the object they were given."""

    link: Link
    request: Request


def mark_of(web_side: Settings) -> int:
    """The `mark` of an association, which both sides compute from the web side's SETTINGS: 32 bits above the 24 of
    request id and generation."""
    return zlib.crc32(f"{web_side.instance}.{web_side.association}".encode()) << 24


class Router:
    """The associations that are up, and the route of each channel of association scope."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        """The oldest first."""
        self.routes: dict[str, Link] = {}
        """What `route` found, by channel. Emptied when associations or channels change."""

    def route(self, channel: str) -> Link | None:
        """The oldest association whose peer accepts the channel; None if there is none."""
        found = self.routes.get(channel)
        if found is None:
            for link in self.links:
                if link.connection.takes(channel):
                    self.routes[channel] = link
                    return link
        return found

    def of(self, association: AssociationInfo | None) -> Link | None:
        """The association of which plugins have this object; None if it has ended."""
        return next((link for link in self.links if link.info is association), None)
