"""When applications that are away are tried again.

A configured application and the workers that it reports share one back-off, so what an application reports costs a host
a few packets a second and no more.
"""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

__all__ = ["FIRST_RETRY", "LAST_RETRY", "Attempts"]

FIRST_RETRY = 0.05
"""Seconds from the first failure to the next attempt; doubled with each."""
LAST_RETRY = 0.4
"""Most seconds between attempts: an application that returns is found within half a second, and a packet or two a
second is no burden."""
AT_ONCE = 8
"""Most attempts within that time, where several workers of one application are away."""


class Tried(Protocol):
    """An upstream that is down."""

    def start(self) -> None:
        """Try now."""


class Attempts:
    """Tries the upstreams of one origin, one after the other, with pauses that grow to LAST_RETRY."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
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
        self.hurry()

    def hurry(self) -> None:
        """Try the next upstream without a pause: another one of the application has been reached, so it is likely there
        too."""
        if self._waiting:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_later(0, self._next)

    def steady(self) -> None:
        """Begin with the shortest pause again: an association that had lasted is lost."""
        self._pause = FIRST_RETRY

    def forget(self, one: Tried) -> None:
        """Do not try an upstream any more."""
        self._waiting.pop(one, None)
        if not self._waiting and self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _wait(self) -> None:
        # a little chance, so that many web sides do not come at the same instant
        pause = self._pause * random.uniform(0.7, 1.0) / min(len(self._waiting), AT_ONCE)
        self._handle = self._loop.call_later(pause, self._next)
        self._pause = min(self._pause * 2, LAST_RETRY)

    def _next(self) -> None:
        self._handle = None
        one = next(iter(self._waiting))
        del self._waiting[one]
        if self._waiting:
            self._wait()
        one.start()
