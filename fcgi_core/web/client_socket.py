"""The socket of one web server: how it is written, when it is not read, and how it is closed.

All that is written in one turn of the event loop goes out in one write. A socket that is closed while input is unread,
or before it comes, is reset (RFC 1122 section 4.2.2.13), and the web server reads nothing of the answer any more: so
its input is read on for a while and thrown away.
"""

from __future__ import annotations

import asyncio
import logging

__all__ = ["ClientSocket", "Sockets"]

log = logging.getLogger("fcgi_sctp.web")

MAX_UNREAD_STDERR = 256 * 1024
"""Bytes of STDERR that wait on a socket whose web server does not read; what comes on top is dropped and reported."""
LINGER_FOR = 30.0
"""Seconds for which a socket that is to be closed is read on, so that its web server can read the answer; nginx'
lingering_time."""
LINGER_BYTES = 256 << 20
"""Bytes that are then thrown away at most; php-fpm knows no bound."""
HIGH_WATER = 64 * 1024
"""Bytes in the socket's write buffer from which on no more of a response is requested; asyncio's own default."""
LONG_PART = 4096
"""Bytes from which on a record's content goes to the socket as it is, and is not copied to join other records."""


class Sockets:
    """The sockets of all web servers: those with something to send write at the end of the loop's turn, each once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._writing: list[ClientSocket] = []
        self.stderr_left_out = 0
        """Bytes of STDERR that web servers did not read."""

    def write_soon(self, client: ClientSocket) -> None:
        if not self._writing:
            self._loop.call_soon(self._write)
        self._writing.append(client)

    def _write(self) -> None:
        writing, self._writing = self._writing, []
        for client in writing:
            client.flush()


class ClientSocket:
    """Writes to the socket of one web server and closes it. A subclass reads what comes."""

    def __init__(self, sockets: Sockets) -> None:
        self.paused = False
        """The socket's write buffer is full."""
        self._sockets = sockets
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._ending = False
        """The socket is to be closed, at the end of a turn."""
        self._out: list[bytes] = []
        self._has_long = False
        """Whether a part of `_out` is too long to be copied once more."""
        self._full: set[object] = set()
        """Requests that want no more input now. The socket is read if there are none."""
        self._lingering: asyncio.TimerHandle | None = None
        """While the socket is read only so that the web server can read the last answer."""
        self._thrown_away = 0
        self._stderr_waiting = 0
        self._stderr_left_out = 0

    def abort(self) -> None:
        self._transport.abort()

    # ---- writing

    def write(self, encoded: bytes) -> None:
        """Queue a record, or a part of one, for the end of the loop's turn."""
        if not self._out:
            self._sockets.write_soon(self)
        self._out.append(encoded)
        if len(encoded) >= LONG_PART:
            self._has_long = True

    def flush(self) -> None:
        """Hand the queued records to the socket."""
        out, self._out = self._out, []
        if out and self._lingering is None and not self._transport.is_closing():
            if len(out) == 1:
                self._transport.write(out[0])
            elif self._has_long:
                self._transport.writelines(out)
            else:
                self._transport.write(b"".join(out))
        self._has_long = False
        if self._ending:
            self.end_if_idle()

    def end_if_idle(self) -> None:
        """Close the socket unless more is to be written."""
        raise NotImplementedError

    def may_write_stderr(self, size: int) -> bool:
        """Whether `size` bytes of STDERR may be written. Nothing else bounds them: STDERR has no window."""
        if self.paused:
            self._stderr_waiting += size
        return self._stderr_waiting <= MAX_UNREAD_STDERR

    def leave_out(self, size: int) -> None:
        """Count `size` bytes of STDERR that are not written."""
        self._stderr_left_out += size
        self._sockets.stderr_left_out += size

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._stderr_waiting = 0
        self._report_left_out()

    def _report_left_out(self) -> None:
        if self._stderr_left_out:
            log.warning("%s did not read its STDERR; %d bytes were dropped", self._peer(), self._stderr_left_out)
            self._stderr_left_out = 0

    # ---- reading

    def stop_reading(self, request: object) -> None:
        """Let the socket fill up: the request wants no more input before `read_on`. The requests of a socket stop
        together."""
        if not self._full and not self._transport.is_closing():
            self._transport.pause_reading()
        self._full.add(request)

    def read_on(self, request: object) -> None:
        """Read again if no other request is in the way: this one wants input again, or is over."""
        if request in self._full:
            self._full.discard(request)
            if not self._full and not self._transport.is_closing():
                self._transport.resume_reading()

    def is_held_up_by(self, request: object) -> bool:
        """Whether the request wants no more input now."""
        return request in self._full

    # ---- closing

    def close(self, unread: bool) -> None:
        """Close the socket when all that is written has gone; `unread`: input may still come, and is thrown away."""
        transport = self._transport
        if self._lingering is not None or transport.is_closing():
            return
        if not unread:
            transport.close()
            return
        self._lingering = self._loop.call_later(LINGER_FOR, self._linger_no_more)
        try:
            transport.write_eof()
        except OSError:
            transport.abort()  # the web server has gone

    def _throw_away(self, data: bytes) -> None:
        """Take input that came while the socket lingers."""
        self._thrown_away += len(data)
        if self._thrown_away > LINGER_BYTES:
            self._transport.close()

    def _linger_no_more(self) -> None:
        if self._transport.get_write_buffer_size():
            # the answer is still on its way to a slow reader
            self._lingering = self._loop.call_later(LINGER_FOR, self._linger_no_more)
        else:
            self._transport.close()

    def _closed(self) -> None:
        """The socket is closed: drop the timer, report what was left out."""
        if self._lingering is not None:
            self._lingering.cancel()
        self._report_left_out()

    def _peer(self) -> str:
        name = self._transport.get_extra_info("peername")
        return (
            f"the web server at {name[0]}:{name[1]}" if isinstance(name, tuple) else "the web server on the unix socket"
        )
