"""A program on a pseudo-terminal, and what a person would see there."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

import pexpect
import pyte

PATIENCE = 30.0
"""Seconds: the machine may have other work."""


class Terminal:
    """Runs `fcgi-sctp` with `arguments` in a terminal of so many columns and rows."""

    def __init__(self, *arguments: str, columns: int = 120, rows: int = 24, **environment: str) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=1)
        self._stream = pyte.ByteStream(self.screen)
        self.written = bytearray()
        self.process = pexpect.spawn(
            sys.executable,
            ["-m", "fcgi_cli", *arguments],
            dimensions=(rows, columns),
            env={**os.environ, "NO_COLOR": "", "TERM": "xterm-256color", "COLORTERM": "", **environment},
            timeout=PATIENCE,
        )
        self.process.delaybeforesend = None
        self.process.ptyproc.delayafterclose = self.process.ptyproc.delayafterterminate = 0.01
        self._above: list[str] = []

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        # close() itself waits but a moment for a killed child, which a busy machine may not keep to
        deadline = time.monotonic() + PATIENCE
        while self.process.isalive() and time.monotonic() < deadline:
            self.process.kill(signal.SIGKILL)
            time.sleep(0.01)
        self.process.close(force=True)

    def press(self, keys: str) -> None:
        self.process.send(keys)

    def signal(self, number: signal.Signals) -> None:
        self.process.kill(number)

    def resize(self, columns: int, rows: int) -> None:
        above = max(0, self.screen.cursor.y + 1 - rows)
        self.screen.resize(rows, columns)
        self.screen.cursor.y = min(self.screen.cursor.y, rows - 1) if above else self.screen.cursor.y  # pyte forgets to
        self.screen.cursor.x = min(self.screen.cursor.x, columns - 1)
        self.process.setwinsize(rows, columns)

    def read(self, timeout: float = 0.2) -> bool:
        """Draw what comes within `timeout`; False when the program has ended."""
        try:
            data = self.process.read_nonblocking(65536, timeout)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.written += data
        self._stream.feed(data)
        return True

    def until(self, seen: Callable[[Terminal], bool], patience: float = PATIENCE) -> None:
        """Look until it is there; AssertionError with the screen if it does not come."""
        deadline = time.monotonic() + patience
        while not seen(self):
            running = self.read()
            if (not running and not seen(self)) or time.monotonic() > deadline:
                raise AssertionError("not seen:\n" + "\n".join(self.lines[-60:]))

    def shows(self, text: str) -> None:
        """Wait until `text` stands on the screen, or above it."""
        self.until(lambda terminal: any(text in line for line in terminal.lines))

    def status_shows(self, text: str) -> None:
        self.until(lambda terminal: text in terminal.status)

    def end(self) -> int:
        """Wait until the program has ended; its exit status."""
        deadline = time.monotonic() + PATIENCE
        while self.read():
            assert time.monotonic() < deadline, "it does not end"
        self.process.wait()
        status = self.process.exitstatus
        assert status is not None, f"ended by signal {self.process.signalstatus}"
        return int(status)

    @property
    def lines(self) -> list[str]:
        """All that scrolled by and the screen."""
        top = self.screen.history.top
        for number in range(len(self._above), len(top)):
            row = top[number]
            self._above.append("".join(row[column].data for column in range(max(row, default=-1) + 1)).rstrip())
        return [*self._above, *(line.rstrip() for line in self.screen.display)]

    @property
    def status(self) -> str:
        """The line that the cursor stands on, at its beginning."""
        return str(self.screen.display[self.screen.cursor.y].rstrip())

    def colour(self, text: str) -> str:
        """The colour of the first character of the last `text` on the screen."""
        for number in reversed(range(self.screen.lines)):
            if (column := self.screen.display[number].find(text)) >= 0:
                return str(self.screen.buffer[number][column].fg)
        raise AssertionError(f"no {text!r} on the screen")
