"""How many associations the web side has with one process of an application, and which of them a request takes.

An association carries one congestion window each round trip. Where less than a window waits, it is enough, and a second
one would only share the processor's time. Where more waits, a request is served soonest where the least waits for the
window that is there, so that is where it goes, and more associations carry more. Where several carry content, one more
carries none: urgent feedback finds an empty window there. All of this is arithmetic on `Load`: without a clock, and
without the associations themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Protocol, TypeVar

from ..hosting.load_watch import LONG_ROUND_TRIP

__all__ = [
    "IDLE",
    "MOST",
    "QUIET_FROM",
    "TRIPS",
    "Answers",
    "Load",
    "fitting",
    "path",
    "pick",
    "to_end",
    "to_make",
    "with_content",
    "with_quiet",
]

MOST = 10
"""Associations with content with all processes of one configured application, by themselves. On 5 Mbit/s, 100 ms, 2 %
loss six carried a seventh less, and twelve no more."""
IDLE = 30.0
"""Seconds without a request after which an association beyond the first is ended."""
ANSWER = 16 << 10
"""Bytes of an answer of which nothing is known: one message."""
REMEMBERED = 16
"""Answers whose sizes the expectation of the next goes by, about."""
TRIPS = 4
"""Round trips until a new association brings an answer: three until it is up, and one."""
QUIET_FROM = 3
"""Associations with content from which on there is one more without. With fewer, a window more for content is worth
more than one that is kept empty."""
LEAST_ROUND_TRIP = 0.001
"""Seconds that one takes at least, and where none is known: what waits still counts then."""
LEAST_WINDOW = 14_600
"""Bytes that a congestion window is taken to have at least: ten packets, with which TCP begins (RFC 6928). A smaller
one, new or after a loss, grows to that within a round trip or two."""
MOST_WINDOW = 2 * LEAST_WINDOW
"""Bytes that it is taken to have at most. A larger one says what goes in the next round trip; after a few of them all
associations have the same share of the path."""
CLEARLY = 0.9
"""Part of the wait on an older association below which a request takes a newer one. Smoothed round trips of one path
differ by less."""


class Load:
    """What is known of the two directions of an association: what the peer sends, and what is sent to it."""

    __slots__ = ("base", "round_trip", "sent_waiting", "sent_window", "waiting", "window")

    def __init__(self) -> None:
        self.waiting = 0
        """Bytes that wait at the application, by its last LOAD."""
        self.window = 0
        """Its congestion window, bytes; 0 if it has not told."""
        self.sent_waiting = 0
        """Bytes that wait here."""
        self.sent_window = 0
        self.round_trip = 0.0
        """The smoothed round trip as last seen, seconds."""
        self.base = 0.0
        """The shortest round trip of late: the path without queues. 0 while it is not known."""

    def came(self, waiting: int, window: int, round_trip: float) -> None:
        """Take the application's report."""
        self.waiting, self.window = waiting, window
        self.took(round_trip, self.base or round_trip)

    def here(self, waiting: int, window: int, round_trip: float, base: float) -> None:
        """Take this side's own figures."""
        self.sent_waiting, self.sent_window = waiting, window
        self.took(round_trip if waiting or not self.round_trip else 0.0, base)

    def took(self, round_trip: float, base: float) -> None:
        """Take a round trip and the shortest of late; 0 where it is not known."""
        self.round_trip = round_trip or self.round_trip
        self.base = base or self.base

    def windows(self) -> float:
        """Return how many of its windows what waits would fill, in the direction in which that is more."""
        came = self.waiting / max(self.window, LEAST_WINDOW)
        return max(came, self.sent_waiting / max(self.sent_window, LEAST_WINDOW))

    def wait(self, requests: int, answer: float, round_trip: float = 0.0) -> float:
        """Return the seconds in which one more request is expected to be served where `requests` are under way, if each
        brings `answer` bytes. `round_trip` counts as long as its own is not known.

        All that fits the window goes at once, in one round trip. A window that is small after a loss, or where it is
        still in recovery, counts by its size.
        """
        trips = (self.waiting + (requests + 1) * answer) / min(max(self.window, LEAST_WINDOW), MOST_WINDOW)
        if self.sent_waiting:
            trips += self.sent_waiting / min(max(self.sent_window, LEAST_WINDOW), MOST_WINDOW)
        return max(self.round_trip or round_trip, LEAST_ROUND_TRIP) * max(trips, 1.0)


class Answers:
    """The sizes of a process's answers, as far as they say what the next will bring."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = float(ANSWER)
        """Bytes."""

    def came(self, size: int) -> None:
        """Count an answer that is complete."""
        self.size += (size - self.size) / REMEMBERED


class Choice(Protocol):
    """An association that may take a request."""

    @property
    def load(self) -> Load: ...

    @property
    def requests(self) -> int:
        """Requests under way on it."""


C = TypeVar("C", bound=Choice)


def pick(choices: Sequence[C], answer: float) -> C:
    """Return the association on which a request is served soonest. An older one is kept to unless another is clearly
    better, so that those which are not needed come to rest."""
    best = choices[0]
    longest = max(one.load.round_trip for one in choices)
    least = best.load.wait(best.requests, answer, longest)
    for one in choices[1:]:
        wait = one.load.wait(one.requests, answer, longest)
        if wait < least * CLEARLY:
            best, least = one, wait
    return best


def path(loads: Sequence[Load]) -> float:
    """Return the shortest round trip of late of any of them, in seconds; 0 while none is known."""
    return min((load.base for load in loads if load.base), default=0.0)


def fitting(loads: Sequence[Load], answer: float) -> int:
    """Return how many answers the windows carry before one comes over an association that is not there yet."""
    return int(TRIPS * sum(max(load.window, LEAST_WINDOW) for load in loads) / max(answer, 1.0))


def to_make(loads: Sequence[Load], count: int, requests: int, answer: float) -> int:
    """Return how many associations are to be made now, in addition to `count`, of which `loads` are up, where there are
    so many `requests`.

    More are made when more waits, or is expected to come, than the windows carry while they are made, and there are
    more requests than associations: one long answer does not come sooner on several. Requests under way stay where they
    are; the next ones go where nothing waits.
    """
    if requests <= count or path(loads) < LONG_ROUND_TRIP:
        return 0
    waiting = sum(load.windows() for load in loads)
    expected = len(loads) * requests / max(fitting(loads, answer), 1)
    return max(0, min(ceil(max(waiting / TRIPS, expected)), requests) - count)


def with_content(count: int, quiet: bool) -> int:
    """Return how many of `count` associations get requests where `quiet` says whether one may be without."""
    return count - 1 if quiet and count > QUIET_FROM else count


def with_quiet(content: int, quiet: bool) -> int:
    """Return how many associations there are to be where `content` of them get requests."""
    return content + 1 if quiet and content >= QUIET_FROM else content


def to_end(idle: Sequence[float]) -> list[int]:
    """Return which associations are to be ended, by their place: `idle` says for how many seconds each had no request,
    the oldest first, which stays."""
    return [place for place, seconds in enumerate(idle) if place and seconds >= IDLE]
