"""Writes to the terminal: lines that scroll into its history, and a status line below them.

It uses no alternate screen and no scrolling region: it erases the status line, writes lines, and draws the status line
again, with the cursor at its beginning. If the terminal becomes narrower and wraps the status line, the cursor is still
at its beginning, and erasing from there erases all of it.
"""

from __future__ import annotations

import os

from .events import OutputClosed

__all__ = ["Screen"]

ERASE = "\r\x1b[J"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Screen:
    """Writes to the terminal `descriptor`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._below = ""

    def size(self) -> tuple[int, int]:
        """Columns and rows, each at least 1."""
        try:
            size = os.get_terminal_size(self._descriptor)
        except OSError:
            return 80, 24
        return max(1, size.columns or 80), max(1, size.lines or 24)

    def open(self) -> None:
        self._write(HIDE_CURSOR)
        self._below = ""

    def close(self) -> None:
        """Erase the status line and show the cursor again."""
        try:
            self._write(ERASE + SHOW_CURSOR)
        except OutputClosed:
            pass  # nothing is left to restore

    def draw(self, lines: str, below: str) -> None:
        """Write `lines`, each with a newline, and the status line `below`, which is narrower than the terminal."""
        if lines or below != self._below:
            self._below = below
            self._write(f"{ERASE}{lines}{below}\r")

    def forget(self) -> None:
        """Make the next `draw` write the status line even if it is the same: the terminal's size has changed."""
        self._below = "\0"

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(errors="backslashreplace"))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise OutputClosed from error  # EIO: the terminal has been closed
