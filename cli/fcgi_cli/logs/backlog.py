"""Events that passed the filter and are not drawn yet; in a flood, a sample of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from .events import Event, Line, Lost, Skipped

__all__ = ["Backlog"]

MOST_WAITING = 4000
"""Lines that may wait to be drawn before they are thinned."""
SAMPLE = 100
"""Lines that thinning leaves: two screens of the worst."""
A_FRAME, A_LONG_FRAME = 200, 1000
"""Lines drawn at once: of new lines, and of lines that none may be left out of."""


class Backlog:
    """Events between the filter and the screen. More than a reader can follow is thinned, and the gap is reported; what
    happened before the end of a pause is drawn whole."""

    def __init__(self) -> None:
        self.paused = False
        self.skipped = 0
        """Lines that were never drawn."""
        self._waiting: deque[Event] = deque()
        self._pause_ended = -math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def whole(self) -> bool:
        """Whether the next line happened before the last pause ended, so that it may not be left out."""
        first = next((event for event in self._waiting if isinstance(event, Line)), None)
        return first is not None and first.time <= self._pause_ended

    def add(self, event: Event) -> None:
        self._waiting.append(event)

    def pause_or_resume(self, now: float) -> None:
        """Begin a pause, or end it at `now`, in seconds since the epoch."""
        self.paused = not self.paused
        self._pause_ended = now

    def take(self, *, whole: bool) -> list[Event]:
        """Remove and return the events to draw now. With `whole` true none is left out."""
        if self.paused:
            return []
        whole = whole or self.whole
        if not whole and len(self._waiting) > MOST_WAITING:
            self._waiting = deque(self._thin(self._waiting))
        most = A_LONG_FRAME if whole else A_FRAME
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]

    def _thin(self, events: Iterable[Event]) -> list[Event]:
        """A sample in the order of `events`: the worst lines, and of equally bad ones the latest. A `Skipped` before
        it counts the others."""
        lines = [event for event in events if isinstance(event, Line)]
        lines.reverse()
        chosen = {id(line) for line in sorted(lines, key=lambda line: line.severity)[:SAMPLE]}
        left = len(lines) - len(chosen)
        before = sum(event.count for event in events if isinstance(event, Skipped))
        lost = sum(event.count for event in events if isinstance(event, Lost))
        kept: list[Event] = [Skipped(before + left)]
        if lost:
            kept.append(Lost(lost))
        kept += [event for event in events if id(event) in chosen or not isinstance(event, Line | Lost | Skipped)]
        self.skipped += left
        return kept
