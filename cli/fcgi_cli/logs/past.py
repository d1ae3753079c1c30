"""What was there when we came, the latest of it alone, and what came while it was read, all of it."""

from __future__ import annotations

import heapq
from collections import deque
from operator import itemgetter

from .events import Event, Line, Lost

__all__ = ["Past"]


class Past:
    """Keeps the latest `most` events that are past and every other. The past may end in the middle of a read, and
    with several sources it is still read of one while another brings what comes, so each event says what it is."""

    def __init__(self, most: int) -> None:
        self._past: deque[tuple[int, Event]] = deque(maxlen=most)
        self._present: list[tuple[int, Event]] = []
        self._count = 0

    def add(self, event: Event) -> None:
        of_it = isinstance(event, Line | Lost) and event.past
        (self._past if of_it else self._present).append((self._count, event))
        self._count += 1

    def events(self) -> list[Event]:
        """In the order in which they came."""
        return [event for _, event in heapq.merge(self._past, self._present, key=itemgetter(0))]
