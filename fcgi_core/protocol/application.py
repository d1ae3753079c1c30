"""The application side of an association: receives requests and answers them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ..common.bounded_queue import BoundedQueue, Budget
from ..errors import LocalProtocolError
from ..sctp.carrier import Message
from .channels import Channel, Direction, Priority
from .connection import Connection
from .events import Event, InputClosed, InputReceived, RequestAborted, RequestReceived
from .outbox import PPID, FeedbackLane
from .records import MAX_PARAMS, ROLES, ProtocolStatus, RecordType, Role, end_request, stream_records
from .request import Request
from .settings import Settings
from .states import AFTER_PARAMS, INPUT, Input, Output
from .streams import FIRST_STREAM, STDERR

__all__ = ["ApplicationConnection"]

MAX_UNFINISHED_PARAMS = 16 << 20
"""Bytes of unfinished PARAMS of all requests of an association. A request beyond it is refused as OVERLOADED: nothing
of it has begun."""
PARAMS_TIMEOUT = 30.0
"""Seconds that the PARAMS of a request may take, up to twice as long: the web side has all of them at its beginning."""
MAX_STDERR_AHEAD = 4096
"""Bytes of STDERR sent on the stream of the response, so that they arrive before it: a web server's buffer for the head
holds as much (nginx: fastcgi_buffer_size)."""
MAX_STDERR_WAITING = 1 << 20
"""Bytes of STDERR of one request that may wait to be sent: the default of a plugin channel."""
REMEMBERED = 16384
"""Requests that ended before their body had arrived, whose late records are ignored silently."""


class ApplicationConnection(Connection):
    """The application side. Events: RequestReceived, InputReceived, InputClosed, RequestAborted, and those of both."""

    sends = Direction.TO_WEB

    def __init__(self, settings: Settings | None = None, *, channels: Sequence[Channel] = ()) -> None:
        super().__init__(settings, channels=channels)
        self.stderr_dropped = 0
        """Bytes of STDERR dropped because too many waited."""
        self._recent: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._unfinished_params = Budget(MAX_UNFINISHED_PARAMS)
        self._look_at = 0.0
        """When to look for requests with unfinished PARAMS, while there are any."""
        self._unfinished: set[tuple[int, int]] = set()
        """The requests found the last time."""

    # ---- requests that do not begin

    def timer(self) -> float | None:
        due = super().timer()
        return self._look_at if due is None and self._unfinished_params.used and not self.failed else due

    def handle_timer(self, now: float) -> list[Event]:
        if self._unfinished_params.used and now >= self._look_at and not self.failed:
            self._now = now
            self._look_at = now + PARAMS_TIMEOUT
            late, self._unfinished = self._unfinished, set()
            for key, request in tuple(self.requests.items()):
                if request.input is Input.PARAMS and key in late:
                    what = f"unfinished after {PARAMS_TIMEOUT:g} s"
                    self._request_error(what, request.lane.stream, RecordType.PARAMS, key)
                elif request.input is Input.PARAMS:
                    self._unfinished.add(key)
        return super().handle_timer(now)

    @property
    def held(self) -> int:
        """The bytes that `Connection.held` counts, and unfinished PARAMS."""
        return super().held + self._unfinished_params.used

    # ---- answers

    def send_output(self, request: Request, data: bytes) -> None:
        """Send part of STDOUT, of any size; wait while not `request.writable`. Nothing is sent after an abort."""
        if request.output is not Output.OPEN:
            raise LocalProtocolError(f"{request!r}: STDOUT after its end")
        if data and not request.aborted:
            self._send(request, RecordType.STDOUT, data)

    def send_stderr(self, request: Request, data: bytes) -> None:
        """Send part of STDERR, on a stream that holds up no content; nothing is sent after the end of the request.

        The first MAX_STDERR_AHEAD bytes go before the response, if they come before it. Bytes beyond
        MAX_STDERR_WAITING are dropped and counted in `stderr_dropped`.
        """
        if not data or request.key not in self.requests or self.failed:
            return
        lane = request.stderr
        if (
            lane is None
            and not request.send_window.sent
            and not request.held
            and request.stderr_bytes + len(data) <= MAX_STDERR_AHEAD
        ):
            request.stderr_bytes += len(data)
            for encoded in stream_records(RecordType.STDERR, request.id, data, request.generation, self._content_size):
                self._outbox.add(request.lane, encoded)
            return
        if lane is None:
            lane = request.stderr = self._make_stderr_lane(request)
        size = self._content_size
        for start in range(0, len(data), size):
            part = data[start : start + size]
            if lane.items.push(part, 0):
                request.stderr_bytes += len(part)
        if lane.waiting():
            self._outbox.wake(lane)

    def _make_stderr_lane(self, request: Request) -> FeedbackLane:
        stream = self.pool.feedback_stream(request.streams, STDERR, Priority.CONTENT)
        queue = BoundedQueue(MAX_STDERR_WAITING, self._drop_stderr, self.feedback.budget)
        return FeedbackLane(stream, Priority.CONTENT, queue, RecordType.STDERR, request.key, self._content_size)

    def _drop_stderr(self, urgency: int, part: bytes) -> None:
        self.stderr_dropped += len(part)

    def end_request(
        self, request: Request, app_status: int = 0, status: ProtocolStatus = ProtocolStatus.REQUEST_COMPLETE
    ) -> None:
        """Close STDOUT and send END_REQUEST (section 5.5). This answers an abort, too."""
        if request.output is not Output.OPEN:
            raise LocalProtocolError(f"{request!r}: it has ended already")
        request.output = Output.ENDED
        if request.input is Input.PARAMS:
            self._unfinished_params.used -= request.size_of_params()
        # nothing can arrive for a responder with a complete body; clients close an authorizer's STDIN
        request.outlived = request.input is not Input.COMPLETE or request.role is not Role.RESPONDER
        request.input = Input.COMPLETE  # the rest of its body is ignored
        whole = status is not ProtocolStatus.INCOMPLETE and not request.aborted
        closing = whole and (request.send_window.sent > 0 or bool(request.held))
        # the bytes of STDERR let the web side know whether all of it has arrived
        encoded = end_request(
            request.id, app_status, status, request.generation, request.stderr_bytes & 0xFFFFFF, closing=closing
        )
        self._send_end(request, encoded)

    def _sent_end(self, request: Request) -> None:
        del self.requests[request.key]
        if request.outlived:
            self._remember(request.key)
        self._close_lanes(request)

    def _remember(self, key: tuple[int, int]) -> None:
        self._recent[key] = None
        if len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)

    def _on_record(self, stream: int, kind: int, request_id: int, generation: int, content: bytes) -> bool:
        if kind == RecordType.PARAMS:
            self._on_params(stream, request_id, generation, content)
        elif kind == RecordType.STDIN or kind == RecordType.DATA:
            self._on_body(stream, kind, (request_id, generation), content)
        elif kind == RecordType.BEGIN_REQUEST:
            self._on_begin_request(stream, request_id, generation, content)
        elif kind == RecordType.ABORT_REQUEST:
            self._on_abort_request(request_id, generation)
        else:
            return False
        return True

    def _discard_output(self, request: Request) -> None:
        # STDERR is sent all the same
        ahead = [encoded for encoded in request.lane.queue if encoded[1] == RecordType.STDERR]
        super()._discard_output(request)
        for encoded in ahead:
            self._outbox.add(request.lane, encoded)

    def _receiving(self, request: Request) -> bool:
        return request.input is not Input.COMPLETE and request.key in self.requests

    def _end_after_failure(self, request: Request) -> None:
        if request.output is not Output.OPEN:
            # its END_REQUEST was waiting for credit and has been discarded
            encoded = end_request(request.id, 1, generation=request.generation)
            self._send_end(request, encoded)
        elif request.input is Input.PARAMS:
            # the user does not know of it, so it is ended here
            self.end_request(request, 1)

    def _on_begin_request(self, stream: int, request_id: int, generation: int, content: bytes) -> None:
        key = (request_id, generation)
        kind = RecordType.BEGIN_REQUEST
        if request_id == 0 or len(content) != 8:
            self._refuse(f"BEGIN_REQUEST with {len(content)} bytes and id {request_id}", stream, kind, key)
            return
        if key in self.requests:
            self._request_error("the request began before", stream, kind, key)
            return
        assert self.peer_settings is not None
        number = content[0] << 8 | content[1]
        if number not in AFTER_PARAMS:
            self._answer_at_once(request_id, generation, ProtocolStatus.UNKNOWN_ROLE)
        elif self.draining or self.count_requests() >= self.settings.max_requests:
            # nothing has begun, so the web side may send it elsewhere
            self._answer_at_once(request_id, generation, ProtocolStatus.OVERLOADED)
        else:
            request = Request(
                request_id, generation, ROLES[number], content[2], self.peer_settings.window, self.settings.window
            )
            self._open_lane(request)
            self.requests[key] = request

    def _answer_at_once(self, request_id: int, generation: int, status: ProtocolStatus) -> None:
        self._remember((request_id, generation))
        self._expect_answer()
        self._outbox.post(Priority.CONTENT, Message(FIRST_STREAM, end_request(request_id, 0, status, generation), PPID))

    def _request_for(self, stream: int, kind: int, key: tuple[int, int]) -> Request | None:
        request = self.requests.get(key)
        if request is None and key not in self._recent:
            self._request_error("a record for a request that is not under way", stream, kind, key)
        return request

    def _on_params(self, stream: int, request_id: int, generation: int, content: bytes) -> None:
        request = self._request_for(stream, RecordType.PARAMS, (request_id, generation))
        if request is None or request.output is not Output.OPEN:
            return
        if request.input is not Input.PARAMS:
            self._request_error("PARAMS came after their end", stream, RecordType.PARAMS, request.key)
        elif content:
            if not request.raw_params:
                request.raw_params = content
            else:
                # a buffer that grows, so that many records do not cost a copy of all before them
                growing = request.growing_params = request.growing_params or bytearray(request.raw_params)
                growing += content
            if not self._unfinished_params.used:
                self._look_at = self._now + PARAMS_TIMEOUT
                self._unfinished.clear()
            within = self._unfinished_params.add(len(content))
            if request.size_of_params() > MAX_PARAMS:
                self._request_error(f"more than {MAX_PARAMS} bytes", stream, RecordType.PARAMS, request.key)
            elif not within:
                self.end_request(request, 0, ProtocolStatus.OVERLOADED)
        else:
            if request.growing_params is not None:
                request.raw_params, request.growing_params = bytes(request.growing_params), None
            try:
                request.params  # noqa: B018  decoded here, so that a mistake in them is the peer's error
            except ValueError as error:
                self._request_error(str(error), stream, RecordType.PARAMS, request.key)
                return
            self._unfinished_params.used -= len(request.raw_params)
            request.input = AFTER_PARAMS[request.role]
            self._events.append(RequestReceived(request))

    def _on_body(self, stream: int, kind: int, key: tuple[int, int], content: bytes) -> None:
        request = self._request_for(stream, kind, key)
        if request is None or request.aborted or request.output is not Output.OPEN:
            return  # it crossed the answer
        following = INPUT.get((request.input, kind, not content))
        if following is None:
            self._request_error(f"out of order; the state of the input is: {request.input.value}", stream, kind, key)
            return
        closed = following is not request.input  # closing a closed STDIN is no event
        request.input = following
        if not content:
            if closed:
                self._events.append(InputClosed(request, kind == RecordType.DATA))
        elif request.receive_window.receive(len(content)):
            self._events.append(InputReceived(request, content, kind == RecordType.DATA))
        else:
            window = request.receive_window
            self._request_error(f"goes to byte {window.received}, credit to {window.limit}", stream, kind, key)

    def _on_abort_request(self, request_id: int, generation: int) -> None:
        request = self.requests.get((request_id, generation))
        if request is None or request.aborted:
            return  # it crossed the answer's end
        request.aborted = True
        self._discard_output(request)
        if request.output is Output.OPEN and request.input is not Input.PARAMS:
            self._events.append(RequestAborted(request))
        else:
            self._end_after_failure(request)
