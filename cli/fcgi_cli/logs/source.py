"""What every source of lines can do, so that one loop reads feeds, files and pipes at once."""

from __future__ import annotations

import math

from .events import Event

__all__ = ["RECEIVE", "LONGEST_LINE", "Source"]

RECEIVE = 256 << 10
"""Bytes read at once: some thousand lines, which take some 10 ms."""
LONGEST_LINE = 16 << 20
"""Bytes: an item of feedback has 1 MiB at most, and JSON makes six bytes of some."""


class Source:
    """Lines from one place, in order. `read` never waits: it is called when `fileno` can be read, or at `due`."""

    name: str = ""
    """Which it is, if there are several."""
    due: float = math.inf
    """Time of `time.monotonic` at which `read` wants to be called whatever the descriptor says."""
    past: bool = True
    """Still on what was there when we came."""
    ended: bool = False
    """There is no more to come."""
    waiting: bool = False
    """Away at present, and expected back."""
    failure: str = ""
    """Why it ended before its time: a sentence for the user."""

    def start(self) -> None:
        """SourceError if it cannot be read."""

    def fileno(self) -> int | None:
        """The descriptor to watch; None if there is none now."""
        return None

    def read(self) -> list[Event]:
        """What has come. SourceError."""
        raise NotImplementedError

    def fail(self, error: Exception) -> list[Event]:
        """It cannot be read on, for this reason; what is left of it."""
        self.failure = str(error)
        self.past, self.ended = False, True
        self.due = math.inf
        self.close()
        return []

    def close(self) -> None:
        """Let go of it; may be repeated."""
