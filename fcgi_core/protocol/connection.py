"""The protocol on one SCTP association, without I/O: messages and the time in, events and messages out.

Here is what both sides share: control records, windows of requests, streams and feedback. `web.py` begins requests and
takes their answers; `application.py` takes requests and answers them.

The shell around a connection (`driver.py`) does three things:

* gives it each batch of messages: ``for event in connection.receive(messages, now): ...``
* after anything that may have queued something: tells the carrier of `pool.priorities` and `pool.wanted`, then
  ``association.send(connection.take(association.room()))`` while there is room and something is returned
* calls `handle_timer(now)` when `timer()` is due, and, after take(), `resume()` when `may_resume()` says so.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import ClassVar, Final

from ..common.bounded_queue import Budget
from ..errors import LocalProtocolError, RemoteProtocolError, foreign_protocol_hint
from ..sctp.carrier import MESSAGE_SIZE, Message
from .channels import MAX_CHANNELS, MAX_ITEM, Channel, Direction, Priority
from .events import (
    ConfigAnswered,
    ConfigReceived,
    ConnectionFailed,
    Event,
    FeedbackReceived,
    ItemsAcknowledged,
    PeerChanged,
    PeerDraining,
    PeerError,
    PeerLoad,
    PeerReady,
    RecordRefused,
    RequestFailed,
    Writable,
)
from .feedback import REFERENCE, Feedback
from .flow import MAX_AHEAD
from .outbox import PPID, Lane, Outbox
from .records import (
    HEADER_SIZE,
    LARGEST_CONTENT,
    MAX_CONTENT,
    VERSION,
    RecordType,
    decode_pairs,
    encode_pairs,
    record,
    stream_records,
    wrong_version,
)
from .request import Request
from .settings import MIN_MAX_MESSAGE, Settings
from .streams import CONTENT_PRIORITY, CONTROL_STREAM, FIRST_STREAM, SECURITY_STREAM, StreamPool, StreamSet

__all__ = ["Connection"]

SETTINGS_TIMEOUT = 10.0
"""Seconds that the peer has for its SETTINGS after the association came up; HTTP/2 servers give theirs 5 to 10."""
MAX_EARLY = 1 << 20
"""Bytes of kept messages, EARLY_OVERHEAD included, that overtook the peer's SETTINGS while those were sent again after
a loss. They are few: a sender's congestion window does not grow before."""
EARLY_OVERHEAD = 128
"""Bytes of memory of a kept message beyond its data."""
MAX_ANSWERS = 2 << 20
"""Bytes of memory of answers that wait to be sent: to unknown records, refused requests, SETTINGS and CONFIG. A short
answer counts as 220; a peer that keeps to the protocol asks for a few at once."""
MAX_HELD_OF_PEER = 64 << 20
"""Bytes of memory that all associations of one peer may make this side hold before they are of use, see
`Connection.held`. Each kind has a bound for one association, too; a peer may have thousands of associations."""
LEAST_CONTENT: Final = 1024
"""Bytes of content that are worth a record of their own, so that a message is full."""
SHORT: Final = 32 << 10
"""Bytes of content up to which a request goes before those with more."""
MAX_REASON = 500
"""Characters of the reason why a change of configuration was rejected."""

_CONTROL = frozenset(range(RecordType.SETTINGS, RecordType.LOAD + 1)) - {RecordType.CREDIT}
_ACK = struct.Struct(">B7sQ")
"""number of the channel, of the first item or 0, of the last item"""
_LOAD = struct.Struct(">QQQ")
"""bytes that wait, bytes of the congestion window, microseconds of the round trip"""


class _Release:
    """Called by each lane of a request when it has drained; the last call gives the streams back."""

    def __init__(self, pool: StreamPool, streams: StreamSet, lanes: int) -> None:
        self._pool = pool
        self._streams = streams
        self._lanes = lanes

    def __call__(self) -> None:
        self._lanes -= 1
        if self._lanes == 0:
            self._pool.release(self._streams)


class Connection:
    """One side of the protocol on one association. Use `WebConnection` or `ApplicationConnection`."""

    sends: ClassVar[Direction]
    """The direction of the channels that this side sends on."""

    def __init__(self, settings: Settings | None = None, *, channels: Sequence[Channel] = ()) -> None:
        """`channels` are those that this side's plugins declared, both directions; `settings` need not name them."""
        self.settings = settings or Settings()
        """What stays as it is while the association lives; see `current_settings`."""
        self._settings_serial = 0
        self.feedback = Feedback(*self._directions(channels))
        self.peer_settings: Settings | None = None
        self.requests: dict[tuple[int, int], Request] = {}
        """Requests under way."""
        self.account = Budget(MAX_HELD_OF_PEER)
        """What the peer's associations hold together; the user gives all of them the same one."""
        self._charged = 0
        """The part of `account.used` that this association holds."""
        self.siblings: tuple[Connection, ...] = ()
        """The other associations between the same two processes: FCGI_MAX_REQS counts the requests of all."""
        self.blocked: dict[Request, None] = {}
        """Requests that hold what SCTP has no room for, though the peer has granted credit. See `MAX_AHEAD`."""
        self.pool = StreamPool(FIRST_STREAM)
        self.draining = False
        self.peer_draining = False
        self.failed = False
        self._outbox = Outbox()
        self._events: list[Event] = []
        self._early: list[Message] = []
        self._early_held = Budget(MAX_EARLY)
        self._max_message = self.settings.max_message
        self._content_size = MIN_MAX_MESSAGE - HEADER_SIZE  # what any peer accepts
        self._settings_due: float | None = None
        self._opened = False
        self._now = 0.0

    def set_channels(self, channels: Sequence[Channel], aside: Collection[str] = ()) -> None:
        """Replace the channels of this side's plugins, both directions, and tell the peer. On those named in `aside`
        nothing is accepted for now.

        What waits on a removed channel still goes, and nothing more can be sent on it. LocalProtocolError if this
        association has no number left for a new channel; nothing has changed then.
        """
        outgoing, incoming = self._directions(channels)
        serial = self._settings_serial + 1 if self._opened else 0
        if self.feedback.change(outgoing, incoming, serial, aside):
            self._settings_serial = serial
            if self.peer_settings is not None:
                self._meet(self.peer_settings)
            if self._opened:
                self._post_control(RecordType.SETTINGS, self.current_settings().encode())

    def _directions(self, channels: Sequence[Channel]) -> tuple[list[Channel], list[Channel]]:
        """The channels to send on, and the others."""
        outgoing = [channel for channel in channels if channel.direction is self.sends]
        return outgoing, [channel for channel in channels if channel.direction is not self.sends]

    def current_settings(self) -> Settings:
        """This side's SETTINGS with the channels it has now."""
        return replace(
            self.settings,
            channels=self.feedback.descriptions(),
            accepts=self.feedback.accepts,
            serial=self._settings_serial,
            seen=0 if self.peer_settings is None else self.peer_settings.serial,
        )

    def is_known(self) -> bool:
        """Whether the peer has acknowledged this side's latest SETTINGS."""
        return self.peer_settings is not None and self.peer_settings.seen >= self._settings_serial

    # ---- what the shell calls

    def open(self, outgoing_streams: int, now: float, message_size: int = MESSAGE_SIZE) -> None:
        """Begin: the association is up, see `Association`. RemoteProtocolError if it has too few outgoing streams."""
        self._now = now
        if outgoing_streams <= FIRST_STREAM:
            what = f"the peer accepts {outgoing_streams} streams; at least 3 are needed, 0 and 1 are the protocol's"
            raise RemoteProtocolError(what, advice="raise the peer's number of incoming streams")
        self.pool.outgoing = outgoing_streams
        self._max_message = min(self.settings.max_message, message_size)
        self._settings_due = now + SETTINGS_TIMEOUT
        self._opened = True
        self._post_control(RecordType.SETTINGS, self.current_settings().encode())

    def receive(self, messages: Iterable[Message], now: float) -> list[Event]:
        """Take messages as the carrier delivered them; the events that they cause, in order."""
        self._now = now
        try:
            for message in messages:
                if self.failed:
                    break
                self._receive_message(message)
        except RemoteProtocolError as error:
            # without its frames, which hold the event that will hold the error: a circle
            self._fail(error.with_traceback(None))
        held = self.held
        if held != self._charged:
            within = self.account.add(held - self._charged)
            self._charged = held
            if not within:
                what = f"the associations of this peer hold more than {self.account.limit} bytes of unfinished input"
                advice = "it finishes no messages, or reads no answers"
                self._fail(RemoteProtocolError(what, advice=advice))
        return self._take_events()

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    @property
    def held(self) -> int:
        """Bytes of memory that the peer makes this side hold before they are of use: messages before SETTINGS,
        unfinished items of feedback, and answers that wait to be sent."""
        return self._early_held.used + self.feedback.unfinished.used + self._outbox.posted

    def take(self, room: int, urgent: bool = False, begins: bool = False) -> list[Message]:
        """Messages to hand to the carrier, the most urgent first, about `room` bytes; empty if nothing waits. `urgent`:
        only control messages, credit and urgent feedback; `begins`: only the first of content that is not long."""
        return self._outbox.take(room, self._max_message, urgent, begins)

    def waiting(self, urgent: bool = False) -> bool:
        """Whether take() has something to give."""
        return self._outbox.waiting(urgent)

    @property
    def content_waiting(self) -> int:
        """Bytes of content that wait for credit or for room in SCTP."""
        held = sum(len(content) for request in self.requests.values() for _, content in request.held)
        return held + self._outbox.waiting_bytes()

    def timer(self) -> float | None:
        """When to call handle_timer, on the same clock as `now`; None: not at all."""
        return self._settings_due

    def handle_timer(self, now: float) -> list[Event]:
        """Do what is due by `now`; the events that this causes."""
        self._now = now
        if self._settings_due is not None and now >= self._settings_due:
            self._settings_due = None
            what = f"the peer sent no SETTINGS within {SETTINGS_TIMEOUT:g} s"
            self._fail(RemoteProtocolError(what, advice="is it another kind of SCTP server?"))
        return self._take_events()

    def consumed(self, request: Request, count: int) -> None:
        """Note that so many bytes of the request's body were passed on: the peer gets credit for as many in time."""
        limit = request.receive_window.consume(count)
        if limit is not None and self._receiving(request):
            message = record(RecordType.CREDIT, request.id, limit.to_bytes(8, "big"), request.generation)
            # unordered: it means the same whenever it arrives, and must not wait behind a body on the same stream
            self._outbox.post(Priority.CONTROL, Message(request.lane.stream, message, PPID, unordered=True))

    def send_feedback(
        self, channel: str, item: bytes, request: Request | None = None, urgency: int = 6, extra: int = 0, of: int = 0
    ) -> bool:
        """Queue an item of at least one byte; False if it was dropped and counted: the association is not open or has
        failed, the peer does not accept the channel, the item is longer than MAX_ITEM, or the queue is full; then items
        with the highest `urgency` number are dropped first.

        A channel of request scope needs `request`, or `of`: the number of one on another association. `extra`, if not
        0, is the number of one more stream of the request. LocalProtocolError for an undeclared channel.
        """
        feedback = self.feedback
        number = feedback.number(channel, request is not None or of > 0)
        if of:
            item = of.to_bytes(REFERENCE, "big") + item
        useless = self.failed or self.pool.outgoing <= FIRST_STREAM  # not opened: there is no stream yet
        if not item or len(item) > MAX_ITEM or useless or not self.takes(channel):
            feedback.figures[channel].drop(urgency, item)
            return False
        lane = feedback.lanes(request).get(number + extra * MAX_CHANNELS)
        if lane is None:
            stream = self._feedback_stream(feedback.outgoing[number], request, extra)
            lane = feedback.make_lane(number, request, stream, self._content_size, extra)
        if not lane.items.push(item, urgency):
            return False
        self._outbox.wake(lane)
        return True

    def _feedback_stream(self, channel: Channel, request: Request | None, extra: int) -> int:
        if request is None:
            return self.pool.association_stream(channel.name, channel.priority)
        if request.key in self.requests:
            name = f"{channel.name}#{extra}" if extra else channel.name
            return self.pool.feedback_stream(request.streams, name, channel.priority)
        # the request is over and its streams are given back: late items of one priority share a stream
        return self.pool.association_stream(("late", channel.priority), channel.priority)

    def acknowledge(self, channel: str, number: int, first: int = 0) -> None:
        """Acknowledge the items of the peer's channel from `first`, 56 bits of it, to `number`."""
        index = self.feedback.peer_number(channel)
        if index is not None:
            self._post_control(RecordType.ACK, _ACK.pack(index, first.to_bytes(8)[1:], number))

    def count_requests(self) -> int:
        """Requests under way between the two processes."""
        count = len(self.requests)
        for one in self.siblings:
            count += len(one.requests)
        return count

    def send_load(self, waiting: int, window: int, round_trip: float) -> None:
        """Tell a web side with several associations what waits here for the window; see `PeerLoad`."""
        self._post_control(RecordType.LOAD, _LOAD.pack(waiting, window, int(round_trip * 1_000_000)))

    def send_config(self, number: int, pairs: dict[str, str]) -> None:
        """Change options on the peer's side; it answers with a ConfigAnswered of the same `number`.

        LocalProtocolError if the pairs do not fit a record, UnicodeEncodeError for text beyond latin-1.
        """
        content = encode_pairs({"FCGI_SCTP_ID": str(number), **pairs})
        if len(content) > MAX_CONTENT:
            raise LocalProtocolError(f"configuration of {len(content)} bytes: a record holds at most {MAX_CONTENT}")
        self._post_control(RecordType.CONFIG, content)

    def answer_config(self, number: int, results: dict[str, str]) -> None:
        """Answer a ConfigReceived: by name, '' for an accepted option, else the reason against it.

        Reasons are cut at MAX_REASON, and names that do not fit a record are left out: the peer decides how many it
        sends.
        """
        parts = [encode_pairs({"FCGI_SCTP_ID": str(number)})]
        size = len(parts[0])
        for name, reason in results.items():
            shown = reason[:MAX_REASON].encode("latin-1", "backslashreplace").decode("latin-1")
            encoded = encode_pairs(((name, shown),))
            size += len(encoded)
            if size > MAX_CONTENT:
                break
            parts.append(encoded)
        self._post_control(RecordType.CONFIG_RESULT, b"".join(parts))

    def drain(self) -> None:
        """Tell the peer that no new requests are accepted (application) or begun (web)."""
        if not self.draining:
            self.draining = True
            self._post_control(RecordType.DRAIN, b"")

    def close(self) -> None:
        """Forget what the association held, because it is gone: nothing is sent or received after this.

        It breaks all reference cycles, so that memory is free at once and not when the garbage collector runs.
        """
        self.failed = True
        self._settings_due = None
        self._outbox.close()
        self._events.clear()
        self._early.clear()
        self._early_held.used = 0
        self.siblings = ()
        self.feedback.close()
        self.account.used -= self._charged
        self.account = Budget(MAX_HELD_OF_PEER)
        self._charged = 0
        for request in tuple(self.requests.values()):
            request.context = request.feedback = request.stderr = None
            self._discard_output(request)

    def fail(self, text: str) -> None:
        """Tell the peer why the association is going to be aborted; nothing else is sent after this."""
        self._fail(RemoteProtocolError(text))
        self._events.clear()

    def drop_waiting(self) -> None:
        """Count feedback that still waits as dropped: the association is over."""
        self._outbox.drop_feedback()

    # ---- what the sides override

    def _on_record(self, stream: int, kind: int, request_id: int, generation: int, content: bytes) -> bool:
        """Handle a record of a type that only this side receives; False for any other type."""
        raise NotImplementedError

    def _receiving(self, request: Request) -> bool:
        """Whether more of the request's body may arrive, so that credit is worth sending."""
        raise NotImplementedError

    def find(self, request_id: int, generation: int) -> Request | None:
        """The request that feedback or STDERR belongs to: under way or ended a short time ago."""
        return self.requests.get((request_id, generation))

    def _end_after_failure(self, request: Request) -> None:
        """End on the wire a request in which the peer broke the protocol."""
        raise NotImplementedError

    # ---- receiving

    def _receive_message(self, message: Message) -> None:
        stream, data = message.stream, message.data
        if stream == SECURITY_STREAM:
            what = "data on stream 0, which is for security, and no security is configured"
            hint = foreign_protocol_hint(data[0] if data else 0) or "configure the same security on both sides, or none"
            raise RemoteProtocolError(what, stream=0, advice=hint)
        if self.peer_settings is None and stream != CONTROL_STREAM:
            if not self._early_held.add(len(data) + EARLY_OVERHEAD):
                raise RemoteProtocolError(f"more than {MAX_EARLY} bytes arrived before SETTINGS", stream=stream)
            self._early.append(message)
            return
        if len(data) > self.settings.max_message and stream != CONTROL_STREAM:
            # on stream 1 the peer's SETTINGS come before it knows the limit
            what = f"a message of {len(data)} bytes; at most {self.settings.max_message} were agreed"
            raise RemoteProtocolError(what, stream=stream)
        end, position = len(data), 0
        while position < end:
            if end - position < HEADER_SIZE:
                what = f"a message ends {end - position} bytes into a record's header of {HEADER_SIZE}"
                raise RemoteProtocolError(what, stream=stream)
            # the header of section 3.3, by hand: compiled, this is faster than `struct`
            if data[position] != VERSION:
                raise wrong_version(data[position])
            kind = data[position + 1]
            request_id = data[position + 2] << 8 | data[position + 3]
            generation = data[position + 7]
            start = position + HEADER_SIZE
            stop = start + (data[position + 4] << 8 | data[position + 5])
            position = stop + data[position + 6]
            if position > end:
                what = f"a record of {HEADER_SIZE + position - start} bytes is cut by its message's end"
                raise RemoteProtocolError(what, stream=stream, record_type=kind)
            content = data[start:stop]
            if stream == CONTROL_STREAM:
                self._receive_control(kind, request_id, content)
            elif self._on_record(stream, kind, request_id, generation, content):
                pass
            elif kind == RecordType.CREDIT:
                self._on_credit(stream, request_id, generation, content)
            elif kind >= RecordType.FEEDBACK:
                self._on_feedback(None if message.unordered else stream, kind, request_id, generation, content)
            elif kind in _CONTROL:
                raise RemoteProtocolError("a control record off stream 1", stream=stream, record_type=kind)
            else:
                what = "a record of a type that this side does not accept"
                self._request_error(what, stream, kind, (request_id, generation))

    def _receive_control(self, kind: int, request_id: int, content: bytes) -> None:
        if request_id != 0 or (kind not in _CONTROL and kind < RecordType.GET_VALUES):
            raise _control_error(f"stream 1 carries only control records, with request id 0 and not {request_id}", kind)
        if kind == RecordType.ACK:
            self._on_ack(content)
        elif kind == RecordType.LOAD:
            if len(content) != _LOAD.size:
                raise _control_error(f"LOAD of {len(content)} bytes, not {_LOAD.size}", kind)
            waiting, window, round_trip = _LOAD.unpack(content)
            self._events.append(PeerLoad(waiting, window, round_trip / 1_000_000))
        elif kind == RecordType.SETTINGS:
            self._on_settings(Settings.decode(content))
        elif kind == RecordType.CONFIG:
            self._expect_answer()
            self._events.append(ConfigReceived(*_config(kind, content)))
        elif kind == RecordType.CONFIG_RESULT:
            self._events.append(ConfigAnswered(*_config(kind, content)))
        elif kind == RecordType.DRAIN:
            self._on_drain()
        elif kind == RecordType.ERROR:
            self._events.append(PeerError(content[:1024].decode("utf-8", "replace")))
        else:
            self._events.append(RecordRefused(_control_error("a control record of an unknown type", kind)))
            if kind != RecordType.UNKNOWN_TYPE:
                # FastCGI section 4.2: the peer may be of a later version, so the association lives
                self._expect_answer()
                self._post_control(RecordType.UNKNOWN_TYPE, bytes((kind, 0, 0, 0, 0, 0, 0, 0)))

    def _request_error(self, what: str, stream: int, kind: int, key: tuple[int, int]) -> None:
        """End a request in which the peer broke the protocol; without such a request, report the record."""
        request = self.requests.get(key)
        if request is None:
            self._refuse(what, stream, kind, key)
        elif not request.aborted:
            request.aborted = True
            self._discard_output(request)
            error = RemoteProtocolError(what, stream=stream, record_type=kind, request_key=key)
            self._events.append(RequestFailed(request, error))
            self._end_after_failure(request)

    def _refuse(self, what: str, stream: int | None, kind: int, key: tuple[int, int]) -> None:
        error = RemoteProtocolError(what, stream=stream, record_type=kind, request_key=key)
        self._events.append(RecordRefused(error))

    def _fail(self, error: RemoteProtocolError) -> None:
        """Give the association up, and say why to the peer and the user."""
        if not self.failed:
            self.failed = True
            self._settings_due = None
            text = record(RecordType.ERROR, 0, str(error).encode("utf-8", "replace")[:1024])
            self._outbox.close(Message(CONTROL_STREAM, text, PPID))
            self._events.append(ConnectionFailed(error))

    def _on_settings(self, settings: Settings) -> None:
        if self.peer_settings is not None:
            self._on_changed_settings(self.peer_settings, settings)
            return
        self.peer_settings = settings
        self._settings_due = None
        self._max_message = min(self._max_message, settings.max_message)
        self._content_size = min(LARGEST_CONTENT, self._max_message - HEADER_SIZE)
        self._meet(settings)
        for number, lane in self.feedback.lanes(None).items():
            if not self.takes(self.feedback.outgoing[number].name):
                lane.items.drop_all()
        self._outbox.open = True
        self._events.append(PeerReady(settings))
        early, self._early = self._early, []
        self._early_held.used = 0
        for message in early:
            self._receive_message(message)

    def _on_changed_settings(self, before: Settings, now: Settings) -> None:
        """Take later SETTINGS, which change channels alone. New ones are answered, so that the peer knows that they
        were seen; answers are not."""
        if now.serial < before.serial or now.seen < before.seen or now.seen > self._settings_serial:
            raise _control_error(
                f"SETTINGS {now.serial}, which saw {now.seen}, came after {before.serial}, which saw {before.seen};"
                f" this side's are {self._settings_serial}",
                RecordType.SETTINGS,
            )
        if (now.serial, now.seen) == (before.serial, before.seen):
            raise _control_error("SETTINGS came twice", RecordType.SETTINGS)
        now = replace(before, channels=now.channels, accepts=now.accepts, serial=now.serial, seen=now.seen)
        self.peer_settings = now
        self._meet(self.peer_settings)
        if now.serial > before.serial:
            self._expect_answer()
            self._post_control(RecordType.SETTINGS, self.current_settings().encode())
        self._events.append(PeerChanged())

    def _meet(self, settings: Settings) -> None:
        self.feedback.meet(settings.channels, settings.accepts, settings.seen)

    def _on_ack(self, content: bytes) -> None:
        if len(content) != _ACK.size:
            raise _control_error(f"ACK of {len(content)} bytes, not {_ACK.size}", RecordType.ACK)
        index, first, number = _ACK.unpack(content)
        if index < len(self.feedback.outgoing):
            self._events.append(ItemsAcknowledged(self.feedback.outgoing[index].name, number, int.from_bytes(first)))
        else:
            self._refuse(f"ACK of channel {index}, which is not ours", CONTROL_STREAM, RecordType.ACK, (0, 0))

    def _on_drain(self) -> None:
        if not self.peer_draining:
            self.peer_draining = True
            self._events.append(PeerDraining())

    def _on_credit(self, stream: int, request_id: int, generation: int, content: bytes) -> None:
        request = self.requests.get((request_id, generation))
        if request is None:
            return  # it crossed the request's end
        if len(content) != 8:
            self._request_error(f"CREDIT of {len(content)} bytes, not 8", stream, RecordType.CREDIT, request.key)
            return
        if request.send_window.grant(int.from_bytes(content, "big")):
            request.credited_at = self._now
            if request.held:
                self._send_held(request)

    def _on_feedback(self, stream: int | None, kind: int, request_id: int, generation: int, content: bytes) -> None:
        try:
            item = self.feedback.receive(stream, kind, (request_id, generation), content)
        except KeyError:
            self._refuse("feedback on a channel that SETTINGS did not name", stream, kind, (request_id, generation))
            return
        if item is not None:
            request = self.find(request_id, generation) if request_id else None
            self._events.append(FeedbackReceived(item[0], request, item[1], item[2]))

    def _expect_answer(self) -> None:
        """Give up a peer that floods with what must be answered and does not read the answers."""
        if self._outbox.posted >= MAX_ANSWERS:
            raise RemoteProtocolError(f"{MAX_ANSWERS} bytes of answers wait to be read, and the peer asks for more")

    # ---- sending

    def _post_control(self, kind: int, content: bytes) -> None:
        self._outbox.post(Priority.CONTROL, Message(CONTROL_STREAM, record(kind, 0, content), PPID))

    def _open_lane(self, request: Request) -> None:
        request.lane = Lane(self.pool.content_stream(request.streams), CONTENT_PRIORITY)

    def _send(self, request: Request, kind: int, content: bytes | memoryview) -> None:
        """Send content of a stream, b'' to close it, and hold what the window does not allow yet."""
        if request.held:
            request.held.append((kind, content))
        elif not content:
            self._outbox.add(request.lane, record(kind, request.id, b"", request.generation))
        else:
            window = request.send_window
            length = len(content)
            room = window.available
            ahead = MAX_AHEAD - request.lane.size
            if room > ahead:
                room = max(ahead, 0)
                if length > room:
                    self.blocked[request] = None
            if length > room:
                # a view, so that long content is not copied again with each credit
                view = memoryview(content)
                length = room
                request.held.append((kind, view[length:]))
                content = view[:length]
            window.sent += length
            if window.sent > SHORT and not request.lane.is_long:
                request.lane.is_long = True
                self.pool.let_others_first(request.lane.stream)
            # what the message that waits last has room for goes with it: a message costs more than a record
            first = self._max_message - request.lane.size % self._max_message - HEADER_SIZE
            if LEAST_CONTENT <= first < length:
                view = memoryview(content)
                self._outbox.add(request.lane, record(kind, request.id, view[:first], request.generation))
                content = view[first:]
            for encoded in stream_records(kind, request.id, content, request.generation, self._content_size):
                self._outbox.add(request.lane, encoded)

    def _send_end(self, request: Request, encoded: bytes) -> None:
        """Send END_REQUEST, given as whole records, after what is held."""
        if request.held:
            request.held.append((RecordType.END_REQUEST, encoded))
        else:
            self._outbox.add(request.lane, encoded)
            self._sent_end(request)

    def may_resume(self) -> bool:
        """Whether resume() would send something."""
        return any(request.lane.size <= MAX_AHEAD // 2 for request in self.blocked)

    def resume(self) -> list[Event]:
        """Send more of what waited for room in SCTP; the events that this causes. Call it after take(), when
        may_resume() says so."""
        for request in tuple(self.blocked):
            if request.lane.size <= MAX_AHEAD // 2:
                del self.blocked[request]
                if request.held:
                    self._send_held(request)
        return self._take_events()

    def _send_held(self, request: Request) -> None:
        held, request.held = request.held, []
        for kind, content in held:
            if kind == RecordType.END_REQUEST:
                self._send_end(request, bytes(content))
            else:
                self._send(request, kind, content)
        if not request.held and held[-1][0] != RecordType.END_REQUEST:
            self._events.append(Writable(request))

    def _sent_end(self, request: Request) -> None:
        """END_REQUEST of the request is queued; overridden by the application side, which sends it."""

    def _discard_output(self, request: Request) -> None:
        """Forget what waits to be sent for the request."""
        self.blocked.pop(request, None)
        request.held.clear()
        request.lane.clear()

    def _close_lanes(self, request: Request) -> None:
        """Give the streams of a request that sends nothing more back once what is queued on them has gone."""
        lanes: list[Lane] = [request.lane] if request.lane.queued else []
        if request.feedback is not None:
            lanes += [lane for lane in request.feedback.values() if lane.queued]
            request.feedback = None  # later feedback travels on other streams
        if request.stderr is not None and request.stderr.queued:
            lanes.append(request.stderr)
        if not lanes:
            self.pool.release(request.streams)
            return
        drained = _Release(self.pool, request.streams, len(lanes))
        for lane in lanes:
            self._outbox.close_lane(lane, drained)

    def takes(self, channel: str) -> bool:
        """Whether the peer accepts the channel; True before its SETTINGS have arrived."""
        return self.peer_settings is None or channel in self.feedback.taken


def _control_error(what: str, kind: int) -> RemoteProtocolError:
    return RemoteProtocolError(what, stream=CONTROL_STREAM, record_type=kind)


def _config(kind: int, content: bytes) -> tuple[int, dict[str, str]]:
    """The number and the pairs of a CONFIG or CONFIG_RESULT record."""
    try:
        pairs = decode_pairs(content)
        number = pairs.pop("FCGI_SCTP_ID")
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            raise ValueError(f"it is {number[:40]!r}")
        return int(number), pairs
    except (ValueError, KeyError) as error:
        raise _control_error(f"CONFIG without a readable FCGI_SCTP_ID: {error}", kind) from None
