"""The protocol on one SCTP association, without I/O: messages and the time in, events and messages out.

What both sides share lives here: SETTINGS and the other control records, the windows of requests, streams, feedback.
What only one side does is in `web_connection.py` (begins requests, takes answers) and `application_connection.py`.

The shell around a connection, whichever carrier it uses, does three things:

* gives it each batch of messages: ``for event in connection.receive(messages, now): ...``
* after anything that may have queued something: ``association.send(connection.take(association.room()))`` while there
  is room and something is returned, having told the carrier of `pool.priorities` and `pool.wanted` before
* calls `handle_timer(now)` when `timer()` is due.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from .channels import MAX_CHANNELS, MAX_ITEM, Budget, Channel, Direction, FeedbackQueue, Priority, Scope
from .errors import LocalProtocolError, RemoteProtocolError, foreign_protocol_hint
from .events import (
    ConfigAnswered,
    ConfigReceived,
    ConnectionFailed,
    Event,
    FeedbackReceived,
    PeerDraining,
    PeerError,
    PeerReady,
    RecordRefused,
    RequestFailed,
    Writable,
)
from .flow import ReceiveWindow, SendWindow
from .outbox import PPID, ClosedOutbox, FeedbackLane, Lane, Outbox
from .records import (
    HEADER,
    HEADER_SIZE,
    MAX_CONTENT,
    PREFERRED_CONTENT,
    VERSION,
    RecordType,
    Role,
    decode_pairs,
    encode_pairs,
    record,
    stream_records,
    wrong_version,
)
from .sctp.carrier import Message
from .settings import MIN_MAX_MESSAGE, Settings
from .states import Input, Output
from .streams import CONTROL_STREAM, FIRST_STREAM, SECURITY_STREAM, Plan, StreamPool, StreamSet

__all__ = ["ChannelFigures", "Connection", "Request"]

SETTINGS_TIMEOUT = 10.0
"""Seconds that the peer has for its SETTINGS after the association came up; HTTP/2 servers give theirs 5 to 10."""
MAX_EARLY = 4 << 20
"""Bytes of messages kept that overtook the peer's SETTINGS: another stream's data may arrive while those are sent
again after a loss, as much as SCTP's own receive buffer would hold in front of a gap (`CarrierOptions`)."""
EARLY_OVERHEAD = 128
"""Bytes that keeping a message costs beside its data."""
MAX_FEEDBACK_WAITING = 64 << 20
"""Bytes of feedback that may wait on one association, all channels and requests together."""
MAX_UNFINISHED_ITEMS = 256
"""Items of feedback of which the first part has come and the last has not, at once."""


class ChannelFigures:
    """What one channel carried on one association."""

    __slots__ = ("dropped", "received", "received_bytes", "sent", "sent_bytes")

    def __init__(self) -> None:
        self.sent = 0
        self.sent_bytes = 0
        self.received = 0
        self.received_bytes = 0
        self.dropped: dict[int, int] = {}
        """urgency -> items"""


class Request:
    """One request on an association; (id, generation) names it for good."""

    __slots__ = (
        "_params",
        "aborted",
        "context",
        "ended_at",
        "feedback",
        "flags",
        "generation",
        "held",
        "id",
        "input",
        "key",
        "lane",
        "output",
        "raw_params",
        "receive_window",
        "role",
        "send_window",
        "stderr",
        "streams",
    )

    def __init__(
        self, request_id: int, generation: int, role: Role, flags: int, send_window: int, receive_window: int
    ) -> None:
        self.id = request_id
        self.generation = generation
        self.key = (request_id, generation)
        self.role = role
        self.flags = flags
        self.raw_params = b""
        """The content of all PARAMS records, as it travels."""
        self._params: dict[str, str] | None = None
        self.input = Input.PARAMS
        self.output = Output.OPEN
        self.aborted = False
        self.send_window = SendWindow(send_window)
        self.receive_window = ReceiveWindow(receive_window)
        self.held: deque[tuple[int, bytes | memoryview]] = deque()
        """(record type, content) that waits for credit, and what must come after it."""
        self.streams = StreamSet()
        self.lane: Lane
        self.stderr: FeedbackLane | None = None
        self.feedback: dict[int, FeedbackLane] = {}
        self.ended_at = 0.0
        self.context: Any = None
        """The user's own object; this package does not look at it."""

    @property
    def params(self) -> dict[str, str]:
        """PARAMS as latin-1 text. Decoded when first asked for: what only passes through need not be.

        ValueError if they are malformed, which on the application side `RequestReceived` rules out.
        """
        if self._params is None:
            self._params = decode_pairs(self.raw_params)
        return self._params

    @property
    def writable(self) -> bool:
        """False while what was given for sending waits for the peer's credit; a `Writable` event tells the end."""
        return not self.held

    def __repr__(self) -> str:
        return f"<Request {self.id}.{self.generation} {self.input.value}/{self.output.value}>"


class Connection:
    """One side of the protocol on one association. Use `WebConnection` or `ApplicationConnection`."""

    sends: ClassVar[Direction]
    """The direction of the channels that this side sends on."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        channels: Sequence[Channel] = (),
        plan: Plan = Plan.PER_CHANNEL,
    ) -> None:
        """`channels` are all that this side's plugins declared, both directions; `settings` need not name them."""
        settings = settings or Settings()
        self.outgoing_channels = [channel for channel in channels if channel.direction is self.sends]
        incoming = [channel for channel in channels if channel.direction is not self.sends]
        if len(self.outgoing_channels) > MAX_CHANNELS:
            raise LocalProtocolError(f"{len(self.outgoing_channels)} channels: {MAX_CHANNELS} is all one side can have")
        self.settings = replace(
            settings,
            channels=tuple(channel.describe() for channel in self.outgoing_channels),
            accepts=tuple(channel.name for channel in incoming),
        )
        self.plan = plan
        self.peer_settings: Settings | None = None
        self.requests: dict[tuple[int, int], Request] = {}
        """Requests under way."""
        self.pool = StreamPool(plan, FIRST_STREAM)
        self.draining = False
        self.peer_draining = False
        self.failed = False
        self.figures: dict[str, ChannelFigures] = {channel.name: ChannelFigures() for channel in channels}
        self._numbers = {channel.name: number for number, channel in enumerate(self.outgoing_channels)}
        self._peer_channels: list[str | None] = []
        self._outbox = Outbox()
        self._events: list[Event] = []
        self._early: list[Message] = []
        self._early_bytes = 0
        self._parts: dict[tuple[int, int, int, int], bytearray] = {}
        self._association_lanes: dict[int, FeedbackLane] = {}
        self._feedback_budget = Budget(MAX_FEEDBACK_WAITING)
        self._max_message = self.settings.max_message
        self._content_size = MIN_MAX_MESSAGE - HEADER_SIZE  # what any peer takes
        self._settings_due: float | None = None
        self._now = 0.0
        self._control: dict[int, Callable[[bytes], None]] = {
            RecordType.SETTINGS: self._on_settings,
            RecordType.CONFIG: self._on_config,
            RecordType.CONFIG_RESULT: self._on_config_result,
            RecordType.DRAIN: self._on_drain,
            RecordType.ERROR: self._on_error,
        }
        self._handlers: dict[int, Callable[[int, int, int, bytes], None]] = {RecordType.CREDIT: self._on_credit}

    # ---- what the shell calls

    def open(self, outgoing_streams: int, now: float) -> None:
        """The association is up with so many streams to send on; RemoteProtocolError if they are too few."""
        self._now = now
        if outgoing_streams <= FIRST_STREAM:
            raise RemoteProtocolError(
                f"the peer takes {outgoing_streams} streams; 0 and 1 are the protocol's, so 3 are needed at least",
                advice="raise the peer's number of incoming streams",
            )
        self.pool.outgoing = outgoing_streams
        self._settings_due = now + SETTINGS_TIMEOUT
        self._post_control(RecordType.SETTINGS, self.settings.encode())

    def receive(self, messages: Iterable[Message], now: float) -> list[Event]:
        """Take messages as the carrier delivered them; the events they cause, in order."""
        self._now = now
        try:
            for message in messages:
                if self.failed:
                    break
                self._receive_message(message)
        except RemoteProtocolError as error:
            self._fail(error)
        events, self._events = self._events, []
        return events

    def take(self, room: int) -> list[Message]:
        """Messages to hand to the carrier, the most urgent first, about `room` bytes; empty if nothing waits."""
        return self._outbox.take(room, self._max_message)

    def waiting(self) -> bool:
        """Whether take() has something to give."""
        return self._outbox.waiting()

    @property
    def feedback_waiting(self) -> int:
        """Bytes of feedback that wait to be sent, all channels and requests together."""
        return self._feedback_budget.used

    @property
    def content_waiting(self) -> int:
        """Bytes of content that wait: what the windows hold back, and what SCTP has no room for."""
        held = sum(len(content) for request in self.requests.values() for _, content in request.held)
        return held + self._outbox.waiting_bytes()

    def timer(self) -> float | None:
        """When handle_timer wants to be called, on the same clock as `now`; None: not at all."""
        return self._settings_due

    def handle_timer(self, now: float) -> list[Event]:
        """What became due by `now`."""
        self._now = now
        if self._settings_due is not None and now >= self._settings_due:
            self._settings_due = None
            self._fail(
                RemoteProtocolError(
                    f"the peer sent no SETTINGS within {SETTINGS_TIMEOUT:g} s",
                    advice="is it another kind of SCTP server?",
                )
            )
        events, self._events = self._events, []
        return events

    def consumed(self, request: Request, count: int) -> None:
        """So many bytes of the request's body have been passed on: the peer may send as many more in time."""
        limit = request.receive_window.consume(count)
        if limit is not None and self._receiving(request):
            message = record(RecordType.CREDIT, request.id, limit.to_bytes(8, "big"), request.generation)
            # unordered: it says the same whenever it arrives, and must not wait behind a body on the same stream
            self._outbox.post(Priority.CONTROL, Message(request.lane.stream, message, PPID, unordered=True))

    def send_feedback(self, channel: str, item: bytes, request: Request | None = None, urgency: int = 6) -> bool:
        """Queue an item of at least one byte; False if it was dropped, which is counted: the association is not open or
        failed, the peer does not take the channel, the item is too long (ordered: MAX_ITEM, else a record), or full.

        A channel of request scope needs `request`, one of association scope takes none. Under pressure the items
        with the highest `urgency` number go first. LocalProtocolError for a channel that was not declared.
        """
        number = self._numbers.get(channel)
        if number is None:
            raise LocalProtocolError(f"channel {channel!r} was not declared for sending on this side")
        declared = self.outgoing_channels[number]
        if (declared.scope is Scope.REQUEST) is not (request is not None):
            raise LocalProtocolError(
                f"channel {channel}: its scope is {declared.scope.value}, the call was for the other"
            )
        figures = self.figures[channel]
        too_large = len(item) > (MAX_ITEM if declared.ordered else self._content_size)
        useless = self.failed or self.pool.outgoing <= FIRST_STREAM  # not opened: there is no stream yet
        if not item or too_large or useless or not self.takes(channel):
            figures.dropped[urgency] = figures.dropped.get(urgency, 0) + 1
            return False
        lane = self._feedback_lane(number, declared, request)
        if not lane.items.push(item, urgency):
            return False
        self._outbox.wake(lane)
        return True

    def send_config(self, number: int, pairs: dict[str, str]) -> None:
        """Tell the peer of changed configuration; the answer is a ConfigAnswered with the same `number`.

        LocalProtocolError if it is more than one record holds, UnicodeEncodeError beyond latin-1.
        """
        content = encode_pairs({"FCGI_SCTP_ID": str(number), **pairs})
        if len(content) > MAX_CONTENT:
            raise LocalProtocolError(f"configuration of {len(content)} bytes: a record holds {MAX_CONTENT}")
        self._post_control(RecordType.CONFIG, content)

    def answer_config(self, number: int, results: dict[str, str]) -> None:
        """Answer a ConfigReceived: '' for each name that was taken, the reason for each that was not.

        What one record does not hold is left out, for how many names there are is the peer's doing.
        """
        parts = [encode_pairs({"FCGI_SCTP_ID": str(number)})]
        size = len(parts[0])
        for pair in results.items():
            encoded = encode_pairs((pair,))
            size += len(encoded)
            if size > MAX_CONTENT:
                break
            parts.append(encoded)
        self._post_control(RecordType.CONFIG_RESULT, b"".join(parts))

    def drain(self) -> None:
        """Take no new requests from now on, and tell the peer."""
        if not self.draining:
            self.draining = True
            self._post_control(RecordType.DRAIN, b"")

    def fail(self, text: str) -> None:
        """Tell the peer why the association is about to be aborted; nothing else will be sent."""
        self._fail(RemoteProtocolError(text))
        self._events.clear()

    # ---- what the sides override

    def _receiving(self, request: Request) -> bool:
        """Whether more of the request's body may come, so that credit is worth sending."""
        raise NotImplementedError

    def _find(self, request_id: int, generation: int) -> Request | None:
        """The request that a late record (feedback, STDERR) belongs to: under way or lately ended."""
        return self.requests.get((request_id, generation))

    def _end_after_failure(self, request: Request) -> None:
        """The peer broke the protocol in this request: do what ends it on the wire."""
        raise NotImplementedError

    # ---- receiving

    def _receive_message(self, message: Message) -> None:
        stream, data = message.stream, message.data
        if stream == SECURITY_STREAM:
            raise RemoteProtocolError(
                "data on stream 0, which is kept for security, and none is configured",
                stream=0,
                advice=foreign_protocol_hint(data[0] if data else 0)
                or "configure the same security on both sides, or none",
            )
        if self.peer_settings is None and stream != CONTROL_STREAM:
            self._early_bytes += len(data) + EARLY_OVERHEAD
            if self._early_bytes > MAX_EARLY:
                raise RemoteProtocolError(f"more than {MAX_EARLY} bytes came before SETTINGS", stream=stream)
            self._early.append(message)
            return
        if len(data) > self.settings.max_message and stream != CONTROL_STREAM:
            # the peer's SETTINGS come before it knows the limit, and no content waits behind what is rare
            raise RemoteProtocolError(
                f"a message of {len(data)} bytes, {self.settings.max_message} at most were agreed", stream=stream
            )
        end = len(data)
        position = 0
        unpack = HEADER.unpack_from
        handlers = self._handlers
        while position < end:
            if end - position < HEADER_SIZE:
                raise RemoteProtocolError(
                    f"a message ends {end - position} bytes into a record's header of {HEADER_SIZE}", stream=stream
                )
            version, kind, request_id, length, padding, generation = unpack(data, position)
            if version != VERSION:
                raise wrong_version(version)
            start = position + HEADER_SIZE
            stop = start + length
            position = stop + padding
            if position > end:
                raise RemoteProtocolError(
                    f"a record of {HEADER_SIZE + length + padding} bytes is cut by its message's end",
                    stream=stream,
                    record_type=kind,
                )
            content = data[start:stop]
            if stream == CONTROL_STREAM:
                self._receive_control(kind, request_id, content)
            elif (handler := handlers.get(kind)) is not None:
                handler(stream, request_id, generation, content)
            elif kind >= RecordType.FEEDBACK:
                self._on_feedback(stream, kind, request_id, generation, content)
            elif kind in self._control:
                raise RemoteProtocolError("a control record off stream 1", stream=stream, record_type=kind)
            else:
                self._request_error(
                    "a record of a type that this side does not take", stream, kind, (request_id, generation)
                )

    def _receive_control(self, kind: int, request_id: int, content: bytes) -> None:
        handler = self._control.get(kind)
        if request_id != 0 or (handler is None and kind < RecordType.GET_VALUES):
            raise RemoteProtocolError(
                f"stream 1 carries control records alone, with request id 0 and not {request_id}",
                stream=CONTROL_STREAM,
                record_type=kind,
            )
        if handler is not None:
            handler(content)
            return
        error = RemoteProtocolError(
            "a control record of a type that this side does not know", stream=CONTROL_STREAM, record_type=kind
        )
        self._events.append(RecordRefused(error))
        if kind != RecordType.UNKNOWN_TYPE:
            # FastCGI section 4.2; it harms nobody, so the association lives
            self._post_control(RecordType.UNKNOWN_TYPE, bytes((kind, 0, 0, 0, 0, 0, 0, 0)))

    def _request_error(self, what: str, stream: int, kind: int, key: tuple[int, int]) -> None:
        """The peer broke the protocol in one request: end that one."""
        error = RemoteProtocolError(what, stream=stream, record_type=kind, request_key=key)
        request = self.requests.get(key)
        if request is None:
            self._events.append(RecordRefused(error))
            return
        self._fail_request(request, error)

    def _fail_request(self, request: Request, error: RemoteProtocolError) -> None:
        if not request.aborted:
            request.aborted = True
            self._discard_output(request)
            self._events.append(RequestFailed(request, error))
            self._end_after_failure(request)

    def _refuse(self, what: str, stream: int, kind: int, key: tuple[int, int]) -> None:
        error = RemoteProtocolError(what, stream=stream, record_type=kind, request_key=key)
        self._events.append(RecordRefused(error))

    def _fail(self, error: RemoteProtocolError) -> None:
        """The association is beyond repair: say so to the peer, and to the user."""
        if not self.failed:
            self.failed = True
            self._settings_due = None
            text = record(RecordType.ERROR, 0, str(error).encode("utf-8", "replace")[:1024])
            self._outbox = ClosedOutbox(Message(CONTROL_STREAM, text, PPID))
            self._events.append(ConnectionFailed(error))

    def _on_settings(self, content: bytes) -> None:
        if self.peer_settings is not None:
            raise RemoteProtocolError("SETTINGS came twice", stream=CONTROL_STREAM, record_type=RecordType.SETTINGS)
        settings = self.peer_settings = Settings.decode(content)
        self._settings_due = None
        self._max_message = min(self.settings.max_message, settings.max_message)
        self._content_size = min(PREFERRED_CONTENT, self._max_message - HEADER_SIZE)
        self._peer_channels = [
            channel.name if channel.name in self.settings.accepts else None for channel in settings.peer_channels()
        ]
        for number, lane in self._association_lanes.items():
            if not self.takes(self.outgoing_channels[number].name):
                lane.items.drop_all()
        self._outbox.open = True
        self._events.append(PeerReady(settings))
        early, self._early = self._early, []
        for message in early:
            self._receive_message(message)

    def _on_config(self, content: bytes) -> None:
        number, pairs = self._config_pairs(RecordType.CONFIG, content)
        self._events.append(ConfigReceived(number, pairs))

    def _on_config_result(self, content: bytes) -> None:
        number, pairs = self._config_pairs(RecordType.CONFIG_RESULT, content)
        self._events.append(ConfigAnswered(number, pairs))

    def _config_pairs(self, kind: int, content: bytes) -> tuple[int, dict[str, str]]:
        try:
            pairs = decode_pairs(content)
            return int(pairs.pop("FCGI_SCTP_ID")), pairs
        except (ValueError, KeyError) as error:
            raise RemoteProtocolError(
                f"CONFIG without a readable FCGI_SCTP_ID: {error}", stream=CONTROL_STREAM, record_type=kind
            ) from None

    def _on_drain(self, content: bytes) -> None:
        if not self.peer_draining:
            self.peer_draining = True
            self._events.append(PeerDraining())

    def _on_error(self, content: bytes) -> None:
        self._events.append(PeerError(content[:1024].decode("utf-8", "replace")))

    def _on_credit(self, stream: int, request_id: int, generation: int, content: bytes) -> None:
        request = self.requests.get((request_id, generation))
        if request is None:
            return  # it crossed the request's end
        if len(content) != 8:
            self._request_error(f"CREDIT of {len(content)} bytes, not 8", stream, RecordType.CREDIT, request.key)
            return
        if request.send_window.grant(int.from_bytes(content, "big")) and request.held:
            self._send_held(request)

    def _on_feedback(self, stream: int, kind: int, request_id: int, generation: int, content: bytes) -> None:
        more = kind >= RecordType.FEEDBACK_MORE
        number = kind - (RecordType.FEEDBACK_MORE if more else RecordType.FEEDBACK)
        if number >= len(self._peer_channels):
            self._refuse("feedback on a channel that SETTINGS did not name", stream, kind, (request_id, generation))
            return
        channel = self._peer_channels[number]
        if channel is None:
            return  # named, but nobody here takes it; the peer should not have sent it
        if more or self._parts:
            whole = self._join_parts(stream, kind, number, more, request_id, generation, content)
            if whole is None:
                return
            content = whole
        figures = self.figures[channel]
        figures.received += 1
        figures.received_bytes += len(content)
        request = self._find(request_id, generation) if request_id else None
        self._events.append(FeedbackReceived(channel, request, content))

    def _join_parts(
        self, stream: int, kind: int, number: int, more: bool, request_id: int, generation: int, content: bytes
    ) -> bytes | None:
        key = (stream, number, request_id, generation)
        parts = self._parts.get(key)
        if parts is None:
            if not more:
                return content
            if len(self._parts) >= MAX_UNFINISHED_ITEMS:
                raise RemoteProtocolError(
                    f"more than {MAX_UNFINISHED_ITEMS} items of feedback are unfinished",
                    stream=stream,
                    record_type=kind,
                )
            parts = self._parts[key] = bytearray()
        parts += content
        if len(parts) > MAX_ITEM:
            raise RemoteProtocolError(
                f"an item of feedback is longer than {MAX_ITEM} bytes", stream=stream, record_type=kind
            )
        if more:
            return None
        del self._parts[key]
        return bytes(parts)

    # ---- sending

    def _post_control(self, kind: int, content: bytes) -> None:
        self._outbox.post(Priority.CONTROL, Message(CONTROL_STREAM, record(kind, 0, content), PPID))

    def _open_lane(self, request: Request) -> None:
        request.lane = Lane(self.pool.content_stream(request.streams), Priority.CONTENT)

    def _send_content(self, request: Request, kind: int, data: bytes | memoryview) -> None:
        """Send of a request's body what the window allows, and hold the rest."""
        if request.held:
            request.held.append((kind, data))
            return
        window = request.send_window
        length = len(data)
        if length > window.available:
            # a view, so that what is long is not copied again with each credit
            view = memoryview(data)
            length = window.available
            request.held.append((kind, view[length:]))
            data = view[:length]
        window.sent += length
        for encoded in stream_records(kind, request.id, data, request.generation, self._content_size):
            self._outbox.add(request.lane, encoded)

    def _send_after_content(self, request: Request, kind: int, content: bytes | memoryview = b"") -> None:
        """Send a record that costs no credit, once what the request holds has gone."""
        if request.held:
            request.held.append((kind, content))
        else:
            self._outbox.add(request.lane, record(kind, request.id, content, request.generation))
            if kind == RecordType.END_REQUEST:
                self._sent_end(request)

    def _send_held(self, request: Request) -> None:
        held, request.held = request.held, deque()
        kind = 0
        while held:
            kind, content = held.popleft()
            if content and kind != RecordType.END_REQUEST:
                self._send_content(request, kind, content)
            else:
                self._send_after_content(request, kind, content)
            if request.held:
                request.held.extend(held)
                return
        if kind != RecordType.END_REQUEST:
            self._events.append(Writable(request))

    def _sent_end(self, request: Request) -> None:
        """END_REQUEST stands in the lane; the application side's matter."""

    def _discard_output(self, request: Request) -> None:
        """Forget what the request was still to send."""
        request.held.clear()
        request.lane.clear()

    def _close_lanes(self, request: Request) -> None:
        """The request sends nothing more: give its streams back when what is queued on them has gone."""
        lanes: list[Lane] = [request.lane, *request.feedback.values()]
        request.feedback = {}  # what comes later gets a lane that is not of the request's set
        if request.stderr is not None:
            lanes.append(request.stderr)
        left = len(lanes)

        def drained() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.pool.release(request.streams)

        for lane in lanes:
            self._outbox.close(lane, drained)

    def takes(self, channel: str) -> bool:
        """Whether the peer takes the channel; nobody knows before its SETTINGS, and then it is True."""
        return self.peer_settings is None or channel in self.peer_settings.accepts

    def _feedback_lane(self, number: int, channel: Channel, request: Request | None) -> FeedbackLane:
        lanes = self._association_lanes if request is None else request.feedback
        lane = lanes.get(number)
        if lane is not None:
            return lane
        figures = self.figures[channel.name]
        request_id, generation = (0, 0) if request is None else request.key

        def dropped(urgency: int, size: int) -> None:
            figures.dropped[urgency] = figures.dropped.get(urgency, 0) + 1

        def encode(item: bytes) -> list[bytes]:
            figures.sent += 1
            figures.sent_bytes += len(item)
            size = self._content_size
            parts = [item[start : start + size] for start in range(0, len(item), size)]
            last = parts.pop()
            encoded = [record(RecordType.FEEDBACK_MORE + number, request_id, part, generation) for part in parts]
            encoded.append(record(RecordType.FEEDBACK + number, request_id, last, generation))
            return encoded

        if request is None:
            stream = self.pool.association_stream(channel.name, channel.priority)
        elif request.key in self.requests:
            stream = self.pool.feedback_stream(request.streams, channel.name, channel.priority)
        else:
            # the request is over and its streams are given back: what comes late shares one stream with its like
            stream = self.pool.association_stream(("late", channel.priority), channel.priority)
        lane = lanes[number] = FeedbackLane(
            stream,
            channel.priority,
            FeedbackQueue(channel.queue_bytes, dropped, self._feedback_budget),
            encode,
            lifetime=channel.lifetime,
            unordered=not channel.ordered,
        )
        return lane
