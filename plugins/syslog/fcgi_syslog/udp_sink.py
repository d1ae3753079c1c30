"""Lines to a syslog server in datagrams (RFC 5426). Nobody tells when one is lost on the way.

Where nobody listens on a machine that is there, its kernel says so after the first: from then on lines wait.
"""

from __future__ import annotations

import errno
import logging
import socket

from fcgi_core.plugin import FeedEntry

from .datagram_sink import DatagramSink
from .formats import format_message
from .sinks import RETRY_AFTER

__all__ = ["UdpSink"]


class UdpSink(DatagramSink):
    """`host` is looked up each time the socket is opened."""

    first_limit = 8 << 10
    """RFC 5426 section 3.2: receivers should take 2 KiB and more; rsyslog takes 8 KiB unless told otherwise."""

    def __init__(self, host: str, port: int, log: logging.Logger, threshold: int = 7) -> None:
        super().__init__(f"udp {host}:{port}", log, threshold)
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
        # a name may have several addresses, of which nobody listens at some: take turns
        family, kind, protocol, _, address = found[self._turn % len(found)]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.settimeout(RETRY_AFTER)
        self._socket.connect(address)
        return self._socket
