"""Decides which associations an application side accepts, so that one peer cannot keep out all others.

There is a bound for all associations and one for each address (IPv6: for each /64 network, which one host is given).
When a bound is reached, the oldest association whose SETTINGS have not come is ended for the new one. When more than
half of a bound is used, associations without SETTINGS are ended soon. The last quarter is for processes of web sides
that have no association yet.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Generic, TypeVar

__all__ = [
    "MAX_ASSOCIATIONS",
    "MAX_ASSOCIATIONS_PER_ADDRESS",
    "MAX_ASSOCIATIONS_PER_WEB_SIDE",
    "Admission",
    "source_of",
]

MAX_ASSOCIATIONS = 4096
"""Associations of a process."""
MAX_ASSOCIATIONS_PER_ADDRESS = 64
"""Associations with one address: four processes of web sides with all that they make by themselves, and 16 more."""
MAX_ASSOCIATIONS_PER_WEB_SIDE = 16
"""Associations with one process of a web side, which makes 11 by itself: 10 with content, one for urgent feedback."""
FURTHER = 0.75
"""The part of a bound that processes may use which have an association already."""
SETTINGS_UNDER_PRESSURE = 1.0
"""Seconds in which SETTINGS must come when more than half of a bound is used."""

A = TypeVar("A")


def source_of(peer: str) -> str:
    """Return what counts as one address, for `peer` as carriers write it: HOST:PORT."""
    host = peer.rpartition(":")[0].strip("[]")
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return host if address.version == 4 else f"{address.packed[:8].hex()}/64"


class Admission(Generic[A]):
    """Counts the associations, and ends some for others. Times are seconds of one clock."""

    def __init__(self, most: int, most_per_address: int, end: Callable[[A, str], None]) -> None:
        """`end` ends an association; it gets the reason for the peer and the log."""
        self.most = most
        self.most_per_address = most_per_address
        self._end = end
        self._sources: dict[A, str] = {}
        self._by_source: dict[str, set[A]] = {}
        self._silent: dict[A, float] = {}
        """When associations without SETTINGS came up; the oldest first."""

    def __len__(self) -> int:
        return len(self._sources)

    def enter(self, one: A, peer: str, now: float) -> str:
        """Accept an association, and end others for it if need be. Return '', or why it is refused."""
        source = source_of(peer)
        theirs = self._by_source.get(source, set())
        if len(theirs) > self.most_per_address // 2:
            self._hurry(theirs, now)
        if len(self._sources) > self.most // 2:
            self._hurry(self._sources, now)
        if len(theirs) >= self.most_per_address and not self._give_way(theirs):
            return f"there are {self.most_per_address} associations with this address already"
        if len(self._sources) >= self.most and not self._give_way(self._sources):
            return f"there are {self.most} associations already"
        self._sources[one] = source
        self._by_source.setdefault(source, set()).add(one)
        self._silent[one] = now
        return ""

    def refuses_further(self, one: A) -> str:
        """Return why an association is refused of whose process there is another; '' if it is not."""
        for used, most, of in (
            (len(self._by_source[self._sources[one]]), self.most_per_address, " with this address"),
            (len(self._sources), self.most, ""),
        ):
            if used > most * FURTHER:
                return f"there are {used} of {most} associations{of}: the others are for processes that have none"
        return ""

    def ready(self, one: A) -> None:
        """Note that the SETTINGS of an association have come."""
        self._silent.pop(one, None)

    def leave(self, one: A) -> None:
        """Forget an association that is gone. No effect if it was ended here."""
        source = self._sources.pop(one, None)
        if source is not None:
            self._silent.pop(one, None)
            theirs = self._by_source[source]
            theirs.discard(one)
            if not theirs:
                del self._by_source[source]

    def _hurry(self, among: set[A] | dict[A, str], now: float) -> None:
        """End the associations that have been without SETTINGS for too long."""
        late = []
        for one, since in self._silent.items():
            if now - since < SETTINGS_UNDER_PRESSURE:
                break
            if one in among:
                late.append(one)
        for one in late:
            self._drop(one, f"no SETTINGS within {SETTINGS_UNDER_PRESSURE:g} s while there are many associations")

    def _give_way(self, among: set[A] | dict[A, str]) -> bool:
        """End the oldest association without SETTINGS. Return False if there is none."""
        oldest = next((one for one in self._silent if one in among), None)
        if oldest is None:
            return False
        self._drop(oldest, "no SETTINGS yet when another association needed its place")
        return True

    def _drop(self, one: A, why: str) -> None:
        self.leave(one)
        self._end(one, why)
