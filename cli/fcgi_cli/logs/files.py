"""Reads files of the syslog plugin, and follows them over rotation; reads pipes, such as from ``logs -o json``."""

from __future__ import annotations

import io
import math
import os
import stat
import time
from collections.abc import Callable
from typing import IO

from .events import Event, Line, Lost, Note, SourceError
from .parse import from_file
from .source import LONGEST_LINE, RECEIVE, Source
from .unpack import LONGEST_MAGIC, damage, unpacked

__all__ = ["FileSource", "PipeSource"]

LOOK_AGAIN = 0.1
"""Seconds between reads of a file that is followed."""
PART = 1 << 20
"""Bytes; a line longer than LONGEST_LINE is shown in parts of this size."""


class _Lines(Source):
    """A source of bytes that splits them into lines."""

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        self._path = path
        self._pieces: list[bytes] = []
        self._size = 0
        self._time = 0.0

    def fail(self, error: Exception) -> list[Event]:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
        events = self._flush()
        super().fail(SourceError(why if isinstance(error, SourceError) else f"{self._path}: {why}"))
        return events

    def _events(self, data: bytes) -> list[Event]:
        if b"\n" not in data:
            self._pieces.append(data)
            self._size += len(data)
            return self._parts() if self._size > LONGEST_LINE else []  # a file may contain anything
        *lines, rest = b"".join((*self._pieces, data)).split(b"\n")
        self._pieces, self._size = [rest], len(rest)
        return [self._event(raw) for raw in lines]

    def _parts(self) -> list[Event]:
        """The beginning of a line that is too long, in parts."""
        raw = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        return [self._event(raw[begin : begin + PART]) for begin in range(0, len(raw), PART)]

    def _event(self, raw: bytes) -> Event:
        event = from_file(raw, self._time)
        if isinstance(event, Line):
            self._time = event.time
            event.source = event.source or self.name
            event.past = self.past
        elif isinstance(event, Lost):
            return Lost(event.count, self.past)
        return event

    def _flush(self) -> list[Event]:
        """The last line, if it has no newline."""
        raw = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        return [self._event(raw)] if raw else []


class FileSource(_Lines):
    """Reads the latest `tail` lines of the file at `path` (None: all), then, if `follow`, new lines, also of a new file
    with that name. A compressed file is not followed."""

    def __init__(
        self,
        path: str,
        *,
        tail: int | None,
        follow: bool = True,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(path, name)
        self._tail = tail
        self._follow = follow
        self._clock = clock
        self._file: IO[bytes] | io.RawIOBase | None = None

    def start(self) -> None:
        try:
            self._file = file = open(self._path, "rb", buffering=0)  # noqa: SIM115  # closed by `close`
            self._time = os.fstat(file.fileno()).st_mtime
            if compressed := unpacked(file, os.pread(file.fileno(), LONGEST_MAGIC, 0)):
                self._file, self._follow = compressed, False
            elif self._tail is not None:
                file.seek(_tail_offset(file, self._tail))
        except (OSError, ValueError) as error:
            raise SourceError(f"{self._path}: {getattr(error, 'strerror', None) or error}") from None
        self.due = 0.0

    def read(self) -> list[Event]:
        assert self._file is not None
        try:
            data = self._file.read(RECEIVE)
        except damage() as error:
            return self.fail(error)
        if data:
            return self._events(data)
        if not self._follow:
            events = self._flush()
            self.past, self.ended = False, True
            self.due = math.inf
            return events
        self.past = False
        self.due = self._clock() + LOOK_AGAIN
        return self._rotated()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rotated(self) -> list[Event]:
        """Continue with the file that has the name now."""
        assert self._file is not None
        ours = os.fstat(self._file.fileno())
        try:
            named = os.stat(self._path)
        except OSError:
            self.waiting = True
            return []
        self.waiting = False
        if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino):
            if named.st_size < self._file.tell():
                self._file.seek(0)
                self.due = 0.0
                return [*self._flush(), Note(f"{self._path} was truncated; reading it from its beginning")]
            return []
        try:
            new = open(self._path, "rb", buffering=0)  # noqa: SIM115  # closed by `close`
        except OSError:
            return []  # the next read tries again
        events = [*self._events(self._file.read(-1) or b""), *self._flush()]  # the end of the old file
        self._file.close()
        self._file = new
        self.due = 0.0
        return events


class PipeSource(_Lines):
    """Reads a pipe: standard input as ``-``, or a shell's ``<(…)``. None of its lines are past."""

    past = False

    def __init__(self, path: str, *, name: str = "") -> None:
        super().__init__(path, name)
        self._descriptor: int | None = None

    def start(self) -> None:
        try:
            self._descriptor = os.dup(0) if self._path == "-" else os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror}") from None
        self._time = time.time()

    def fileno(self) -> int | None:
        return self._descriptor

    def read(self) -> list[Event]:
        assert self._descriptor is not None
        try:
            data = os.read(self._descriptor, RECEIVE)
        except OSError as error:
            return self.fail(error)
        if data:
            return self._events(data)
        self.ended = True
        self.close()
        return self._flush()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _tail_offset(file: IO[bytes], lines: int) -> int:
    """The offset of the latest `lines` lines."""
    position = file.seek(0, os.SEEK_END)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return position
    wanted = lines + 1  # the newline before the first of them
    end = position
    while position > 0:
        begin = max(0, position - RECEIVE)
        file.seek(begin)
        block = file.read(position - begin)
        if position == end and block and not block.endswith(b"\n"):
            wanted -= 1  # a last line without a newline
        count = block.count(b"\n")
        if count >= wanted:
            at = len(block)
            for _ in range(wanted):
                at = block.rfind(b"\n", 0, at)
            return begin + at + 1
        wanted -= count
        position = begin
    return 0
