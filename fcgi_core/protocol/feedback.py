"""The plugin channels of one association: what waits on them to be sent, and the items that arrive, put together.

Part of `Connection`, which knows the peer and the requests; here are the channels' numbers, queues, lanes and figures.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..errors import LocalProtocolError, RemoteProtocolError
from .channels import ASIDE, MAX_CHANNELS, MAX_ITEM, WITHDRAWN, Budget, Channel, FeedbackQueue, Scope, events_of
from .outbox import FeedbackLane
from .records import RecordType, record
from .request import Request

__all__ = ["ChannelFigures", "Feedback"]

MAX_FEEDBACK_WAITING = 64 << 20
"""Bytes of feedback that may wait on one association, all channels and requests together."""
LEAST_URGENT = 7
"""What is not known to be more urgent."""
PARTS_OVERHEAD = 400
"""Bytes of memory of an unfinished item beside its own: its place in a dictionary, and a buffer that may grow."""
MAX_UNFINISHED_ITEMS = 256
"""Items of feedback of which the first part has come and the last has not, at once."""
MAX_UNFINISHED_BYTES = 16 << 20
"""Bytes of those items together. Our own sender has one unfinished for each priority; the rest is room for what SCTP
delivers out of order between streams, and its receive buffer has 4 MiB."""


class ChannelFigures:
    """What one channel carried on one association: events, which are items unless the channel is counted."""

    __slots__ = ("dropped", "received", "received_bytes", "sent", "sent_bytes")

    def __init__(self) -> None:
        self.sent = 0
        self.sent_bytes = 0
        self.received = 0
        self.received_bytes = 0
        self.dropped: dict[int, int] = {}
        """By urgency."""


class Feedback:
    """Channels in both directions. Urgency is a small number, lower is more urgent."""

    def __init__(self, outgoing: Sequence[Channel], incoming: Sequence[Channel]) -> None:
        """`outgoing` are numbered in their order. LocalProtocolError if they are too many."""
        self.outgoing: list[Channel] = []
        """By number; those that were withdrawn keep theirs."""
        self.accepts: tuple[str, ...] = ()
        self.taken: frozenset[str] = frozenset()
        """Names of the channels to send on that the peer takes."""
        self.figures: dict[str, ChannelFigures] = {}
        self.budget = Budget(MAX_FEEDBACK_WAITING)
        self._declared: dict[str, Channel] = {}
        self._incoming: dict[str, Channel] = {}
        self._numbers: dict[str, int] = {}
        self._since: dict[str, int] = {}
        """By name of a channel to send on: the serial of the SETTINGS that named it."""
        self._peer_channels: list[str | None] = []
        self._peer_names: list[str] = []
        self._peer_flags: list[tuple[str, ...]] = []
        self._parts: dict[tuple[int, int, int, int], bytearray] = {}
        self._parts_bytes = 0
        self._association_lanes: dict[int, FeedbackLane] = {}
        self.change(outgoing, incoming, 0)

    def change(
        self, outgoing: Sequence[Channel], incoming: Sequence[Channel], serial: int, aside: Collection[str] = ()
    ) -> bool:
        """The channels from now on, to be named in the SETTINGS that have this serial; whether anything is different.
        Those of `incoming` whose names are in `aside` are known, and the peer is told to send nothing on them for now;
        what is under way on them still comes.

        What waits on a channel that is withdrawn still goes. One that is declared in another way than before gets
        another number, so that nobody takes an item of the old kind for one of the new. LocalProtocolError if no number
        is left, and nothing has changed.
        """
        accepts = tuple(channel.describe() + (ASIDE if channel.name in aside else "") for channel in incoming)
        now = [self.outgoing[number] for number in self._numbers.values()]
        fresh = [channel for channel in outgoing if channel not in now]
        kept = [channel for channel in now if channel in outgoing]
        if not fresh and len(kept) == len(now) and accepts == self.accepts:
            return False
        again = {channel: number for number, channel in enumerate(self.outgoing) if channel in fresh}
        if len(self.outgoing) + len(fresh) - len(again) > MAX_CHANNELS:
            raise LocalProtocolError(f"more channels than one side can number: {MAX_CHANNELS} is all")
        self._numbers = {channel.name: self._numbers[channel.name] for channel in kept}
        for channel in fresh:
            number = again.get(channel)
            if number is None:
                number = len(self.outgoing)
                self.outgoing.append(channel)
            self._numbers[channel.name] = number
            self._since[channel.name] = serial
        self.accepts = accepts
        self._incoming = {channel.name: channel for channel in incoming}
        for channel in (*outgoing, *incoming):
            self._declared[channel.name] = channel
            self.figures.setdefault(channel.name, ChannelFigures())
        return True

    def close(self) -> None:
        """The association is gone: forget what waits and what came in part. The figures stay."""
        self._parts.clear()
        self._association_lanes.clear()

    def descriptions(self) -> tuple[str, ...]:
        """For SETTINGS: the channels that this side sends on, by number; those withdrawn too, for items that are still
        under way."""
        return tuple(
            channel.describe() + ("" if self._numbers.get(channel.name) == number else WITHDRAWN)
            for number, channel in enumerate(self.outgoing)
        )

    def number(self, channel: str, request: Request | None) -> int:
        """The number of a channel to send on; LocalProtocolError if it was not declared, or for the other scope."""
        number = self._numbers.get(channel)
        if number is None:
            raise LocalProtocolError(f"channel {channel!r} was not declared for sending on this side")
        scope = self.outgoing[number].scope
        if (scope is Scope.REQUEST) is not (request is not None):
            raise LocalProtocolError(f"channel {channel}: its scope is {scope.value}, the call was for the other")
        return number

    def drop(self, channel: str, urgency: int, item: bytes) -> None:
        """Count an item that is not sent."""
        dropped = self.figures[channel].dropped
        dropped[urgency] = dropped.get(urgency, 0) + self._events(self._declared[channel], item)

    def refuse(self, channel: str, item: bytes) -> None:
        """What came is not passed on after all: it counts as dropped, and not as received."""
        figures = self.figures[channel]
        events = self._events(self._declared[channel], item)
        figures.received -= events
        figures.received_bytes -= len(item)
        figures.dropped[LEAST_URGENT] = figures.dropped.get(LEAST_URGENT, 0) + events

    def has_room(self, channel: str, length: int) -> bool:
        """Whether the queue of a channel of association scope takes an item of this length, and nothing is dropped for
        it."""
        lane = self._association_lanes.get(self._numbers.get(channel, -1))
        return self.budget.used + length <= self.budget.limit and (
            lane is None or lane.items.size + length <= lane.items.bound
        )

    def filled(self, channel: str) -> float:
        """How full the queue of a channel of association scope is, 0 to 1."""
        number = self._numbers.get(channel, -1)
        lane = self._association_lanes.get(number)
        return 0.0 if lane is None else lane.items.size / lane.items.bound

    def take_back(self, channel: str) -> list[tuple[bytes, int]]:
        """Take back what waits on a channel of association scope: items with their urgency."""
        lane = self._association_lanes.get(self._numbers.get(channel, -1))
        return [] if lane is None else lane.items.pop_all()

    @staticmethod
    def _events(channel: Channel, item: bytes) -> int:
        """What an item counts for as it travels: that of an acknowledged channel has its number first."""
        return events_of(item, channel.acknowledged, channel.counted)

    def lanes(self, request: Request | None) -> dict[int, FeedbackLane]:
        """The lanes of a request, or those of association scope, by channel number; a request's further lanes on a
        channel follow at a distance of MAX_CHANNELS."""
        if request is None:
            return self._association_lanes
        if request.feedback is None:
            request.feedback = {}
        return request.feedback

    def make_lane(self, number: int, request: Request | None, stream: int, size: int, extra: int = 0) -> FeedbackLane:
        """A lane for a channel on `stream`; its records have at most `size` bytes of content. `extra`, if not 0, is the
        number of a further lane that the request has on the channel."""
        channel = self.outgoing[number]
        figures = self.figures[channel.name]
        request_id, generation = (0, 0) if request is None else request.key

        def dropped(urgency: int, item: bytes) -> None:
            self.drop(channel.name, urgency, item)

        kind = RecordType.FEEDBACK + number

        def encode(item: bytes) -> list[bytes]:
            figures.sent += self._events(channel, item)
            figures.sent_bytes += len(item)
            if len(item) <= size:
                return [record(kind, request_id, item, generation)]
            parts = [item[start : start + size] for start in range(0, len(item), size)]
            last = parts.pop()
            encoded = [record(RecordType.FEEDBACK_MORE + number, request_id, part, generation) for part in parts]
            encoded.append(record(kind, request_id, last, generation))
            return encoded

        lane = self.lanes(request)[number + extra * MAX_CHANNELS] = FeedbackLane(
            stream,
            channel.priority,
            FeedbackQueue(channel.queue_bytes, dropped, self.budget, channel.when_full),
            encode,
            lifetime=channel.lifetime,
            unordered=not channel.ordered,
        )
        return lane

    def meet(self, peer_channels: Sequence[str], peer_accepts: Sequence[str], seen: int) -> None:
        """What the peer's SETTINGS say: the channels it sends on, described, by number; those it takes, described or by
        name; and which of our SETTINGS it had seen then."""
        self._peer_names = [description.partition(";")[0] for description in peer_channels]
        self._peer_flags = [tuple(description.split(";")) for description in peer_channels]
        self._peer_channels = []
        for name, description in zip(self._peer_names, peer_channels, strict=True):
            own = self._incoming.get(name)
            self._peer_channels.append(name if own is not None and own.is_described_by(description) else None)
        accepted = {description.partition(";")[0]: description for description in peer_accepts}
        self.taken = frozenset(
            name
            for name, number in self._numbers.items()
            # nothing is sent on a channel before the peer is known to have been told its number
            if self._since[name] <= seen
            and not (description := accepted.get(name, ASIDE)).endswith(ASIDE)
            and self.outgoing[number].is_described_by(description)
        )

    def comes_after_requests(self) -> bool:
        """Whether the peer sends on a channel that is taken here: an item may belong to a request that is over."""
        return any(name is not None for name in self._peer_channels)

    def peer_number(self, channel: str) -> int | None:
        """The peer's number of a channel that it sends on; None if it does not."""
        return self._peer_channels.index(channel) if channel in self._peer_channels else None

    @property
    def unfinished_bytes(self) -> int:
        """Bytes of memory of items of which the last part has not come."""
        return sum([len(parts) + PARTS_OVERHEAD for parts in self._parts.values()]) if self._parts else 0

    def receive(self, stream: int, kind: int, key: tuple[int, int], content: bytes) -> tuple[str, bytes] | None:
        """Take a FEEDBACK or FEEDBACK_MORE record; the channel and the item that it completes, if one and if it is
        taken here. KeyError for a channel that SETTINGS did not name; RemoteProtocolError if it is beyond a bound.
        """
        more = kind >= RecordType.FEEDBACK_MORE
        number = kind - (RecordType.FEEDBACK_MORE if more else RecordType.FEEDBACK)
        if number >= len(self._peer_channels):
            raise KeyError(number)
        if more or self._parts:
            whole = self._join(stream, kind, (stream, number, *key), more, content)
            if whole is None:
                return None
            content = whole
        channel = self._peer_channels[number]
        if channel is None:
            # nothing here takes it; if the peer could not know that yet, it counted the item as sent
            if (unwanted := self.figures.get(self._peer_names[number])) is not None:
                flags = self._peer_flags[number]
                events = events_of(content, "acknowledged" in flags, "counted" in flags)
                unwanted.dropped[LEAST_URGENT] = unwanted.dropped.get(LEAST_URGENT, 0) + events
            return None
        figures = self.figures[channel]
        figures.received += self._events(self._declared[channel], content)
        figures.received_bytes += len(content)
        return channel, content

    def _join(self, stream: int, kind: int, key: tuple[int, int, int, int], more: bool, content: bytes) -> bytes | None:
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
        self._parts_bytes += len(content)
        if len(parts) > MAX_ITEM:
            raise RemoteProtocolError(
                f"an item of feedback is longer than {MAX_ITEM} bytes", stream=stream, record_type=kind
            )
        if more:
            if self._parts_bytes > MAX_UNFINISHED_BYTES:
                raise RemoteProtocolError(
                    f"unfinished items of feedback have more than {MAX_UNFINISHED_BYTES} bytes together",
                    stream=stream,
                    record_type=kind,
                )
            return None
        self._parts_bytes -= len(parts)
        del self._parts[key]
        return bytes(parts)
