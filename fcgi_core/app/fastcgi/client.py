"""One connection to a FastCGI server, which carries one request after the other.

What servers get wrong, or take otherwise than the specification (section numbers are its), and what is done here:

* php-fpm, libfcgi and uwsgi know request id 1 only, or any but one at a time: id 1 is used, and nothing is multiplexed.
* php-fpm takes any record that it does not expect for the end of the input. So ABORT_REQUEST is never sent: who does
  not wait for the answer any more closes the connection, which every server understands.
* php-fpm and uwsgi parse each PARAMS record by itself: one is sent where all fits, else they are cut between pairs.
* php-fpm does not skip the padding of an empty record: none of ours is padded.
* php-fpm and php-cgi answer GET_VALUES and close: nobody asks for values.
* uwsgi reads CONTENT_LENGTH bytes of input, answers and closes, though the record that ends the input is still to come:
  sending that fails when the answer stands in the socket already, and is read all the same.
* Some servers close the connection after STDOUT and send no END_REQUEST: an answer whose STDOUT was closed is whole,
  and one that the request knows to be whole.
* Servers close connections that they had promised to keep: php-fpm after so many requests, others after some idle time.
* PHP scripts go on after END_REQUEST (`fastcgi_finish_request()`), and what they say then comes on a connection that is
  kept. It belongs to no answer, and the next request would wait for the script's end. php-fpm reads the record that
  ends the input only when it is ready for another request: on a unix socket that is seen (`is_ready`).
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
from ...protocol.records import ProtocolStatus, RecordType, Role, begin_request, record, stream_records

__all__ = ["FastcgiConnection", "FastcgiRequest"]

REQUEST_ID = 1
RECORD_SIZE = 32 * 1024 - 8
"""Content of the STDIN and DATA records sent to the server, bytes: a multiple of 8 (section 3.3). All known servers
take 65,535."""
NOTHING_UNREAD = bytes(struct.calcsize("i"))
"""What TIOCOUTQ gives for a unix socket whose peer has read all (unix(7)): an int of 0."""
_END = struct.Struct(">IB")


class FastcgiRequest(Protocol):
    """Who made the request that a connection carries."""

    def output(self, data: bytes) -> None:
        """Part of STDOUT."""

    def stderr(self, data: bytes) -> None:
        """Part of STDERR."""

    def ended(self, app_status: int, status: ProtocolStatus) -> None:
        """The answer is complete. The connection carries the request no longer."""

    def lost(self, error: Exception | None) -> None:
        """The connection is gone, or no FastCGI came on it, and the answer is not complete."""

    def may_send(self) -> None:
        """The connection takes more input again."""

    def is_whole(self, *, closed: bool) -> bool:
        """Whether the answer is complete though its end was not said. `closed`: the server was to close the connection
        behind its answer, and closed it in order."""


class FastcgiConnection(asyncio.Protocol):
    """A client's connection. `gone` is called once when it cannot be used any more, after the request's `lost`."""

    def __init__(self) -> None:
        self.request: FastcgiRequest | None = None
        """Whose answer is awaited; None: the connection is free."""
        self.requests = 0
        """Requests carried, the present one included."""
        self.answered = False
        """Something has come for the present request."""
        self.paused = False
        """The socket's write buffer is full: wait for `may_send`."""
        self.closed = False
        self.kept = False
        """The present request asked the server to keep the connection."""
        self._reader = RecordReader()
        self._transport: asyncio.Transport
        self._parts: list[bytes] = []
        self._output_closed = False
        self._inputs_open = 0
        self._fd = -1
        self._poll = select.poll()

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
            self.close()  # whatever it is, nobody asked
            return
        output: list[bytes] = []
        ended: tuple[int, int] | None = None
        for kind, request_id, content in records:
            if request_id != REQUEST_ID:
                continue
            if ended is not None:
                self.kept = False  # the server goes on after the end
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
        if output:
            request.output(output[0] if len(output) == 1 else b"".join(output))
        if ended is not None and self.request is not None:
            self._ended(*ended)

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
                request.ended(0, ProtocolStatus.REQUEST_COMPLETE)
            else:
                request.lost(error)
        self.gone()

    def _read_rest(self) -> None:
        """What came before writing failed. The loop gives it up, but it may be the whole answer of a server that did
        not wait for the end of the input; the socket is still open here."""
        try:
            while rest := os.read(self._fd, 65536):
                self.data_received(rest)
        except OSError:
            pass  # that was all

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.request is not None:
            self.request.may_send()

    # ---- its user

    def gone(self) -> None:
        """For the pool to override."""

    def answer_begins(self) -> None:
        """For the pool to override: the first record of an answer has come."""

    @property
    def reusable(self) -> bool:
        """Whether another request can be sent on it, as soon as it `is_ready`: the last one is over on both sides, and
        the server was to stay."""
        return (
            not self.closed
            and self.request is None
            and self.kept
            and self._inputs_open == 0
            and not self._reader.inside_record
        )

    def is_ready(self) -> bool:
        """Whether the server waits for another request, as far as a unix socket shows it: it has read all that was
        sent, has said nothing since, and has not closed the connection, even if the loop has not noticed yet."""
        return (
            not self.closed
            and not self._poll.poll(0)
            and fcntl.ioctl(self._fd, termios.TIOCOUTQ, NOTHING_UNREAD) == NOTHING_UNREAD
        )

    def begin(self, request: FastcgiRequest, params: bytes, role: Role, *, keep: bool) -> None:
        """Begin a request with the content of its PARAMS. Input follows, with `flush` at the end."""
        assert self.request is None
        self.request = request
        self.requests += 1
        self.answered = self._output_closed = False
        self.kept = keep
        self._inputs_open = {Role.RESPONDER: 1, Role.AUTHORIZER: 0, Role.FILTER: 2}[role]
        self._parts.append(begin_request(REQUEST_ID, role, KEEP_CONN if keep else 0))
        self._parts += params_records(REQUEST_ID, params)
        self._parts.append(record(RecordType.PARAMS, REQUEST_ID))

    def send(self, kind: RecordType, data: bytes) -> None:
        """Part of STDIN or DATA; b'' closes it."""
        if data:
            self._parts += stream_records(kind, REQUEST_ID, data, size=RECORD_SIZE)
        else:
            self._inputs_open -= 1
            self._parts.append(record(kind, REQUEST_ID))

    def flush(self) -> None:
        """Hand over to the socket what `begin` and `send` left."""
        parts, self._parts = self._parts, []
        if parts and not self.closed:
            self._transport.write(b"".join(parts))

    def stop_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Close at once. The request, if there is one, hears nothing more."""
        self.closed = True
        self.request = None
        self._transport.abort()

    # ---- the answer's end

    def _ended(self, app_status: int, number: int) -> None:
        request, self.request = self.request, None
        assert request is not None
        try:
            status = ProtocolStatus(number)
            if status is ProtocolStatus.INCOMPLETE:
                raise ValueError  # not FastCGI's
        except ValueError:
            self.kept = False
            request.lost(RemoteProtocolError(f"END_REQUEST with protocol status {number}"))
        else:
            request.ended(app_status, status)

    def _fail(self, error: Exception) -> None:
        request, self.request = self.request, None
        self._transport.abort()
        if request is not None:
            request.lost(error)
