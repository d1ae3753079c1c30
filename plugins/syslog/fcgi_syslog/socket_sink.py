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

from fcgi_core.plugin import FeedEntry, escape

from .datagram_sink import DatagramSink
from .message import clip
from .sinks import RETRY_AFTER

__all__ = ["SocketSink", "format_datagram"]

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


class SocketSink(DatagramSink):
    """`path`: the daemon's socket."""

    def __init__(self, path: str, log: logging.Logger, threshold: int = 7) -> None:
        super().__init__(path, log, threshold)
        self._path = path

    def format(self, entry: FeedEntry, limit: int | None) -> bytes:
        return format_datagram(entry, limit)

    def send(self, data: bytes) -> None:
        fresh = self._socket is None
        try:
            (self._socket or self._open()).send(data)
        except TimeoutError:
            raise  # it is there, but does not read
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise
            self.release()
            if fresh:
                raise
            self._open().send(data)  # the daemon has been restarted

    def _open(self) -> socket.socket:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(RETRY_AFTER)
        self._socket.connect(self._path)
        return self._socket
