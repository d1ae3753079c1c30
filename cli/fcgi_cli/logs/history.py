"""Keeps the latest lines, drawn or not, for searches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .events import Line

__all__ = ["History"]

MOST_LINES = 10_000
MOST_CHARACTERS = 16 << 20


class History:
    """The latest lines, bounded by their number and their characters."""

    def __init__(self, most_lines: int = MOST_LINES, most_characters: int = MOST_CHARACTERS) -> None:
        self._lines: deque[Line] = deque()
        self._most_lines = most_lines
        self._most_characters = most_characters
        self._characters = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: Line) -> None:
        self._lines.append(line)
        self._characters += line.size
        while self._characters > self._most_characters or len(self._lines) > self._most_lines:
            self._characters -= self._lines.popleft().size

    def matching(self, takes: Callable[[Line], bool], most: int) -> tuple[list[Line], int]:
        """The latest `most` lines that match, in their order, and the number of all that match."""
        found = [line for line in self._lines if takes(line)]
        return (found[-most:] if most else []), len(found)

    def latest(self, takes: Callable[[Line], bool]) -> Line | None:
        """The latest line that matches."""
        return next((line for line in reversed(self._lines) if takes(line)), None)
