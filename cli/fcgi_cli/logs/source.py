"""The interface of sources of lines, so that one loop reads feeds, files and pipes."""

from __future__ import annotations

import math

from .events import Event

__all__ = ["RECEIVE", "LONGEST_LINE", "Source"]

RECEIVE = 256 << 10
"""Bytes read at once: a few thousand lines."""
LONGEST_LINE = 16 << 20
"""Bytes: an item of feedback has at most 1 MiB, and JSON writes some of its bytes as six."""


class Source:
    """Reads lines from one place, in order. `read` never waits: call it when `fileno` can be read, or at `due`."""

    name: str = ""
    """Shown before its lines, if there are several sources."""
    due: float = math.inf
    """Time of `time.monotonic` at which to call `read` even if the descriptor is not readable."""
    past: bool = True
    """Whether it still reads lines that were there before the viewer started."""
    ended: bool = False
    """Whether no more lines come."""
    waiting: bool = False
    """Whether it is away and expected to come back."""
    failure: str = ""
    """The reason why it ended early, as a sentence; '' if it did not."""

    def start(self) -> None:
        """Open it. SourceError."""

    def fileno(self) -> int | None:
        """The descriptor to watch; None if it has none at present."""
        return None

    def read(self) -> list[Event]:
        """Read and return new events. SourceError."""
        raise NotImplementedError

    def fail(self, error: Exception) -> list[Event]:
        """End it for this reason; return its remaining events."""
        self.failure = str(error)
        self.past, self.ended = False, True
        self.due = math.inf
        self.close()
        return []

    def close(self) -> None:
        """Close it; may be repeated."""
