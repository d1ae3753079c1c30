"""Lines that an output has still to write, in the order in which they came, and the memory that they hold.

They wait as they came, many together: as text each would have all that it has in common with the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from fcgi_core.plugin import FeedEntry

from .lines import LINE_COST, Lines, cost_of

__all__ = ["Backlog", "Part", "count_of", "held_by", "size_of"]

Part = FeedEntry | Lines


def count_of(part: Part) -> int:
    """How many lines those are."""
    return len(part) if isinstance(part, Lines) else 1


def size_of(part: Part) -> int:
    """Characters of their text."""
    return part.size if isinstance(part, Lines) else len(part.message)


def held_by(part: Part, before: Part | None = None) -> int:
    """Bytes of memory that they hold, about, beside those that came `before` them."""
    if isinstance(part, Lines):
        return part.held
    return cost_of(part, None if isinstance(before, Lines) else before)


class Backlog:
    """Not for more than one thread."""

    def __init__(self) -> None:
        self._parts: deque[tuple[Part, int]] = deque()
        """With what each holds."""
        self._begun = 0
        """Lines of the first part that were taken out."""
        self.held = 0
        """Bytes of memory, about; a part is counted until its last line was taken out."""
        self.lines = 0

    def __bool__(self) -> bool:
        return bool(self._parts)

    def extend(self, parts: Iterable[tuple[Part, int]]) -> None:
        """Add lines, each with the bytes of memory that they hold."""
        for part, held in parts:
            self._parts.append((part, held))
            self.held += held
            self.lines += count_of(part)

    def take(self, most: int) -> Part:
        """Take out the oldest lines, which make about `most` bytes of text at most when each is written by itself; one
        at least. There must be some."""
        part, held = self._parts[0]
        taken: Part = part
        over = True
        if isinstance(part, Lines):
            each = LINE_COST + part.size // len(part) + max([head.cost for head in part.heads])
            last = self._begun + max(1, most // each)
            taken = part.part(self._begun, last)
            over = last >= len(part)
            self._begun = 0 if over else last
        if over:
            self._parts.popleft()
            self.held -= held
        self.lines -= count_of(taken)
        return taken
