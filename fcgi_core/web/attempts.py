"""When applications that are away are tried again.

A configured application and the workers that it reports share one back-off, so what an application reports costs a host
a few packets a second and no more.
"""

from __future__ import annotations

import asyncio
import random
from itertools import islice
from typing import Protocol

__all__ = ["FIRST_RETRY", "LAST_RETRY", "Attempts", "Away"]

FIRST_RETRY = 0.05
"""Seconds from the first failure to the next attempt; doubled with each."""
LAST_RETRY = 0.4
"""Most seconds between attempts: an application that returns is found within half a second, and a packet or two a
second is no burden. Many that are away share MOST_A_SECOND."""
MOST_A_SECOND = 20
"""Attempts at all applications that have been away for long: an attempt takes some 0.5 ms, so that is 1 % of a core.
From six of them on, the pauses are longer than LAST_RETRY."""
HURRIED = 4
"""Applications that are tried at once when another one is back: if all are, as after a fault of the network, all are
found soon, and if not, that costs little."""
LEAST_PART = 0.7
"""Least part of a pause that is kept: chance decides, so that many web sides do not come at the same instant."""
AT_ONCE = 8
"""Most attempts within that time, where several workers of one application are away."""


class Tried(Protocol):
    """An upstream that is down."""

    def start(self) -> None:
        """Try now."""


class Away:
    """The applications of one web side that wait for their next attempt."""

    def __init__(self) -> None:
        self.waiting: dict[Attempts, int] = {}
        """How many attempts of each would be due within one of its pauses; the one that has waited longest first."""
        self.count = 0
        """Their sum."""

    @property
    def longest(self) -> float:
        """Seconds between two attempts at one of them at most."""
        return max(LAST_RETRY, self.count / (MOST_A_SECOND * LEAST_PART))


class Attempts:
    """Tries the upstreams of one origin, one after the other, with pauses that grow to `Away.longest`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, away: Away) -> None:
        self._loop = loop
        self._away = away
        self._pause = FIRST_RETRY
        self._waiting: dict[Tried, None] = {}
        self._handle: asyncio.TimerHandle | None = None

    def later(self, one: Tried) -> None:
        """Try an upstream when its turn comes: an attempt failed, or its association is lost."""
        self._waiting[one] = None
        if self._handle is None:
            self._wait()

    def soon(self, one: Tried) -> None:
        """Try an upstream for the first time, without a pause."""
        self._waiting[one] = None
        self._next_after(0)

    def hurry(self) -> None:
        """Try the next upstream without a pause, and those of a few other applications: one has been reached, so it is
        likely that these are there too."""
        for one in (self, *islice(self._away.waiting, HURRIED)):
            if one._waiting:
                one._next_after(0)

    def steady(self) -> None:
        """Begin with the shortest pause again: an association that had lasted is lost."""
        self._pause = FIRST_RETRY

    def forget(self, one: Tried) -> None:
        """Do not try an upstream any more."""
        self._waiting.pop(one, None)
        if not self._waiting:
            self._cancel()

    def _wait(self) -> None:
        longest = self._away.longest
        pause = min(self._pause, longest) * random.uniform(LEAST_PART, 1.0)
        self._next_after(pause, min(len(self._waiting), AT_ONCE))
        self._pause = min(self._pause * 2, longest)

    def _next_after(self, pause: float, within: int = 1) -> None:
        """Try the next upstream after a pause, in which there are so many attempts."""
        self._cancel()
        self._away.waiting[self] = within
        self._away.count += within
        self._handle = self._loop.call_later(pause / within, self._next)

    def _cancel(self) -> None:
        if self._handle is not None:
            self._away.count -= self._away.waiting.pop(self)
            self._handle.cancel()
            self._handle = None

    def _next(self) -> None:
        self._cancel()
        one = next(iter(self._waiting))
        del self._waiting[one]
        if self._waiting:
            self._wait()
        one.start()
