"""Lines that an output has yet to write, in order, and the memory that they take.

They wait unformatted, many together: as text, each line would repeat what it shares with the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from fcgi_core.plugin import FeedEntry

from .lines import LINE_COST, Lines, cost_of

__all__ = ["Backlog", "Part", "count_of", "held_by", "size_of"]

Part = FeedEntry | Lines


def count_of(part: Part) -> int:
    """Return the number of lines."""
    return len(part) if isinstance(part, Lines) else 1


def size_of(part: Part) -> int:
    """Return the characters of their text."""
    return part.size if isinstance(part, Lines) else len(part.message)


def held_by(part: Part, before: Part | None = None) -> int:
    """Return the bytes of memory, about, that they add to the lines `before` them."""
    if isinstance(part, Lines):
        return part.held
    return cost_of(part, None if isinstance(before, Lines) else before)


class Backlog:
    """A queue of lines. Not thread-safe."""

    def __init__(self) -> None:
        self._parts: deque[tuple[Part, int]] = deque()
        """Each with the bytes of memory that it takes."""
        self._begun = 0
        """Lines of the first part that are already taken out."""
        self.held = 0
        """Bytes of memory, about; a part counts until its last line is taken out."""
        self.lines = 0

    def __bool__(self) -> bool:
        return bool(self._parts)

    def extend(self, parts: Iterable[tuple[Part, int]]) -> None:
        """Add parts, each with the bytes of memory that it takes."""
        for part, held in parts:
            self._parts.append((part, held))
            self.held += held
            self.lines += count_of(part)

    def take(self, most: int) -> Part:
        """Take out the oldest lines: at least one, and about `most` bytes at most when each is formatted by itself. The
        backlog must not be empty."""
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
