"""Applications that are not there: when they are tried again, and what of it is logged.

A configured application and the workers that it tells of share one back-off, so what an application says costs a host a
few packets a second and no more.
"""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

__all__ = ["FIRST_RETRY", "LAST_RETRY", "Attempts", "Presence"]

FIRST_RETRY = 0.05
"""Seconds after the first failure until the next attempt; doubled with each."""
LAST_RETRY = 0.4
"""Seconds between attempts at most: an application that returns is found within half a second, and a packet or two a
second is no burden."""
AT_ONCE = 8
"""Attempts within that time at most, where several workers of one application are away."""
STEADY = 10.0
"""Seconds that an association lasts which ends an absence; a shorter one belongs to it."""
MAX_BRIEF = 3
"""Associations in a row that did not last, after which their beginnings and ends are not logged one by one."""
REMIND = 300.0
"""Seconds between log lines about an application that is still away."""


class Tried(Protocol):
    """An upstream that is down."""

    def start(self) -> None:
        """Try now."""


class Attempts:
    """Tries the upstreams of one origin, in turn, with pauses that grow to LAST_RETRY."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pause = FIRST_RETRY
        self._waiting: dict[Tried, None] = {}
        self._handle: asyncio.TimerHandle | None = None

    def later(self, one: Tried) -> None:
        """It could not be reached, or has been lost: try it when its turn comes."""
        self._waiting[one] = None
        if self._handle is None:
            self._wait()

    def soon(self, one: Tried) -> None:
        """It has never been tried, or another of the same application has just been reached: do not pause first."""
        self._waiting[one] = None
        self.hurry()

    def hurry(self) -> None:
        """One of them has been reached: the others are likely there too."""
        if self._waiting:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_later(0, self._next)

    def steady(self) -> None:
        """An association that had lasted is lost: the pauses begin with the shortest again."""
        self._pause = FIRST_RETRY

    def forget(self, one: Tried) -> None:
        """Do not try it any more."""
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


class Presence:
    """Whether an application is there, and whether its coming and going is worth a line in the log.

    An absence costs a line when it begins, one for the first attempt that fails, and then one every REMIND seconds,
    whatever the reasons are. Times are seconds of one clock.
    """

    def __init__(self, now: float) -> None:
        self.attempts = 0
        """Attempts that failed in this absence."""
        self.away_since = now
        self._up_at: float | None = None
        self._brief = 0
        self._logged_at: float | None = None

    @property
    def flaps(self) -> bool:
        """Whether it comes and goes, so that no line is written each time."""
        return self._brief >= MAX_BRIEF

    def came_up(self, now: float) -> None:
        self._up_at = now

    def went_down(self, now: float) -> bool:
        """The association is lost; whether it had lasted."""
        lasted = self._up_at is not None and now - self._up_at >= STEADY
        self._up_at = None
        if lasted:
            self._brief = self.attempts = 0
            self.away_since = now
            self._logged_at = None
        else:
            self._brief += 1
        return lasted

    def worth_a_line(self, now: float) -> bool:
        """Whether an attempt that failed, or an association that did not last, is to be logged."""
        if self._logged_at is not None and now - self._logged_at < REMIND:
            return False
        self._logged_at = now
        return True
