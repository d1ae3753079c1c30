"""Merges several sources in the order of time."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count

from .events import Event, Line
from .source import Source

__all__ = ["Merge"]

WINDOW = 0.25
"""Seconds that a line waits for an earlier one of another source; clocks that differ more disturb the order."""
ENOUGH, ENOUGH_CHARACTERS = 5000, 16 << 20
"""Lines and characters of the past that are held of one source while another is behind."""


class Merge:
    """Holds events until no earlier one is expected: past events until every source has come so far, new events for
    `WINDOW`."""

    def __init__(self, sources: Sequence[Source], clock: Callable[[], float] = time.monotonic) -> None:
        self._sources = sources
        self._clock = clock
        self._heap: list[tuple[float, int, Event]] = []
        self._arrivals: deque[tuple[float, float]] = deque()
        self._reached = {id(source): float("-inf") for source in sources}
        self._held = dict.fromkeys(self._reached, 0)
        self._characters = dict.fromkeys(self._reached, 0)
        self._number = count()

    def wants(self, source: Source) -> bool:
        """Whether to read on from the source; False if it has to wait for others."""
        many = self._held[id(source)] > ENOUGH or self._characters[id(source)] > ENOUGH_CHARACTERS
        return not (source.past and many and self._reached[id(source)] > self._horizon())

    @property
    def due(self) -> float | None:
        """When held events may be shown, on the clock; None if that depends on events to come."""
        if not self._arrivals or any(source.past for source in self._sources):
            return None
        return self._arrivals[0][0] + WINDOW

    @property
    def waiting(self) -> int:
        """Events held."""
        return len(self._heap)

    def add(self, source: Source, events: Sequence[Event]) -> None:
        now = self._clock()
        reached = self._reached[id(source)]
        for event in events:
            if isinstance(event, Line):
                reached = event.time
                self._characters[id(source)] += event.size
            heapq.heappush(self._heap, (reached, next(self._number), event))
        self._reached[id(source)] = reached
        self._held[id(source)] += len(events)
        if events:
            self._arrivals.append((now, max(reached, self._arrivals[-1][1] if self._arrivals else reached)))

    def take(self, *, all_of_it: bool = False) -> list[Event]:
        """Remove and return the events that may be shown now."""
        if all_of_it:
            horizon = float("inf")
        elif any(source.past for source in self._sources):
            horizon = self._horizon()
        else:
            horizon = float("-inf")
            before = self._clock() - WINDOW
            while self._arrivals and self._arrivals[0][0] <= before:
                horizon = self._arrivals.popleft()[1]
        events = []
        while self._heap and self._heap[0][0] <= horizon:
            events.append(heapq.heappop(self._heap)[2])
        if not self._heap:
            self._arrivals.clear()
            self._held = dict.fromkeys(self._held, 0)
            self._characters = dict.fromkeys(self._held, 0)
        return events

    def _horizon(self) -> float:
        """The time before which no more past events come."""
        return min((self._reached[id(source)] for source in self._sources if source.past), default=float("inf"))
