"""What is to be drawn and is not yet: all of it in a pause, a sample of it in a flood."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .events import Event, Line, Lost, Skipped
from .spool import Spool

__all__ = ["Backlog"]

MOST_WAITING = 4000
"""Lines that wait to be drawn, in memory, before they are thinned."""
SAMPLE = 100
"""Lines that are left of them: two screens, the worst."""
A_FRAME, A_LONG_FRAME = 200, 1000
"""Lines drawn at once: of what comes, and of what waited in a pause or was there before."""


class Backlog:
    """Events between the filter and the screen. A pause keeps all, on disk if they are many, and all that came in it
    is drawn afterwards; other than that, more than can be read is thinned, and the gap told."""

    def __init__(self) -> None:
        self.paused = False
        self.skipped = 0
        """Lines that were never drawn."""
        self._ready: deque[Event] = deque()
        self._spool = Spool()
        self._promised = 0

    def __len__(self) -> int:
        return len(self._ready) + len(self._spool)

    @property
    def full(self) -> bool:
        return self._spool.full

    def add(self, event: Event) -> None:
        if self.paused or self._spool:
            self._spool.add(event)
        else:
            self._ready.append(event)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._promised = len(self._spool)

    def take(self, *, whole: bool) -> list[Event]:
        """What to draw now; nothing is left out of it if `whole`."""
        if self.paused:
            return []
        while self._spool and not self._promised and len(self._ready) <= MOST_WAITING:
            self._ready.extend(self._spool.take(A_LONG_FRAME))
        whole = whole or self._promised > 0
        if not whole and len(self._ready) > MOST_WAITING:
            self._ready = deque(self._thin(self._ready))
        most = A_LONG_FRAME if whole else A_FRAME
        events = [self._ready.popleft() for _ in range(min(len(self._ready), most))]
        if self._promised and len(events) < most:
            promised = self._spool.take(min(self._promised, most - len(events)))
            self._promised -= len(promised)
            events += promised
        return events

    def close(self) -> None:
        self._spool.close()

    def _thin(self, events: Iterable[Event]) -> list[Event]:
        """A sample in its order, the worst lines and of these the latest, with what was left out told before it."""
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
