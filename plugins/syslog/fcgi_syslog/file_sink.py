"""Lines into one file, or into a file for each virtual host.

    2026-07-01T12:00:00.123456Z err shop.example shop[71] [6f1d0c…] no such item: 17

Time in UTC, severity, SERVER_NAME, application and process, request, text; ``-`` for a missing part. An event is
one line, with any text. For JSON see `formats`.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import select
from collections.abc import Callable
from functools import lru_cache

from fcgi_core.plugin import FeedEntry

from .formats import format_line, format_lines
from .lines import Lines
from .sinks import RETRY_AFTER, Part, Sink

__all__ = ["FileSink", "file_name"]

FILE_MODE = 0o640
DIRECTORY_MODE = 0o750
MAX_OPEN = 200
"""Files open at once; a process usually may have 1,024 descriptors."""
MAX_NAMES = 1000
"""Virtual hosts with a separate file: where a web server passes on the client's Host, clients could create files."""
OTHERS = "_others"
"""Stands in the file name of all further virtual hosts."""
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""Not blocking: a pipe that is not read, or not fast enough, would block the thread without a report."""
_OF_PIPES = {errno.ENXIO: "nothing reads from this pipe", errno.EAGAIN: "what reads from this pipe is too slow"}
_UNSAFE = re.compile(r"[^a-z0-9._-]|^\.")


@lru_cache(maxsize=1024)
def file_name(server_name: str) -> str:
    """Return a virtual host's part of a path: lower case, not hidden, without separators."""
    return _UNSAFE.sub("_", server_name.lower()[:100]) or "_"


class _File:
    __slots__ = ("_descriptor", "path", "pending")

    def __init__(self, path: str) -> None:
        self.path = path
        self.pending = bytearray()
        self._descriptor = -1

    def write(self) -> None:
        """Append the pending bytes, in one write if possible. After an OSError the rest stays pending."""
        try:
            if self._descriptor < 0:
                os.makedirs(os.path.dirname(self.path), DIRECTORY_MODE, exist_ok=True)
                self._descriptor = os.open(self.path, _FLAGS, FILE_MODE)
            while self.pending:
                try:
                    del self.pending[: os.write(self._descriptor, self.pending)]
                except BlockingIOError:  # a pipe that is full
                    if not select.select([], [self._descriptor], [], RETRY_AFTER)[1]:
                        raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN):
                self.close()  # next time it may be another file, or a pipe with another reader
            raise OSError(error.errno, _OF_PIPES.get(error.errno or 0, error.strerror), self.path) from None

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileSink(Sink):
    """Appends to the absolute `path`; ``{server_name}`` in it stands for the virtual host. `to_text` formats an entry,
    `to_texts` many lines."""

    def __init__(
        self,
        path: str,
        log: logging.Logger,
        to_text: Callable[[FeedEntry], str] = format_line,
        to_texts: Callable[[Lines], list[str]] = format_lines,
    ) -> None:
        super().__init__(path, log)
        self._to_text = to_text
        self._to_texts = to_texts
        self.apart = "{server_name}" in path
        self._template = path
        self._names: set[str] = set()
        self._files: dict[str, _File] = {}  # least recently written first
        self._pending: dict[str, _File] = {}
        self._in_hand = 0

    def prepare(self, part: Part) -> None:
        lines: dict[str, list[str]] = {}
        if not isinstance(part, Lines):
            lines[self._path(part.server_name)] = [self._to_text(part)]
        elif self.apart:
            for name, of_host in part.by_host().items():
                lines.setdefault(self._path(name), []).extend(self._to_texts(of_host))
        else:
            lines[self._template] = self._to_texts(part)
        for path, data in [(path, "".join(texts).encode()) for path, texts in lines.items()]:
            file = self._open(path)
            file.pending += data
            self._in_hand += len(data)
            self._pending[path] = file

    def push(self) -> None:
        failure: OSError | None = None
        for file in list(self._pending.values()):
            before = len(file.pending)
            try:
                file.write()
                del self._pending[file.path]
            except OSError as error:  # the other files may be on another disk
                failure = failure or error
            self._in_hand -= before - len(file.pending)
            if file.path not in self._files:
                file.close()
        if failure is not None:
            raise failure

    def abandon(self) -> int:
        count = sum(file.pending.count(b"\n") for file in self._pending.values())
        for file in self._pending.values():
            file.pending.clear()
        self._pending.clear()
        self._in_hand = 0
        return count

    def left(self) -> int:
        return self._in_hand

    def release(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = dict(self._pending)

    def _path(self, server_name: str) -> str:
        if not self.apart:
            return self._template
        name = file_name(server_name)
        if name not in self._names:
            if len(self._names) >= MAX_NAMES:
                name = OTHERS
            else:
                self._names.add(name)
        return self._template.replace("{server_name}", name)

    def _open(self, path: str) -> _File:
        file = self._files.pop(path, None) or self._pending.get(path) or _File(path)
        self._files[path] = file
        if len(self._files) > MAX_OPEN:
            oldest = next(iter(self._files))
            self._files.pop(oldest).close()  # its pending bytes stay in `_pending`
        return file
