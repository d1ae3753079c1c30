"""Collects the lines that were there before the viewer started, of which only the latest are shown."""

from __future__ import annotations

import heapq
from collections import deque
from operator import itemgetter

from .events import Event, Line, Lost, Note

__all__ = ["Past"]

MOST_CHARACTERS = 16 << 20
"""Characters of past lines; lines of a file may be long."""


class Past:
    """Keeps the latest `most` past events, within `MOST_CHARACTERS`, and every new event.

    Each event says which it is: the past may end in the middle of a read, and one source may bring new lines while
    another still brings past ones.
    """

    def __init__(self, most: int) -> None:
        self._past: deque[tuple[int, Event]] = deque()
        self._most = most
        self._characters = 0
        self._long = False
        self._present: list[tuple[int, Event]] = []
        self._count = 0

    def add(self, event: Event) -> None:
        of_it = isinstance(event, Line | Lost) and event.past
        (self._past if of_it else self._present).append((self._count, event))
        self._count += 1
        if not of_it:
            return
        self._characters += _size(event)
        while len(self._past) > self._most or (self._characters > MOST_CHARACTERS and len(self._past) > 1):
            self._long = self._long or len(self._past) <= self._most
            self._characters -= _size(self._past.popleft()[1])

    def events(self) -> list[Event]:
        """All kept events, in the order in which they came."""
        events = [event for _, event in heapq.merge(self._past, self._present, key=itemgetter(0))]
        if self._long and len(self._past) < self._most:
            events.insert(0, Note(f"the latest lines are long: showing {len(self._past)} of {self._most}"))
        return events


def _size(event: Event) -> int:
    return event.size if isinstance(event, Line) else 0
