"""One connection to a FastCGI server, which carries one request after the other.

Where servers differ from the specification (section numbers are of the specification), and what this client does:

* php-fpm, libfcgi and uwsgi accept request id 1 only, or one request at a time: the id is always 1, without
  multiplexing.
* php-fpm treats an unexpected record as the end of the input, so this client never sends ABORT_REQUEST. It closes the
  connection instead, which every server understands.
* php-fpm and uwsgi parse each PARAMS record by itself: there is one record if all pairs fit, else cuts between pairs.
* php-fpm does not skip the padding of an empty record: no record is padded.
* php-fpm and php-cgi answer GET_VALUES and close the connection: this client does not send it.
* uwsgi reads CONTENT_LENGTH bytes of input, answers and closes, before the record that ends the input has come. Sending
  that record then fails, and the answer is read from the socket all the same.
* Some servers close the connection after STDOUT without END_REQUEST: an answer is complete if its STDOUT was closed, or
  if the request says so.
* Servers close connections that they were asked to keep: php-fpm after a number of requests, others when idle.
* PHP scripts go on after END_REQUEST (`fastcgi_finish_request()`), and their output comes on the kept connection. It
  belongs to no answer, and the next request would wait for the end of the script. php-fpm reads the record that ends
  the input only when it is ready for another request, which shows on a unix socket (`is_ready`).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import struct
import termios
from typing import Protocol, cast

from ...errors import RemoteProtocolError
from ...hosting.byte_stream import KEEP_CONN, RecordReader, params_records
from ...protocol.records import PROTOCOL_STATUS, ProtocolStatus, RecordType, Role, begin_request, record, stream_records

__all__ = ["FastcgiConnection", "FastcgiRequest"]

REQUEST_ID = 1
RECORD_SIZE = 32 * 1024 - 8
"""Bytes of content in STDIN and DATA records to the server: a multiple of 8 (section 3.3). All known servers accept
65,535."""
NOTHING_UNREAD = bytes(struct.calcsize("i"))
"""The result of TIOCOUTQ for a unix socket whose peer has read everything (unix(7)): an int of 0."""
_END = struct.Struct(">IB")
_BEGIN = {
    (role, keep): begin_request(REQUEST_ID, role, KEEP_CONN if keep else 0) for role in Role for keep in (False, True)
}
_INPUTS = {Role.RESPONDER: 1, Role.AUTHORIZER: 0, Role.FILTER: 2}
_CLOSING = {kind: record(kind, REQUEST_ID) for kind in (RecordType.PARAMS, RecordType.STDIN, RecordType.DATA)}
"""Records that are the same in each request, made once."""


class FastcgiRequest(Protocol):
    """The request that a connection carries, as the connection calls it."""

    def output(self, data: bytes) -> None:
        """Called with a part of STDOUT."""

    def stderr(self, data: bytes) -> None:
        """Called with a part of STDERR."""

    def ended(self, app_status: int, status: ProtocolStatus, last: bytes) -> None:
        """Called when the answer is complete, with the STDOUT that came with its end. The connection is free."""

    def lost(self, error: Exception | None) -> None:
        """Called when the connection ended, or carried something else than FastCGI, before the answer was complete."""

    def may_send(self) -> None:
        """Called when the connection has room for input again."""

    def is_whole(self, *, closed: bool) -> bool:
        """Return whether the answer is complete though END_REQUEST is missing. `closed`: the server was asked to close
        the connection after its answer, and closed it without an error."""


class FastcgiConnection:
    """A client's connection, for asyncio. `gone` is called once when it has ended, after the request's `lost`."""

    def __init__(self) -> None:
        self.request: FastcgiRequest | None = None
        """The present request; None: the connection is free."""
        self.requests = 0
        """Number of requests carried, including the present one."""
        self.answered = False
        """Whether a record has come for the present request."""
        self.paused = False
        """Whether the socket's write buffer is full: wait for `may_send`."""
        self.closed = False
        self.kept = False
        """Whether the present request asked the server to keep the connection."""
        self._reader = RecordReader()
        self._stopped = False
        """Whether the socket is not read."""
        self._transport: asyncio.Transport
        self._parts: list[bytes] = []
        self._output_closed = False
        self._inputs_open = 0
        self._fd = -1
        self._poll = select.poll()
        self._unread = bytearray(NOTHING_UNREAD)
        """Where TIOCOUTQ writes. Given bytes, `ioctl` raises and catches an exception first: 3,900 instructions."""

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._fd = transport.get_extra_info("socket").fileno()
        self._poll.register(self._fd, select.POLLIN)

    def data_received(self, data: bytes) -> None:
        try:
            records = self._reader.feed(data)
        except RemoteProtocolError as error:
            self._fail(error)
            return
        request = self.request
        if request is None:
            self.close()  # it belongs to no request
            return
        output: list[bytes] = []
        ended: tuple[int, int] | None = None
        for kind, request_id, content in records:
            if request_id != REQUEST_ID:
                continue
            if ended is not None:
                self.kept = False  # the server sends more after the end
                break
            if not self.answered:
                self.answered = True
                self.answer_begins()
            if kind == RecordType.STDOUT:
                if content:
                    output.append(content)
                else:
                    self._output_closed = True
            elif kind == RecordType.STDERR:
                if content:
                    request.stderr(content)
            elif kind == RecordType.END_REQUEST:
                ended = _END.unpack_from(content) if len(content) >= _END.size else (0, -1)
        part = output[0] if len(output) == 1 else b"".join(output)
        if ended is not None and self.request is not None:
            self._ended(ended[0], ended[1], part)
        elif part:
            request.output(part)

    def eof_received(self) -> bool:
        self._transport.abort()  # connection_lost follows, without waiting until the server reads what is left to send
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and self.request is not None and not self.closed:
            self._read_rest()
        self.closed = True
        request, self.request = self.request, None
        if request is not None:
            in_order = error is None and not self.kept
            if not self._reader.inside_record and (self._output_closed or request.is_whole(closed=in_order)):
                request.ended(0, ProtocolStatus.REQUEST_COMPLETE, b"")
            else:
                request.lost(error)
        self.gone()

    def _read_rest(self) -> None:
        """Read the bytes that came before writing failed. The loop discards them, but they may be the whole answer of a
        server that did not wait for the end of the input. The socket is still open here."""
        try:
            while rest := os.read(self._fd, 65536):
                self.data_received(rest)
        except OSError:
            pass  # there are no more bytes

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.request is not None:
            self.request.may_send()

    # ---- its user

    def gone(self) -> None:
        """Called when the connection has ended; for the pool to override."""

    def answer_begins(self) -> None:
        """Called when the first record of an answer comes; for the pool to override."""

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request when it `is_ready`: the last request is over on both sides,
        and the server was asked to keep the connection."""
        return (
            not self.closed
            and self.request is None
            and self.kept
            and self._inputs_open == 0
            and not self._reader.inside_record
        )

    def is_ready(self) -> bool:
        """Return whether the server waits for another request, as far as a unix socket shows it: it has read all input,
        has sent nothing since, and has not closed the connection, even if the loop has not noticed that yet."""
        return (
            not self.closed
            and not self._poll.poll(0)
            and not fcntl.ioctl(self._fd, termios.TIOCOUTQ, self._unread)
            and self._unread == NOTHING_UNREAD
        )

    def begin(self, request: FastcgiRequest, params: bytes, role: Role, *, keep: bool) -> None:
        """Begin a request with the content of its PARAMS. Input follows, with `flush` at the end."""
        assert self.request is None
        self.request = request
        self.requests += 1
        self.answered = self._output_closed = False
        self.kept = keep
        self._inputs_open = _INPUTS[role]
        self._parts.append(_BEGIN[role, keep])
        self._parts += params_records(REQUEST_ID, params)
        self._parts.append(_CLOSING[RecordType.PARAMS])

    def send(self, kind: int, data: bytes) -> None:
        """Send a part of STDIN or DATA, with the next `flush`; b'' closes it."""
        if data:
            self._parts += stream_records(kind, REQUEST_ID, data, size=RECORD_SIZE)
        else:
            self._inputs_open -= 1
            self._parts.append(_CLOSING[kind])

    def flush(self) -> None:
        """Write to the socket the records of `begin` and `send`."""
        parts, self._parts = self._parts, []
        if parts and not self.closed:
            self._transport.write(b"".join(parts))

    def stop_reading(self) -> None:
        if not self._stopped and not self._transport.is_closing():
            self._stopped = True
            self._transport.pause_reading()

    def read_on(self) -> None:
        if self._stopped and not self._transport.is_closing():
            self._stopped = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Close at once. The present request gets no more calls."""
        self.closed = True
        self.request = None
        self._transport.abort()

    # ---- the answer's end

    def _ended(self, app_status: int, number: int, last: bytes) -> None:
        request, self.request = self.request, None
        assert request is not None
        status = PROTOCOL_STATUS.get(number)
        if status is None or status is ProtocolStatus.INCOMPLETE:  # which is no status of FastCGI
            self.kept = False
            if last:
                request.output(last)
            request.lost(RemoteProtocolError(f"END_REQUEST with protocol status {number}"))
        else:
            request.ended(app_status, status, last)

    def _fail(self, error: Exception) -> None:
        request, self.request = self.request, None
        self._transport.abort()
        if request is not None:
            request.lost(error)
