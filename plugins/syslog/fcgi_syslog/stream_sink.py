"""Lines to a syslog server over TCP, with octet counts (RFC 6587 section 3.4.1), or over TLS (RFC 5425).

Syslog has no acknowledgements, and bytes that send() accepted may never be read. So a line is kept until the server's
kernel has acknowledged its bytes (SIOCOUTQ of tcp(7)), and sent again on the next connection if this one ends before.
Even then the server may die before it reads them, which resets the connection: then the last `REPEAT_BYTES` are sent
again. So lines may arrive twice, and are lost only if more than that was unread. Before each line the sink checks
whether the server has closed the connection.
"""

from __future__ import annotations

import fcntl
import logging
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable

from .formats import format_message, format_messages
from .lines import Lines
from .sinks import CLOSE_WITHIN, STALLED_AFTER, Part, Sink

__all__ = ["StreamSink", "tls_context"]

BATCH_BYTES = 64 << 10
"""Bytes that go to the socket at once, and are kept or given up together."""
REPEAT_BYTES = 1 << 20
"""Acknowledged bytes that are sent again after a reset."""
CONNECT_WITHIN = 5.0
LOOK_UP_EVERY = 1.0
"""Seconds between checks whether to end, while the server reads nothing."""
KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""Seconds, seconds, and a count: a server's machine that is gone is noticed within a minute."""
_SIOCOUTQ = 0x5411
"""ioctl of Linux: bytes that the peer has not acknowledged."""
_RESET = (BrokenPipeError, ConnectionResetError, ssl.SSLError)


class _DoesNotRead(TimeoutError):
    """The server reads nothing. The connection is kept, and the batch goes on where it stopped."""


class _Batch:
    __slots__ = ("data", "end", "lines")

    def __init__(self, data: bytes, lines: int) -> None:
        self.data = data
        self.lines = lines
        self.end = 0
        """Bytes sent on this connection up to the end of the batch."""


def tls_context(ca: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """Return the context for a server's certificate and ours. OSError, such as SSLError, if a file cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9662
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


class StreamSink(Sink):
    """Writes to a server; over TLS with `context`, and then its certificate must name `peer_name`, or else `host`."""

    def __init__(
        self,
        host: str,
        port: int,
        log: logging.Logger,
        *,
        longest_text: int = 64 << 10,
        context: ssl.SSLContext | None = None,
        peer_name: str | None = None,
    ) -> None:
        super().__init__(f"{'tcp' if context is None else 'tls'} {host}:{port}", log)
        self._address = (host, port)
        self._longest_text = longest_text
        self._context = context
        self._peer_name = peer_name or host
        self._socket: socket.socket | None = None
        self._unsent: deque[_Batch] = deque()
        self._unsure: deque[_Batch] = deque()
        """Batches sent on this connection that may not be acknowledged."""
        self._repeat: deque[_Batch] = deque()
        """The latest batches that the server's kernel has acknowledged."""
        self._repeat_bytes = 0
        self._sent = 0
        self._offset = 0
        """Bytes of the first unsent batch that were sent."""

    def prepare(self, part: Part) -> None:
        if isinstance(part, Lines):
            messages = format_messages(part, self._longest_text)
        else:
            messages = [format_message(part, self._longest_text)]
        framed: list[bytes] = []
        size = 0
        for message in messages:
            framed.append(b"%d %b" % (len(message), message))
            size += len(message)
            if size > BATCH_BYTES:
                self._unsent.append(_Batch(b"".join(framed), len(framed)))
                framed, size = [], 0
        if framed:
            self._unsent.append(_Batch(b"".join(framed), len(framed)))

    def push(self) -> None:
        if not (self._unsent or self._unsure):
            return
        try:
            if self._socket is not None and self._ended(self._socket):
                raise ConnectionError("the server has closed the connection")
            used = self._socket or self._connect()
            while self._unsent:
                self._send(used)
            self._settle(used)
            if self.closing:
                self._settle_all(used)
        except _DoesNotRead:
            raise  # a new connection would not be read either
        except OSError as error:
            self._disconnect(reset=isinstance(error, _RESET))
            raise

    def abandon(self) -> int:
        count = self.lines_left()
        self._unsent.clear()
        self._unsure.clear()
        self._disconnect(reset=False)
        return count

    def left(self) -> int:
        return sum(len(batch.data) for batch in (*self._unsent, *self._unsure))

    def lines_left(self) -> int:
        return sum(batch.lines for batch in (*self._unsent, *self._unsure))

    def release(self) -> None:
        self._disconnect(reset=False)

    def _connect(self) -> socket.socket:
        plain = socket.create_connection(self._address, CONNECT_WITHIN)
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE:
                plain.setsockopt(socket.IPPROTO_TCP, option, value)
            if self._context is not None:
                plain = self._context.wrap_socket(plain, server_hostname=self._peer_name)
        except BaseException:
            plain.close()
            raise
        plain.settimeout(LOOK_UP_EVERY)
        self._socket = plain
        self._sent = self._offset = 0
        return plain

    def _disconnect(self, *, reset: bool) -> None:
        """Close the connection; batches that may not have arrived are sent again."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        self._unsent.extendleft(reversed(self._unsure))
        self._unsure.clear()
        if reset:
            self._unsent.extendleft(reversed(self._repeat))
        self._repeat.clear()
        self._repeat_bytes = 0
        self._offset = 0

    def _send(self, used: socket.socket) -> None:
        """Give the whole first unsent batch to the socket."""
        batch = self._unsent[0]
        view = memoryview(batch.data)
        since = time.monotonic()
        while self._offset < len(view):
            try:
                sent = used.send(view[self._offset :])
            except TimeoutError:
                if time.monotonic() - since > (CLOSE_WITHIN / 4 if self.closing else STALLED_AFTER):
                    raise _DoesNotRead("the server does not read what is sent") from None
                continue
            since = time.monotonic()
            self._offset += sent
            self._sent += sent
        self._offset = 0
        batch.end = self._sent
        self._unsent.popleft()
        self._unsure.append(batch)
        if len(self._unsure) > 16:
            self._settle(used)

    def _settle(self, used: socket.socket) -> None:
        """Move the batches that the server's kernel has acknowledged."""
        # TLS sends more bytes than are counted here, so this never says too much
        certain = self._sent - struct.unpack("i", fcntl.ioctl(used.fileno(), _SIOCOUTQ, bytes(4)))[0]
        while self._unsure and self._unsure[0].end <= certain:
            batch = self._unsure.popleft()
            batch.lines = 0  # its lines count as written, even if it is sent again
            self._repeat.append(batch)
            self._repeat_bytes += len(batch.data)
            while self._repeat_bytes > REPEAT_BYTES:
                self._repeat_bytes -= len(self._repeat.popleft().data)

    def _settle_all(self, used: socket.socket) -> None:
        deadline = time.monotonic() + CLOSE_WITHIN / 2
        pause: Callable[[float], None] = time.sleep
        while self._unsure and time.monotonic() < deadline:
            self._settle(used)
            if self._unsure:
                pause(0.005)

    def _ended(self, used: socket.socket) -> bool:
        """Return whether the server has closed the connection. Syslog servers send nothing but TLS messages."""
        while select.select([used], [], [], 0)[0]:
            used.settimeout(0)
            try:
                if not used.recv(4096):
                    return True
            except (BlockingIOError, ssl.SSLWantReadError):
                return False
            finally:
                used.settimeout(LOOK_UP_EVERY)
        return False
