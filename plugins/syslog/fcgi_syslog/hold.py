"""Lines of a request that are held back until it is known how the request ends."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["Held", "HeldLine"]

HELD_LINES = 500
HELD_BYTES = 256 << 10
"""Of one request, text alone; the latest are kept."""


class HeldLine(NamedTuple):
    severity: int
    msgid: str
    text: str
    time: float
    fields: dict[str, str]


class Held:
    """The latest lines, within the bounds. Any thread; without a lock, for the same reason as `storm`."""

    __slots__ = ("_lines", "_over", "_size", "forgotten")

    def __init__(self) -> None:
        self._lines: deque[HeldLine] = deque()
        self._size = 0
        self._over = False
        self.forgotten = 0
        """Lines that there was no room for."""

    def add(self, line: HeldLine) -> None:
        """Keep a line; nothing is kept after `take`."""
        if self._over:
            return
        size = len(line.text)
        self._size += size
        self._lines.append(line)
        while len(self._lines) > HELD_LINES or self._size > HELD_BYTES:
            try:
                size = len(self._lines.popleft().text)
            except IndexError:
                return  # the request has ended meanwhile
            self._size -= size
            self.forgotten += 1

    def take(self) -> list[HeldLine]:
        """What was held; the request is over."""
        self._over = True
        lines: list[HeldLine] = []
        while self._lines:
            lines.append(self._lines.popleft())
        return lines
