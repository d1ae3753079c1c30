"""Turns with whatever else this machine has to do: a lock that other programs of it may take as well (flock(1))."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import TextIO

__all__ = ["Turns"]

LONGEST = 100.0
"""Seconds after which it is somebody else's turn, if somebody waits."""


class Turns:
    """Call :meth:`take` before each measurement; without a file it does nothing."""

    def __init__(self, file: Path | None) -> None:
        self._path = file
        self._held: TextIO | None = None
        self._since = 0.0

    def take(self) -> None:
        """Have the lock; if it was had for long, let others have it first."""
        if self._path is None or (self._held is not None and time.monotonic() - self._since < LONGEST):
            return
        self.give()
        self._held = self._path.open("a")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        self._since = time.monotonic()

    def give(self) -> None:
        """Let it go."""
        if self._held is not None:
            # said aloud: processes that were forked meanwhile have the file open as well, and would keep the lock
            fcntl.flock(self._held, fcntl.LOCK_UN)
            self._held.close()
            self._held = None
            time.sleep(0.5)  # who waits for it gets it
