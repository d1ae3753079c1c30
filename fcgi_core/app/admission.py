"""Which associations an application side takes, so that one peer cannot have the place of all others.

There is a bound for all and one for each address (IPv6: for each 64 bits of network, which is what a host is given).
Where a bound is reached, an association whose SETTINGS have not come gives its place to the new one, the oldest first;
when more than half of a bound is used, such associations are ended soon.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Generic, TypeVar

__all__ = ["MAX_ASSOCIATIONS", "MAX_ASSOCIATIONS_PER_ADDRESS", "Admission", "source_of"]

MAX_ASSOCIATIONS = 4096
MAX_ASSOCIATIONS_PER_ADDRESS = 64
"""A web side has one with each process of the application: as many web sides behind one address."""
SETTINGS_UNDER_PRESSURE = 1.0
"""Seconds that the peer has for its SETTINGS when more than half of a bound is used."""

A = TypeVar("A")


def source_of(peer: str) -> str:
    """What counts as one peer, of its address and port as carriers write them."""
    host = peer.rpartition(":")[0].strip("[]")
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return host if address.version == 4 else f"{address.packed[:8].hex()}/64"


class Admission(Generic[A]):
    """The associations that there are, and which give way. Times are seconds of one clock."""

    def __init__(self, most: int, most_per_address: int, end: Callable[[A, str], None]) -> None:
        """`end` ends an association; the reason is for the peer and the log."""
        self.most = most
        self.most_per_address = most_per_address
        self._end = end
        self._sources: dict[A, str] = {}
        self._by_source: dict[str, set[A]] = {}
        self._silent: dict[A, float] = {}
        """Those without SETTINGS, since when; the oldest first."""

    def __len__(self) -> int:
        return len(self._sources)

    def enter(self, one: A, peer: str, now: float) -> str:
        """Take an association; '' or why it is refused. Others may be ended for it."""
        source = source_of(peer)
        theirs = self._by_source.get(source, set())
        if len(theirs) > self.most_per_address // 2:
            self._hurry(theirs, now)
        if len(self._sources) > self.most // 2:
            self._hurry(self._sources, now)
        if len(theirs) >= self.most_per_address and not self._give_way(theirs):
            return f"{self.most_per_address} associations are the most for one address"
        if len(self._sources) >= self.most and not self._give_way(self._sources):
            return f"{self.most} associations are the most"
        self._sources[one] = source
        self._by_source.setdefault(source, set()).add(one)
        self._silent[one] = now
        return ""

    def ready(self, one: A) -> None:
        """Its SETTINGS have come."""
        self._silent.pop(one, None)

    def leave(self, one: A) -> None:
        """It is gone; nothing happens if it was ended here."""
        source = self._sources.pop(one, None)
        if source is not None:
            self._silent.pop(one, None)
            theirs = self._by_source[source]
            theirs.discard(one)
            if not theirs:
                del self._by_source[source]

    def _hurry(self, among: set[A] | dict[A, str], now: float) -> None:
        """End those that have been silent for too long, now that places are rare."""
        late = []
        for one, since in self._silent.items():
            if now - since < SETTINGS_UNDER_PRESSURE:
                break
            if one in among:
                late.append(one)
        for one in late:
            self._drop(one, f"no SETTINGS within {SETTINGS_UNDER_PRESSURE:g} s, and there are many associations")

    def _give_way(self, among: set[A] | dict[A, str]) -> bool:
        """End the oldest silent one; False if there is none."""
        oldest = next((one for one in self._silent if one in among), None)
        if oldest is None:
            return False
        self._drop(oldest, "no SETTINGS yet, and another association needed the place")
        return True

    def _drop(self, one: A, why: str) -> None:
        self.leave(one)
        self._end(one, why)
