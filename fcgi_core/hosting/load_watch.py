"""Notices content that waits for SCTP's congestion window, and reports it.

One association has one congestion window. Where that is less than what is to be sent, several associations carry more,
and a request is served sooner on the one where less waits. The application side mostly sends, the web side decides, so
the application reports to it (`Connection.send_load`); the web side's own content it reports to itself.

Nothing is looked at while nothing waits, and little where the round trip is short: a window of w bytes carries w each
round trip. Even at a loss of 0.01 % (1.22 / sqrt(loss) packets, RFC 3155 and Mathis et al.) that is 170 kB, at 5 ms 34
MB/s; on a LAN of 0.3 ms it is more than both processes send with all of a core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from ..common.loop import Handle, Loop
from ..protocol.connection import Connection
from ..sctp.carrier import Association

__all__ = ["LONG_ROUND_TRIP", "LoadWatch"]

LONG_ROUND_TRIP = 0.005
"""Seconds of a round trip from which on the window, and not the processes, may be what content waits for."""
REST = 1.0
"""Seconds until the next look where the round trip is shorter."""
SOONEST = 0.02
"""Seconds between looks, however short the round trip is."""
REMEMBERED = 60.0
"""Seconds for which the shortest round trip counts, and for as long again at most: a path may become longer."""
NOTABLE = 0.25
"""Part of the last reported figures by which they change before they are reported again."""


class Watched(Protocol):
    """The driver of the association."""

    @property
    def connection(self) -> Any: ...

    @property
    def association(self) -> Association | None: ...


class LoadWatch:
    """Looks at one association about once each round trip while content waits."""

    def __init__(self, driver: Watched, loop: Loop, report: Callable[[int, int, float], None]) -> None:
        """`report(waiting, window, round_trip)` is called when content has waited for more than a round trip, when that
        changes notably, and with 0 when nothing waits any more."""
        self._driver = driver
        self._loop = loop
        self._shortest = math.inf
        """Since `_since`; others contain what waits in queues and processes."""
        self._before = math.inf
        """The shortest of the time before that."""
        self._since = loop.time()
        self._report = report
        self._timer: Handle | None = None
        self._waiting = 0
        self._window = 0
        self.first_window = self._measure()[0]
        """Bytes of the congestion window at the beginning; 0 if the carrier does not know it."""

    @property
    def round_trip(self) -> float | None:
        """The shortest smoothed round trip seen in the last minute or two, seconds; None while none is known: the
        kernel knows it when the first message has been acknowledged."""
        shortest = min(self._shortest, self._before)
        return shortest if shortest < math.inf else None

    def measure(self) -> float:
        """Look at the round trip, in seconds; 0 if it is not known."""
        return self._measure()[1]

    def blocked(self) -> None:
        """Note that content waits which SCTP has no room for."""
        if self._timer is None:
            round_trip = self._measure()[1]
            shortest = self.round_trip
            if shortest is None or shortest < LONG_ROUND_TRIP:
                pause = SOONEST if shortest is None else REST
                self._timer = self._loop.call_at(self._loop.time() + pause, self._rested)
            else:
                self._later(round_trip)

    def stop(self) -> None:
        """Look no more: the association is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._report = _ignore

    def _measure(self) -> tuple[int, float]:
        """The congestion window and the round trip; the window is 0 if the carrier does not know it."""
        association = self._driver.association
        if association is None:
            return 0, 0.0
        statistics = association.statistics()
        round_trip = statistics.round_trip or 0.0
        if round_trip:
            now = self._loop.time()
            if now - self._since > REMEMBERED:
                self._before = self._shortest if now - self._since <= 2 * REMEMBERED else math.inf
                self._shortest, self._since = math.inf, now
            self._shortest = min(self._shortest, round_trip)
        return statistics.congestion_window or 0, round_trip

    def _later(self, round_trip: float) -> None:
        self._timer = self._loop.call_at(self._loop.time() + max(round_trip, SOONEST), self._look)

    def _rested(self) -> None:
        self._timer = None

    def _look(self) -> None:
        self._timer = None
        window, round_trip = self._measure()
        connection: Connection = self._driver.connection
        waiting = connection.content_waiting if connection.waiting() else 0
        if waiting:
            self._later(round_trip)
        if _notably(self._waiting, waiting) or (waiting and _notably(self._window, window)):
            self._waiting, self._window = waiting, window
            self._report(waiting, window, round_trip)


def _notably(before: int, now: int) -> bool:
    return before != now and (not before or not now or abs(now - before) > NOTABLE * before)


def _ignore(waiting: int, window: int, round_trip: float) -> None:
    """Replaces the report of an association that is gone."""
