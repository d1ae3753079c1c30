"""Lines to the system's syslog, as syslog(3) sends them: datagrams on /dev/log.

    <11>Jul  1 12:00:00 shop[71]: shop.example: no such item: 17

rsyslog's imuxsock and journald read this older form, RFC 3164. While the socket is full, or gone because the daemon
restarts, lines wait.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
import time

from fcgi_core.plugin import FeedEntry, escape

from .datagram_sink import DatagramSink
from .message import clip

__all__ = ["SocketSink", "format_datagram"]

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NOT_TAG = re.compile(r"[^A-Za-z0-9_.-]")


def format_datagram(entry: FeedEntry, limit: int | None = None) -> bytes:
    """Return the datagram of an entry, its text cut to `limit` bytes. Times are local, as in syslog(3)."""
    when = time.localtime(entry.time)
    stamp = f"{_MONTHS[when.tm_mon - 1]} {when.tm_mday:2} {when.tm_hour:02}:{when.tm_min:02}:{when.tm_sec:02}"
    tag = _NOT_TAG.sub("_", entry.application[:32]) or "-"
    process = _NOT_TAG.sub("_", entry.process[:32])
    text = escape(f"{entry.server_name}: {entry.message}" if entry.server_name else entry.message)
    if limit is not None:
        text = clip(text, limit)
    priority = entry.facility * 8 + entry.severity
    return f"<{priority}>{stamp} {tag}{f'[{process}]' if process else ''}: {text}".encode()


class SocketSink(DatagramSink):
    """Writes to the daemon's socket at `path`."""

    def __init__(self, path: str, log: logging.Logger) -> None:
        super().__init__(path, log)
        self._path = path

    def format(self, entry: FeedEntry, limit: int | None) -> bytes:
        return format_datagram(entry, limit)

    def send(self, data: bytes) -> None:
        fresh = self._socket is None
        try:
            (self._socket or self.connect(socket.AF_UNIX, self._path)).send(data)
        except TimeoutError:
            raise  # the daemon is there, but does not read
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise
            self.release()
            if fresh:
                raise
            self.connect(socket.AF_UNIX, self._path).send(data)  # the daemon has been restarted
