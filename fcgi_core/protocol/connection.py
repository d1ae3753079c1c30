"""The protocol on one SCTP association, without I/O: messages and the time in, events and messages out.

What both sides share lives here: SETTINGS and the other control records, the windows of requests, streams, feedback.
What only one side does is in `web_connection.py` (begins requests, takes answers) and `application_connection.py`.

The shell around a connection, whichever carrier it uses, does three things:

* gives it each batch of messages: ``for event in connection.receive(messages, now): ...``
* after anything that may have queued something: ``association.send(connection.take(association.room()))`` while there
  is room and something is returned, having told the carrier of `pool.priorities` and `pool.wanted` before
* calls `handle_timer(now)` when `timer()` is due, and `resume()` when `may_resume()` says so, after take().
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from ..errors import LocalProtocolError, RemoteProtocolError, foreign_protocol_hint
from ..sctp.carrier import Message
from .channels import MAX_CHANNELS, MAX_ITEM, Budget, Channel, Direction, Priority
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
    PeerReady,
    RecordRefused,
    RequestFailed,
    Writable,
)
from .feedback import Feedback
from .flow import MAX_AHEAD
from .outbox import PPID, ClosedOutbox, Lane, Outbox
from .records import (
    HEADER_SIZE,
    MAX_CONTENT,
    PREFERRED_CONTENT,
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
from .streams import CONTROL_STREAM, FIRST_STREAM, SECURITY_STREAM, Policy, StreamPool, StreamSet

__all__ = ["Connection"]

SETTINGS_TIMEOUT = 10.0
"""Seconds that the peer has for its SETTINGS after the association came up; HTTP/2 servers give theirs 5 to 10."""
MAX_EARLY = 1 << 20
"""Bytes of messages kept that overtook the peer's SETTINGS, EARLY_OVERHEAD included: another stream's data may arrive
while those are sent again after a loss. A sender's congestion window does not grow before, so it is little."""
MAX_ANSWERS = 2 << 20
"""Bytes of memory of answers that wait to be sent: to unknown records, refused requests, SETTINGS and CONFIG. A short
one counts as 220; those that a peer in order asks for at once are a few."""
MAX_HELD_OF_PEER = 64 << 20
"""Bytes of memory that one peer makes this side hold on all its associations together and that are of no use yet: see
`Connection.held`. What one association may hold of each kind has bounds of its own; thousands of them have this one."""
MAX_REASON = 500
"""Characters of the reason why a change of configuration was not taken."""
EARLY_OVERHEAD = 128
"""Bytes that keeping a message costs beside its data."""

_CONTROL = frozenset(
    (
        RecordType.SETTINGS,
        RecordType.CONFIG,
        RecordType.CONFIG_RESULT,
        RecordType.ACK,
        RecordType.DRAIN,
        RecordType.ERROR,
    )
)
_ACK = struct.Struct(">B7xQ")
"""channel number, reserved, number of the item"""


class _Release:
    """Called by each lane of a request that has drained; the last one gives the streams back."""

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

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        channels: Sequence[Channel] = (),
        policy: Policy | None = None,
    ) -> None:
        """`channels` are all that this side's plugins declared, both directions; `settings` need not name them."""
        settings = settings or Settings()
        outgoing = [channel for channel in channels if channel.direction is self.sends]
        self.feedback = Feedback(outgoing, [channel for channel in channels if channel not in outgoing])
        self.settings = replace(
            settings,
            channels=self.feedback.descriptions(),
            accepts=self.feedback.accepts,
        )
        self.peer_settings: Settings | None = None
        self.requests: dict[tuple[int, int], Request] = {}
        """Requests under way."""
        self.account: Budget | None = None
        """What the peer's associations hold together, where somebody counts it."""
        self._charged = 0
        """Of it, what this one is charged for."""
        self.blocked: dict[Request, None] = {}
        """Those that hold what SCTP has no room for, though the peer takes it. See `MAX_AHEAD`."""
        self.pool = StreamPool(FIRST_STREAM, policy)
        self.draining = False
        self.peer_draining = False
        self.failed = False
        self._outbox = Outbox()
        self._events: list[Event] = []
        self._early: list[Message] = []
        self._early_bytes = 0
        self._max_message = self.settings.max_message
        self._content_size = MIN_MAX_MESSAGE - HEADER_SIZE  # what any peer takes
        self._settings_due: float | None = None
        self._settings_posted = False
        self._now = 0.0

    def set_channels(self, channels: Sequence[Channel], aside: Collection[str] = ()) -> None:
        """The channels of this side's plugins from now on, both directions, and the names of those on which nothing is
        taken for now; the peer is told.

        What waits on one that is gone still goes, and nothing more can be sent on it. LocalProtocolError if this
        association has no number left for one that is new, and nothing has changed.
        """
        outgoing = [channel for channel in channels if channel.direction is self.sends]
        incoming = [channel for channel in channels if channel.direction is not self.sends]
        opened = self._settings_posted
        serial = self.settings.serial + 1 if opened else 0
        if self.feedback.change(outgoing, incoming, serial, aside):
            self.settings = replace(
                self.settings, channels=self.feedback.descriptions(), accepts=self.feedback.accepts, serial=serial
            )
            if self.peer_settings is not None:
                self._meet(self.peer_settings)
            if opened:
                self._post_control(RecordType.SETTINGS, self.settings.encode())

    def is_known(self) -> bool:
        """Whether the peer has seen this side's latest SETTINGS, and said so."""
        return self.peer_settings is not None and self.peer_settings.seen >= self.settings.serial

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
        self._settings_posted = True
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
            # without its frames, which hold the event that will hold the error: a circle
            self._fail(error.with_traceback(None))
        if self.account is not None:
            self._charge(self.account)
        events, self._events = self._events, []
        return events

    @property
    def held(self) -> int:
        """Bytes of memory that the peer makes this side hold and that are of no use yet: messages before SETTINGS,
        items of feedback that are not whole, and answers that wait to be read."""
        outbox = self._outbox
        waiting = outbox.posted_bytes(Priority.CONTROL) + outbox.posted_bytes(Priority.CONTENT)
        return self._early_bytes + self.feedback.unfinished_bytes + waiting

    def _charge(self, account: Budget) -> None:
        held = self.held
        if held != self._charged:
            account.used += held - self._charged
            self._charged = held
            if account.used > account.limit and not self.failed:
                self._fail(
                    RemoteProtocolError(
                        f"the associations of this peer hold more than {account.limit} bytes that are of no use yet",
                        advice="it begins what it does not finish, or does not read what it is answered",
                    )
                )

    def take(self, room: int, urgent: bool = False) -> list[Message]:
        """Messages to hand to the carrier, the most urgent first, about `room` bytes; empty if nothing waits.

        `urgent`: only control messages, credit and urgent feedback.
        """
        return self._outbox.take(room, self._max_message, Priority.URGENT if urgent else Priority.BACKGROUND)

    def urgent_waiting(self) -> bool:
        """Whether take() has something urgent to give."""
        return self._outbox.waiting(Priority.URGENT)

    def waiting(self) -> bool:
        """Whether take() has something to give."""
        return self._outbox.waiting()

    @property
    def feedback_waiting(self) -> int:
        """Bytes of feedback that wait to be sent, all channels and requests together."""
        return self.feedback.budget.used

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

    def send_feedback(
        self, channel: str, item: bytes, request: Request | None = None, urgency: int = 6, extra: int = 0
    ) -> bool:
        """Queue an item of at least one byte; False if it was dropped, which is counted: the association is not open or
        failed, the peer does not take the channel, the item is too long (ordered: MAX_ITEM, else a record), or full.

        A channel of request scope needs `request`, one of association scope takes none. Under pressure the items
        with the highest `urgency` number go first. `extra`, if not 0, is the number of one more stream that the request
        has on the channel. LocalProtocolError for a channel that was not declared.
        """
        feedback = self.feedback
        number = feedback.number(channel, request)
        declared = feedback.outgoing[number]
        too_large = len(item) > (MAX_ITEM if declared.ordered else self._content_size)
        useless = self.failed or self.pool.outgoing <= FIRST_STREAM  # not opened: there is no stream yet
        if not item or too_large or useless or not self.takes(channel):
            feedback.drop(channel, urgency, item)
            return False
        lane = feedback.lanes(request).get(number + extra * MAX_CHANNELS)
        if lane is None:
            stream = self._feedback_stream(declared, request, extra)
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
        # the request is over and its streams are given back: what comes late shares one stream with its like
        return self.pool.association_stream(("late", channel.priority), channel.priority)

    def acknowledge(self, channel: str, number: int) -> None:
        """Tell the peer that all items of its channel up to this number have been taken over."""
        index = self.feedback.peer_number(channel)
        if index is not None:
            self._post_control(RecordType.ACK, _ACK.pack(index, number))

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

        What one record does not hold is left out, for how many names there are is the peer's doing; so is what a reason
        has beyond MAX_REASON.
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
        """Take no new requests from now on, and tell the peer."""
        if not self.draining:
            self.draining = True
            self._post_control(RecordType.DRAIN, b"")

    def close(self) -> None:
        """Forget what the association held, for it is gone: nothing is sent or received after this.

        It breaks all reference cycles, so that what is not used any more is freed at once. The garbage collector would
        free it hours later.
        """
        self.failed = True
        self._settings_due = None
        self._outbox = ClosedOutbox()
        self._events.clear()
        self._early.clear()
        self._early_bytes = 0
        self.feedback.close()
        if self.account is not None:
            self.account.used -= self._charged
            self.account = None
        for request in tuple(self.requests.values()):
            request.context = request.feedback = request.stderr = None
            self._discard_output(request)

    def fail(self, text: str) -> None:
        """Tell the peer why the association is about to be aborted; nothing else will be sent."""
        self._fail(RemoteProtocolError(text))
        self._events.clear()

    def drop_waiting(self) -> None:
        """The association is over: feedback that waits here, and was not taken back, counts as dropped."""
        self._outbox.drop_feedback()

    # ---- what the sides override

    def _on_record(self, stream: int, kind: int, request_id: int, generation: int, content: bytes) -> bool:
        """Take a record of a request, of those types that only this side gets; False for any other type."""
        raise NotImplementedError

    def _receiving(self, request: Request) -> bool:
        """Whether more of the request's body may come, so that credit is worth sending."""
        raise NotImplementedError

    def find(self, request_id: int, generation: int) -> Request | None:
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
        while position < end:
            if end - position < HEADER_SIZE:
                raise RemoteProtocolError(
                    f"a message ends {end - position} bytes into a record's header of {HEADER_SIZE}", stream=stream
                )
            # the header of section 3.3, by hand: compiled, that is quicker than `struct`
            if data[position] != VERSION:
                raise wrong_version(data[position])
            kind = data[position + 1]
            request_id = data[position + 2] << 8 | data[position + 3]
            generation = data[position + 7]
            start = position + HEADER_SIZE
            stop = start + (data[position + 4] << 8 | data[position + 5])
            position = stop + data[position + 6]
            if position > end:
                raise RemoteProtocolError(
                    f"a record of {HEADER_SIZE + position - start} bytes is cut by its message's end",
                    stream=stream,
                    record_type=kind,
                )
            content = data[start:stop]
            if stream == CONTROL_STREAM:
                self._receive_control(kind, request_id, content)
            elif self._on_record(stream, kind, request_id, generation, content):
                pass
            elif kind == RecordType.CREDIT:
                self._on_credit(stream, request_id, generation, content)
            elif kind >= RecordType.FEEDBACK:
                self._on_feedback(stream, kind, request_id, generation, content)
            elif kind in _CONTROL:
                raise RemoteProtocolError("a control record off stream 1", stream=stream, record_type=kind)
            else:
                self._request_error(
                    "a record of a type that this side does not take", stream, kind, (request_id, generation)
                )

    def _receive_control(self, kind: int, request_id: int, content: bytes) -> None:
        if request_id != 0 or (kind not in _CONTROL and kind < RecordType.GET_VALUES):
            raise RemoteProtocolError(
                f"stream 1 carries control records alone, with request id 0 and not {request_id}",
                stream=CONTROL_STREAM,
                record_type=kind,
            )
        if kind == RecordType.ACK:
            self._on_ack(content)
        elif kind == RecordType.SETTINGS:
            self._on_settings(content)
        elif kind == RecordType.CONFIG:
            self._on_config(content)
        elif kind == RecordType.CONFIG_RESULT:
            self._on_config_result(content)
        elif kind == RecordType.DRAIN:
            self._on_drain(content)
        elif kind == RecordType.ERROR:
            self._on_error(content)
        else:
            self._on_unknown_control(kind)

    def _on_unknown_control(self, kind: int) -> None:
        error = RemoteProtocolError(
            "a control record of a type that this side does not know", stream=CONTROL_STREAM, record_type=kind
        )
        self._events.append(RecordRefused(error))
        if kind != RecordType.UNKNOWN_TYPE:
            # FastCGI section 4.2; it harms nobody, so the association lives
            unknown = record(RecordType.UNKNOWN_TYPE, 0, bytes((kind, 0, 0, 0, 0, 0, 0, 0)))
            self._answer_control(Priority.CONTROL, Message(CONTROL_STREAM, unknown, PPID))

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
        settings = Settings.decode(content)
        if self.peer_settings is not None:
            self._on_changed_settings(self.peer_settings, settings)
            return
        self.peer_settings = settings
        self._settings_due = None
        self._max_message = min(self.settings.max_message, settings.max_message)
        self._content_size = min(PREFERRED_CONTENT, self._max_message - HEADER_SIZE)
        self._meet(settings)
        for number, lane in self.feedback.lanes(None).items():
            if not self.takes(self.feedback.outgoing[number].name):
                lane.items.drop_all()
        self._outbox.open = True
        self._events.append(PeerReady(settings))
        early, self._early = self._early, []
        self._early_bytes = 0
        for message in early:
            self._receive_message(message)

    def _on_changed_settings(self, before: Settings, now: Settings) -> None:
        """SETTINGS that come later change channels alone. New ones are answered, so that the peer knows that they were
        seen; answers are not."""
        if now.serial < before.serial or now.seen < before.seen or now.seen > self.settings.serial:
            raise RemoteProtocolError(
                f"SETTINGS {now.serial}, which saw {now.seen}, came after {before.serial}, which saw {before.seen};"
                f" this side's are {self.settings.serial}",
                stream=CONTROL_STREAM,
                record_type=RecordType.SETTINGS,
            )
        if (now.serial, now.seen) == (before.serial, before.seen):
            raise RemoteProtocolError("SETTINGS came twice", stream=CONTROL_STREAM, record_type=RecordType.SETTINGS)
        self.peer_settings = replace(
            before, channels=now.channels, accepts=now.accepts, serial=now.serial, seen=now.seen
        )
        self._meet(self.peer_settings)
        if now.serial > before.serial:
            self.settings = replace(self.settings, seen=now.serial)
            answer = Message(CONTROL_STREAM, record(RecordType.SETTINGS, 0, self.settings.encode()), PPID)
            self._answer_control(Priority.CONTROL, answer)
        self._events.append(PeerChanged())

    def _meet(self, settings: Settings) -> None:
        self.feedback.meet(settings.channels, settings.accepts, settings.seen)

    def _on_config(self, content: bytes) -> None:
        self._expect_answer(Priority.CONTROL)
        number, pairs = self._config_pairs(RecordType.CONFIG, content)
        self._events.append(ConfigReceived(number, pairs))

    def _on_config_result(self, content: bytes) -> None:
        number, pairs = self._config_pairs(RecordType.CONFIG_RESULT, content)
        self._events.append(ConfigAnswered(number, pairs))

    def _config_pairs(self, kind: int, content: bytes) -> tuple[int, dict[str, str]]:
        try:
            pairs = decode_pairs(content)
            number = pairs.pop("FCGI_SCTP_ID")
            if not (number.isascii() and number.isdigit() and len(number) < 19):
                raise ValueError(f"it is {number[:40]!r}")
            return int(number), pairs
        except (ValueError, KeyError) as error:
            raise RemoteProtocolError(
                f"CONFIG without a readable FCGI_SCTP_ID: {error}", stream=CONTROL_STREAM, record_type=kind
            ) from None

    def _on_ack(self, content: bytes) -> None:
        if len(content) != _ACK.size:
            raise RemoteProtocolError(
                f"ACK of {len(content)} bytes, not {_ACK.size}", stream=CONTROL_STREAM, record_type=RecordType.ACK
            )
        index, number = _ACK.unpack(content)
        if index < len(self.feedback.outgoing):
            self._events.append(ItemsAcknowledged(self.feedback.outgoing[index].name, number))
        else:
            self._refuse(f"ACK of channel {index}, which is not ours", CONTROL_STREAM, RecordType.ACK, (0, 0))

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
        if request.send_window.grant(int.from_bytes(content, "big")):
            request.credited_at = self._now
            if request.held:
                self._send_held(request)

    def _on_feedback(self, stream: int, kind: int, request_id: int, generation: int, content: bytes) -> None:
        try:
            item = self.feedback.receive(stream, kind, (request_id, generation), content)
        except KeyError:
            self._refuse("feedback on a channel that SETTINGS did not name", stream, kind, (request_id, generation))
            return
        if item is not None:
            request = self.find(request_id, generation) if request_id else None
            self._events.append(FeedbackReceived(item[0], request, item[1]))

    def _answer_control(self, priority: int, message: Message) -> None:
        """Answer what the peer did wrong; one that floods and does not read the answers is given up."""
        self._expect_answer(priority)
        self._outbox.post(priority, message)

    def _expect_answer(self, priority: int) -> None:
        if self._outbox.posted_bytes(priority) >= MAX_ANSWERS:
            raise RemoteProtocolError(
                f"{MAX_ANSWERS} bytes of answers wait to be read, and more of what they answer comes"
            )

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
        room = window.available
        ahead = MAX_AHEAD - request.lane.size
        if room > ahead:
            room = max(ahead, 0)
            if length > room:
                self.blocked[request] = None
        if length > room:
            # a view, so that what is long is not copied again with each credit
            view = memoryview(data)
            length = room
            request.held.append((kind, view[length:]))
            data = view[:length]
        window.sent += length
        for encoded in stream_records(kind, request.id, data, request.generation, self._content_size):
            self._outbox.add(request.lane, encoded)

    def _close_content(self, request: Request, kind: int) -> None:
        """Send the empty record that closes a stream, once what the request holds has gone."""
        if request.held:
            request.held.append((kind, b""))
        else:
            self._outbox.add(request.lane, record(kind, request.id, b"", request.generation))

    def _send_end(self, request: Request, encoded: bytes) -> None:
        """The same of END_REQUEST, which is given as whole records."""
        if request.held:
            request.held.append((RecordType.END_REQUEST, encoded))
        else:
            self._outbox.add(request.lane, encoded)
            self._sent_end(request)

    def may_resume(self) -> bool:
        """Whether resume() would send something on."""
        return any(request.lane.size <= MAX_AHEAD // 2 for request in self.blocked)

    def resume(self) -> list[Event]:
        """Send on what waited for SCTP to take what was before it; the events that this causes. To be called after
        take(), when may_resume() says so."""
        for request in tuple(self.blocked):
            if request.lane.size <= MAX_AHEAD // 2:
                del self.blocked[request]
                if request.held:
                    self._send_held(request)
        events, self._events = self._events, []
        return events

    def _send_held(self, request: Request) -> None:
        held, request.held = request.held, []
        kind = 0
        for position, (kind, content) in enumerate(held):
            if kind == RecordType.END_REQUEST:
                self._send_end(request, bytes(content))
            elif content:
                self._send_content(request, kind, content)
            else:
                self._close_content(request, kind)
            if request.held:
                request.held.extend(held[position + 1 :])
                return
        if kind != RecordType.END_REQUEST:
            self._events.append(Writable(request))

    def _sent_end(self, request: Request) -> None:
        """END_REQUEST stands in the lane; the application side's matter."""

    def _discard_output(self, request: Request) -> None:
        """Forget what the request was still to send."""
        self.blocked.pop(request, None)
        request.held.clear()
        request.lane.clear()

    def _close_lanes(self, request: Request) -> None:
        """The request sends nothing more: give its streams back when what is queued on them has gone."""
        lanes: list[Lane] = [request.lane] if request.lane.queued else []
        if request.feedback is not None:
            lanes += [lane for lane in request.feedback.values() if lane.queued]
            request.feedback = None  # what comes later gets a lane that is not of the request's set
        if request.stderr is not None and request.stderr.queued:
            lanes.append(request.stderr)
        if not lanes:
            self.pool.release(request.streams)
            return
        drained = _Release(self.pool, request.streams, len(lanes))
        for lane in lanes:
            self._outbox.close(lane, drained)

    def takes(self, channel: str) -> bool:
        """Whether the peer takes the channel; nobody knows before its SETTINGS, and then it is True."""
        return self.peer_settings is None or channel in self.feedback.taken
