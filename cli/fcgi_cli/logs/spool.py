"""Events that wait in order, first in memory, then in a file without a name."""

from __future__ import annotations

import pickle
import tempfile
from collections import deque
from typing import IO

from .events import Event

__all__ = ["Spool"]

CHUNK = 2000
"""Events written to the file together."""
CHUNK_CHARACTERS = 4 << 20
MOST_BYTES = 1 << 30
"""In the file; whoever fills the spool is to stop then."""


class Spool:
    """First in, first out."""

    def __init__(self) -> None:
        self._first: deque[Event] = deque()
        self._last: list[Event] = []
        self._characters = 0
        self._file: IO[bytes] | None = None
        self._chunks: deque[tuple[int, int]] = deque()
        self._end = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        return self._end >= MOST_BYTES

    def add(self, event: Event) -> None:
        self._last.append(event)
        self._count += 1
        self._characters += len(getattr(event, "message", ""))
        if len(self._last) >= CHUNK or self._characters > CHUNK_CHARACTERS:
            self._write()

    def take(self, most: int) -> list[Event]:
        """The first `most` that are left."""
        taken: list[Event] = []
        while len(taken) < most and self._count > len(taken):
            if not self._first:
                self._read()
            while self._first and len(taken) < most:
                taken.append(self._first.popleft())
        self._count -= len(taken)
        return taken

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self) -> None:
        if not self._first and not self._chunks:
            self._first.extend(self._last)
        else:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="fcgi-sctp-logs-")  # noqa: SIM115  # closed by `close`
            data = pickle.dumps(self._last, pickle.HIGHEST_PROTOCOL)
            self._file.seek(self._end)
            self._file.write(data)
            self._chunks.append((self._end, len(data)))
            self._end += len(data)
        self._last = []
        self._characters = 0

    def _read(self) -> None:
        if not self._chunks:
            self._first.extend(self._last)
            self._last = []
            self._characters = 0
            return
        assert self._file is not None
        begin, length = self._chunks.popleft()
        self._file.seek(begin)
        self._first.extend(pickle.loads(self._file.read(length)))  # our own, from a file that has no name
        if not self._chunks:
            self._file.truncate(0)
            self._end = 0
