"""Lines to a syslog server in datagrams (RFC 5426). A datagram lost on the way is not noticed.

If no server listens on a machine that is up, its kernel says so after the first datagram; further lines wait.
"""

from __future__ import annotations

import errno
import logging
import socket

from fcgi_core.plugin import FeedEntry

from .datagram_sink import DatagramSink
from .formats import format_message

__all__ = ["UdpSink"]


class UdpSink(DatagramSink):
    """Looks `host` up each time it opens the socket."""

    first_limit = 8 << 10
    """RFC 5426 section 3.2: receivers should accept 2 KiB and more; rsyslog accepts 8 KiB by default."""

    def __init__(self, host: str, port: int, log: logging.Logger) -> None:
        super().__init__(f"udp {host}:{port}", log)
        self._address = (host, port)
        self._turn = 0

    def format(self, entry: FeedEntry, limit: int | None) -> bytes:
        return format_message(entry, limit or 0)

    def send(self, data: bytes) -> None:
        used = self._socket or self._open()
        try:
            used.send(data)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                self._turn += 1
                self.release()
            raise

    def _open(self) -> socket.socket:
        found = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)
        # a name may have several addresses, and a server may listen at one alone: alternate
        family, _, _, _, address = found[self._turn % len(found)]
        return self.connect(family, address)
