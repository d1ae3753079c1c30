"""Holds lines of a request until the request ends, and it is known how."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["Held", "HeldLine"]

HELD_LINES = 500
HELD_BYTES = 256 << 10
"""Bounds of one request, in lines and in bytes of text; the latest lines are kept."""


class HeldLine(NamedTuple):
    severity: int
    msgid: str
    text: str
    time: float
    fields: dict[str, str]


class Held:
    """The latest lines, within the bounds. Any thread; there is no lock, for the reason in `storm`."""

    __slots__ = ("_lines", "_over", "_size", "forgotten")

    def __init__(self) -> None:
        self._lines: deque[HeldLine] = deque()
        self._size = 0
        self._over = False
        self.forgotten = 0
        """Lines dropped for lack of room."""

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
        """Return the held lines, at the request's end."""
        self._over = True
        lines: list[HeldLine] = []
        while self._lines:
            lines.append(self._lines.popleft())
        return lines
