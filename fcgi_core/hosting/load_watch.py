"""Notices content that waits for SCTP's congestion window, and reports it.

One association has one congestion window. Where that is less than what is to be sent, several associations carry more,
and a request is served sooner on the one where less waits. The application side mostly sends, the web side decides, so
the application reports to it (`Connection.send_load`); the web side's own content it reports to itself.

Nothing is looked at while nothing waits, and little where the round trip is short: a window of w bytes carries w each
round trip. Even at a loss of 0.01 % (1.22 / sqrt(loss) packets, RFC 3155 and Mathis et al.) that is 170 kB, at 5 ms 34
MB/s; on a LAN of 0.3 ms it is more than both processes send with all of a core.
"""

from __future__ import annotations

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
        self.round_trip: float | None = None
        """The shortest smoothed round trip seen, seconds: later ones contain what waits in queues and processes."""
        self._driver = driver
        self._loop = loop
        self._report = report
        self._timer: Handle | None = None
        self._waiting = 0
        self._window = 0
        self.first_window = self._measure()[0]
        """Bytes of the congestion window at the beginning; 0 if the carrier does not know it."""

    def blocked(self) -> None:
        """Note that content waits which SCTP has no room for."""
        if self._timer is None:
            round_trip = self._measure()[1]
            if self.round_trip is None or self.round_trip < LONG_ROUND_TRIP:
                self._timer = self._loop.call_at(self._loop.time() + REST, self._rested)
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
        round_trip = statistics.round_trip
        if round_trip is not None and (self.round_trip is None or round_trip < self.round_trip):
            self.round_trip = round_trip
        return statistics.congestion_window or 0, round_trip or 0.0

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
