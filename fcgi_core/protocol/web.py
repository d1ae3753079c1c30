"""The web side of an association: begins requests and takes their answers."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Sequence

from ..errors import RemoteProtocolError, RequestRefused
from ..sctp.carrier import Message
from .channels import Channel, Direction
from .connection import Connection
from .events import Event, OutputReceived, RequestEnded, RequestFailed, StderrReceived
from .records import (
    HEADER_SIZE,
    MAX_CONTENT,
    PROTOCOL_STATUS,
    RecordType,
    Role,
    begin_request,
    header,
    record,
    stream_records,
)
from .request import Request
from .settings import Settings
from .states import AFTER_PARAMS, INPUT, OUTPUT, Input, Output

__all__ = ["WebConnection"]

REMEMBERED = 4096
"""Ended requests kept for their late STDERR and feedback, at most. With PARAMS of 1 KiB that is 4 MiB."""
REMEMBERED_BYTES = 4 << 20
"""Bytes of PARAMS of those requests; the client decides how many one has, up to 1 MiB."""
REMEMBER_FOR = 30.0
"""Seconds that they are kept: in about that time SCTP gives up a peer, and late messages with it."""
REQUEST_IDS = 65535  # section 3.3: a number of 16 bits, and 0 is no request's
_END = struct.Struct(">IBBH")
"""END_REQUEST's content: application status, protocol status, bytes of STDERR modulo 2**24 (in the reserved bytes)"""
_SHORT = 5 * HEADER_SIZE
"""Bytes of BEGIN_REQUEST, and of the headers of PARAMS and of the empty records that close PARAMS and STDIN"""


def _short_request(request_id: int, generation: int, flags: int, params: bytes, body: bytes) -> bytes:
    """All records of a responder's request whose PARAMS and STDIN fit one record each."""
    kind, stdin = RecordType.PARAMS, RecordType.STDIN
    begin = begin_request(request_id, Role.RESPONDER, flags, generation)
    parts = [begin, header(kind, request_id, len(params), generation), params, header(kind, request_id, 0, generation)]
    if body:
        parts += (header(stdin, request_id, len(body), generation), body)
    parts.append(header(stdin, request_id, 0, generation))
    return b"".join(parts)


class WebConnection(Connection):
    """The web side. Events: OutputReceived, StderrReceived, RequestEnded, and those of both sides."""

    sends = Direction.TO_APPLICATION

    def __init__(self, settings: Settings | None = None, *, channels: Sequence[Channel] = ()) -> None:
        super().__init__(settings, channels=channels)
        self._serial = 0
        self._recent: dict[tuple[int, int], Request] = {}
        self._recent_order: deque[Request] = deque()
        """The same requests, the oldest first; with a dictionary this takes less memory than an OrderedDict."""
        self._recent_bytes = 0
        self._forget_at = 0.0
        """When the oldest of them is to be forgotten."""
        self._over: list[Request] = []
        """Requests that ended in the last batch of events and of which nothing can arrive any more."""
        self._feedback_of_requests = False
        """Whether the peer sends feedback of requests, which may arrive after their end."""

    def receive(self, messages: Iterable[Message], now: float) -> list[Event]:
        for request in self._over:
            request.context = None  # as in _forget()
        self._over.clear()
        return super().receive(messages, now)

    def close(self) -> None:
        super().close()
        for request in (*self._over, *self._recent_order):
            request.context = None  # as in _forget()
        self._over.clear()
        self._recent.clear()
        self._recent_order.clear()

    @property
    def capacity(self) -> int:
        """Requests that could be begun now; 0 before the peer's SETTINGS, when it drains, and after a failure."""
        if self.peer_settings is None or self.draining or self.peer_draining or self.failed:
            return 0
        return self.peer_settings.max_requests - self.count_requests()

    def begin_request(
        self, params: bytes, *, role: Role = Role.RESPONDER, flags: int = 0, body: bytes | None = None
    ) -> Request:
        """Begin a request with the content of its PARAMS stream (name-value pairs).

        `body` is all of STDIN, b'' for none; None: it follows by `send_input` and `end_input`. RequestRefused if there
        is no capacity; nothing has been sent then.
        """
        peer = self.peer_settings
        if peer is None or self.capacity <= 0:
            raise RequestRefused("the application accepts no more requests on this association now")
        while True:
            request_id, generation = self._serial % REQUEST_IDS + 1, self._serial // REQUEST_IDS % 256
            self._serial += 1
            if (request_id, generation) not in self.requests:
                break
        request = Request(request_id, generation, role, flags, peer.window, self.settings.window)
        request.raw_params = params
        self._open_lane(request)
        self.requests[request.key] = request
        request.input = AFTER_PARAMS[role]
        if body is not None and role is Role.RESPONDER and params:
            size = _SHORT + len(params) + len(body) + (HEADER_SIZE if body else 0)
            if len(body) <= peer.window and max(len(params), len(body)) <= MAX_CONTENT and size <= self._max_message:
                # a short request is one message, queued as one piece
                request.input = Input.COMPLETE
                request.send_window.sent = len(body)
                self._outbox.add(request.lane, _short_request(request_id, generation, flags, params, body))
                return request
        self._outbox.add(request.lane, begin_request(request_id, role, flags, generation))
        for encoded in stream_records(RecordType.PARAMS, request_id, params, generation, self._content_size):
            self._outbox.add(request.lane, encoded)
        self._outbox.add(request.lane, record(RecordType.PARAMS, request_id, b"", generation))
        if body is not None:
            self.send_input(request, body)
            self.end_input(request)
        return request

    def send_input(self, request: Request, data: bytes, *, is_data: bool = False) -> None:
        """Send part of STDIN, or of a filter's DATA, of any size; wait while not `request.writable`."""
        kind = RecordType.DATA if is_data else RecordType.STDIN
        if data and not request.aborted and request.key in self.requests and (request.input, kind, False) in INPUT:
            self._send(request, kind, data)

    def end_input(self, request: Request, *, is_data: bool = False) -> None:
        """Close STDIN (or DATA). Closing it twice does nothing, nor closing a stream that the role does not have."""
        kind = RecordType.DATA if is_data else RecordType.STDIN
        following = INPUT.get((request.input, kind, True), request.input)
        if following is not request.input and not request.aborted and request.key in self.requests:
            request.input = following
            self._send(request, kind, b"")

    def abort(self, request: Request) -> None:
        """Abort a request (section 5.4): no event of its output comes after this. Its id stays in use until the
        application's END_REQUEST, unless nothing of the request had been sent."""
        if request.aborted or request.key not in self.requests:
            return
        request.aborted = True
        self._end_after_failure(request)

    def _end_after_failure(self, request: Request) -> None:
        self._discard_output(request)
        if request.lane.sent:
            # on the request's stream, so it arrives after BEGIN_REQUEST; the body that waited there is discarded
            self._outbox.add(request.lane, record(RecordType.ABORT_REQUEST, request.id, b"", request.generation))
        else:
            self._finish(request)

    def _on_record(self, stream: int, kind: int, request_id: int, generation: int, content: bytes) -> bool:
        if kind == RecordType.STDOUT:
            self._on_stdout(stream, request_id, generation, content)
        elif kind == RecordType.END_REQUEST:
            self._on_end_request(stream, request_id, generation, content)
        elif kind == RecordType.STDERR:
            self._on_stderr(stream, request_id, generation, content)
        else:
            return False
        return True

    def _receiving(self, request: Request) -> bool:
        return request.output is Output.OPEN and request.key in self.requests

    def find(self, request_id: int, generation: int) -> Request | None:
        key = (request_id, generation)
        return self.requests.get(key) or self._recent.get(key)

    def _output(self, stream: int, kind: int, key: tuple[int, int], empty: bool) -> Request | None:
        """The request that a record of output belongs to, in its next state; None if the table does not have it."""
        request = self.requests.get(key)
        if request is None:
            self._request_error("a record for a request that is not under way", stream, kind, key)
            return None
        following = OUTPUT.get((request.output, kind, empty))
        if following is None:
            what = f"out of order; the state of the response is: {request.output.value}"
            self._request_error(what, stream, kind, key)
            return None
        request.output = following
        return request

    def _on_stdout(self, stream: int, request_id: int, generation: int, content: bytes) -> None:
        request = self._output(stream, RecordType.STDOUT, (request_id, generation), not content)
        if request is None or not content:
            return
        window = request.receive_window
        if not window.receive(len(content)):
            what = f"STDOUT goes to byte {window.received}, credit to {window.limit}"
            self._request_error(what, stream, RecordType.STDOUT, request.key)
        elif request.aborted:
            self.consumed(request, len(content))  # so that an application that ignores the abort can end
        else:
            self._events.append(OutputReceived(request, content))

    def _on_stderr(self, stream: int, request_id: int, generation: int, content: bytes) -> None:
        request = self.find(request_id, generation)
        if request is None:
            key = (request_id, generation)
            self._request_error("STDERR of a request that is unknown or forgotten", stream, RecordType.STDERR, key)
        elif content:
            request.stderr_bytes += len(content)
            self._events.append(StderrReceived(request, content))

    def _on_end_request(self, stream: int, request_id: int, generation: int, content: bytes) -> None:
        key = (request_id, generation)
        request = self._output(stream, RecordType.END_REQUEST, key, False)
        if request is None:
            return
        self._discard_output(request)
        app_status, number, high, low = _END.unpack(content) if len(content) == _END.size else (0, -1, 0, 0)
        status = PROTOCOL_STATUS.get(number)
        stderr = high << 16 | low
        self._finish(request, stderr != request.stderr_bytes & 0xFFFFFF)
        if request.aborted:
            return
        if status is None:
            request.aborted = True
            what = f"an END_REQUEST with content {content[:8].hex()}"
            error = RemoteProtocolError(what, stream=stream, record_type=RecordType.END_REQUEST, request_key=key)
            self._events.append(RequestFailed(request, error))
        else:
            self._events.append(RequestEnded(request, app_status, status, stderr))

    def _finish(self, request: Request, stderr_misses: bool = False) -> None:
        """Remove a request that has ended. It is kept for a while only if something of it may still arrive: thousands
        of kept requests would drive everything else out of the processor's cache."""
        del self.requests[request.key]
        request.output = Output.ENDED
        self._close_lanes(request)
        if stderr_misses or self._feedback_of_requests:
            self._remember(request)
        else:
            self._over.append(request)
        self._answer_drain()

    def _remember(self, request: Request) -> None:
        request.settle()
        request.ended_at = self._now
        self._recent[request.key] = request
        order = self._recent_order
        order.append(request)
        self._recent_bytes += len(request.raw_params)
        if len(order) > REMEMBERED or self._recent_bytes > REMEMBERED_BYTES or self._now >= self._forget_at:
            self._forget()

    def _forget(self) -> None:
        """Forget ended requests beyond the bounds of number, bytes and age."""
        recent = self._recent
        order = self._recent_order
        while True:  # the request that has just ended stays
            oldest = order[0]
            count = len(order)
            few = count <= REMEMBERED and (self._recent_bytes <= REMEMBERED_BYTES or count == 1)
            if few and self._now - oldest.ended_at <= REMEMBER_FOR:
                self._forget_at = oldest.ended_at + REMEMBER_FOR + 0.001
                return
            order.popleft()
            if recent.get(oldest.key) is oldest:  # else a later request has its id and generation
                del recent[oldest.key]
            self._recent_bytes -= len(oldest.raw_params)
            oldest.context = None  # the user's object refers to the request: without a cycle both are free at once

    def _meet(self, settings: Settings) -> None:
        super()._meet(settings)
        self._feedback_of_requests = self.feedback.comes_after_requests()

    def _on_drain(self) -> None:
        super()._on_drain()
        self._answer_drain()

    def _answer_drain(self) -> None:
        """Tell an application that drains when no request is left, so that it can end without losing one."""
        if self.peer_draining and not self.requests and not self.draining:
            self.drain()
