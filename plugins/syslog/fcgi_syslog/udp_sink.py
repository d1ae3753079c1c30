"""Lines to a syslog server in datagrams (RFC 5426). Nobody tells when one is lost on the way.

Where nobody listens on a machine that is there, its kernel says so after the first: from then on lines wait.
"""

from __future__ import annotations

import logging
import socket
from collections import deque

from fcgi_core.plugin import FeedEntry

from .formats import format_message
from .sinks import RETRY_AFTER, Sink

__all__ = ["UdpSink"]

LONGEST_TEXT = 8 << 10
"""Bytes. RFC 5426 section 3.2: receivers should take 2 KiB and more; rsyslog takes 8 KiB unless told otherwise."""


class UdpSink(Sink):
    """`host` is looked up each time the socket is opened."""

    def __init__(self, host: str, port: int, log: logging.Logger, threshold: int = 7) -> None:
        super().__init__(f"udp {host}:{port}", log, threshold)
        self._address = (host, port)
        self._socket: socket.socket | None = None
        self._turn = 0
        self._pending: deque[FeedEntry] = deque()

    def deliver(self, entries: list[FeedEntry]) -> None:
        self._pending.extend(entries)
        while self._pending:
            used = self._socket or self._open()
            try:
                used.send(format_message(self._pending[0], LONGEST_TEXT))
            except OSError:
                self._turn += 1
                self.release()
                raise
            self._pending.popleft()

    def left(self) -> int:
        return sum(len(entry.message) for entry in self._pending)

    def lines_left(self) -> int:
        return len(self._pending)

    def release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        found = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)
        # a name may have several addresses, of which nobody listens at some: take turns
        family, kind, protocol, _, address = found[self._turn % len(found)]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.settimeout(RETRY_AFTER)
        self._socket.connect(address)
        return self._socket
