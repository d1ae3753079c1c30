"""Which of many applications each of many web sides takes, and with which it begins, without asking each other.

Web sides of one name that ends in a number, such as web1, web2, … or the pods of a StatefulSet, share one order of the
applications, by a hash of their addresses, as a ring. Web side n takes K of them from place n*K on. So each application
is taken as often as each other, give or take one: that is deterministic subsetting (Site Reliability Engineering,
chapter 20). Where one application comes or goes, a subset changes by one, and by one more for each time that the ring
has been dealt out before; in the book's form all of it changes.

A web side whose name has no number takes the first K of an order of its own (rendezvous hashing). One more application
changes a subset by one at most, but chance decides how often each is taken.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

__all__ = ["WebSide"]


class WebSide:
    """A web side among others, by its identity."""

    def __init__(self, identity: str) -> None:
        """`identity`: the name, and after a space what tells it from others of the same name."""
        name, _, rest = identity.partition(" ")
        # a longer number is a serial number: with it, the place on the ring would move with each application
        numbered = re.fullmatch(r"(.*\D|)(\d{1,3})", name, re.ASCII)
        self._identity = identity
        self._group = f"{numbered[1]} {rest}" if numbered else identity
        self._number = int(numbered[2]) if numbered else None

    def chance(self, key: str) -> float:
        """Return a number from 0 to 1 that is always the same for this web side and the key."""
        return _hash(self._identity, key) / (1 << 64)

    def order(self, keys: Sequence[str], count: int) -> list[str]:
        """Return the keys in the order in which this web side takes them, where each takes `count`."""
        if self._number is None or not keys:
            return _shuffled(self._identity, keys)
        ring = _shuffled(self._group, keys)
        first = self._number * count % len(keys)
        return ring[first:] + ring[:first]


def _shuffled(seed: str, keys: Sequence[str]) -> list[str]:
    return sorted(keys, key=lambda key: (_hash(seed, key), key))


def _hash(seed: str, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest(), "big")
