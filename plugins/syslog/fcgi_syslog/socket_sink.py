"""Lines to the system's syslog, as syslog(3) sends them: datagrams on /dev/log.

    <11>Jul  1 12:00:00 shop[71]: shop.example: no such item: 17

The older form of RFC 3164 is what rsyslog's imuxsock and journald read there. A socket that is full, or gone while the
daemon restarts, makes the lines wait.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
import time
from collections import deque

from fcgi_core.plugin import FeedEntry, escape

from .message import clip
from .sinks import RETRY_AFTER, Sink

__all__ = ["SocketSink", "format_datagram"]

SURE_BYTES = 8 << 10
"""Bytes of text that a line is cut to if the socket does not take it whole; rsyslog's own default limit."""
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NOT_TAG = re.compile(r"[^A-Za-z0-9_.-]")


def format_datagram(entry: FeedEntry, limit: int | None = None) -> bytes:
    """The datagram of an entry, its text cut to `limit` bytes. Times are local, as syslog(3) has them."""
    when = time.localtime(entry.time)
    stamp = f"{_MONTHS[when.tm_mon - 1]} {when.tm_mday:2} {when.tm_hour:02}:{when.tm_min:02}:{when.tm_sec:02}"
    tag = _NOT_TAG.sub("_", entry.application[:32]) or "-"
    process = _NOT_TAG.sub("_", entry.process[:32])
    text = escape(f"{entry.server_name}: {entry.message}" if entry.server_name else entry.message)
    if limit is not None:
        text = clip(text, limit)
    priority = entry.facility * 8 + entry.severity
    return f"<{priority}>{stamp} {tag}{f'[{process}]' if process else ''}: {text}".encode()


class SocketSink(Sink):
    """`path`: the daemon's socket."""

    def __init__(self, path: str, log: logging.Logger, threshold: int = 7) -> None:
        super().__init__(path, log, threshold)
        self._path = path
        self._socket: socket.socket | None = None
        self._pending: deque[FeedEntry] = deque()

    def deliver(self, entries: list[FeedEntry]) -> None:
        self._pending.extend(entries)
        while self._pending:
            self._send(self._pending[0])
            self._pending.popleft()

    def left(self) -> int:
        return sum(len(entry.message) for entry in self._pending)

    def lines_left(self) -> int:
        return len(self._pending)

    def release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, entry: FeedEntry) -> None:
        fresh = self._socket is None
        try:
            self._send_whole(entry)
        except TimeoutError:
            raise  # it is there, but does not read
        except OSError:
            self.release()
            if fresh:
                raise
            self._send_whole(entry)  # the daemon has been restarted

    def _send_whole(self, entry: FeedEntry) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(RETRY_AFTER)
            self._socket.connect(self._path)
        try:
            self._socket.send(format_datagram(entry))
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            self._socket.send(format_datagram(entry, SURE_BYTES))
