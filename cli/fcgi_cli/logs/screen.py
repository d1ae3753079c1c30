"""The terminal, written: lines that scroll into its own history, and below them one that stays.

No alternate screen and no scrolling region: the line below is erased, lines are written, and it is drawn again. The
cursor then stands at its beginning. So when the terminal is made narrower and wraps it, the cursor still stands where
it begins, and erasing from there erases all of it.
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
        """Columns and rows, each 1 at least."""
        try:
            size = os.get_terminal_size(self._descriptor)
        except OSError:
            return 80, 24
        return max(1, size.columns or 80), max(1, size.lines or 24)

    def open(self) -> None:
        self._write(HIDE_CURSOR)
        self._below = ""

    def close(self) -> None:
        """As it was before: no line below, and a cursor."""
        try:
            self._write(ERASE + SHOW_CURSOR)
        except OutputClosed:
            pass  # there is nothing left to put back

    def draw(self, lines: str, below: str) -> None:
        """`lines` end with a newline each; `below` is no wider than the terminal."""
        if lines or below != self._below:
            self._below = below
            self._write(f"{ERASE}{lines}{below}\r")

    def forget(self) -> None:
        """The terminal has another size: draw the line below anew, whatever it is."""
        self._below = "\0"

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(errors="backslashreplace"))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise OutputClosed from error  # EIO: the terminal has been closed
