"""The plugin channels of one association: what waits on them to be sent, and the items that arrive, put together.

Part of `Connection`, which knows the peer and the requests; here are the channels' numbers, queues, lanes and figures.
"""

from __future__ import annotations

from collections.abc import Sequence

from .channels import MAX_CHANNELS, MAX_ITEM, Budget, Channel, FeedbackQueue, Scope
from .errors import LocalProtocolError, RemoteProtocolError
from .outbox import FeedbackLane
from .records import RecordType, record
from .request import Request

__all__ = ["ChannelFigures", "Feedback"]

MAX_FEEDBACK_WAITING = 64 << 20
"""Bytes of feedback that may wait on one association, all channels and requests together."""
MAX_UNFINISHED_ITEMS = 256
"""Items of feedback of which the first part has come and the last has not, at once."""


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
        if len(outgoing) > MAX_CHANNELS:
            raise LocalProtocolError(f"{len(outgoing)} channels: {MAX_CHANNELS} is all one side can have")
        self.outgoing = list(outgoing)
        self.accepts = tuple(channel.name for channel in incoming)
        self.figures = {channel.name: ChannelFigures() for channel in (*outgoing, *incoming)}
        self.budget = Budget(MAX_FEEDBACK_WAITING)
        self._declared = {channel.name: channel for channel in (*outgoing, *incoming)}
        self._numbers = {channel.name: number for number, channel in enumerate(outgoing)}
        self._peer_channels: list[str | None] = []
        self._parts: dict[tuple[int, int, int, int], bytearray] = {}
        self._association_lanes: dict[int, FeedbackLane] = {}

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

    def filled(self, channel: str) -> float:
        """How full the queue of a channel of association scope is, 0 to 1."""
        lane = self._association_lanes.get(self._numbers[channel])
        return 0.0 if lane is None else lane.items.size / lane.items.bound

    def unsent(self) -> dict[str, list[tuple[bytes, int]]]:
        """Take back what waits on channels of association scope: items with their urgency, by channel."""
        return {self.outgoing[number].name: lane.items.pop_all() for number, lane in self._association_lanes.items()}

    @staticmethod
    def _events(channel: Channel, item: bytes) -> int:
        """What an item counts for as it travels: that of an acknowledged channel has its number first."""
        return channel.events(item, 8 if channel.acknowledged else 0) if channel.counted else 1

    def lanes(self, request: Request | None) -> dict[int, FeedbackLane]:
        """The lanes of a request, or those of association scope, by channel number."""
        if request is None:
            return self._association_lanes
        if request.feedback is None:
            request.feedback = {}
        return request.feedback

    def make_lane(self, number: int, request: Request | None, stream: int, size: int) -> FeedbackLane:
        """A lane for a channel on `stream`; its records have at most `size` bytes of content."""
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

        lane = self.lanes(request)[number] = FeedbackLane(
            stream,
            channel.priority,
            FeedbackQueue(channel.queue_bytes, dropped, self.budget),
            encode,
            lifetime=channel.lifetime,
            unordered=not channel.ordered,
        )
        return lane

    def meet(self, peer_channels: Sequence[str]) -> None:
        """The names of the channels that the peer sends on, by number."""
        self._peer_channels = [name if name in self.accepts else None for name in peer_channels]

    def comes_after_requests(self) -> bool:
        """Whether the peer sends on a channel of request scope that is taken here: what it sends may outlast them."""
        taken = (self._declared[name] for name in self._peer_channels if name is not None)
        return any(channel.scope is Scope.REQUEST for channel in taken)

    def peer_number(self, channel: str) -> int | None:
        """The peer's number of a channel that it sends on; None if it does not."""
        return self._peer_channels.index(channel) if channel in self._peer_channels else None

    def receive(self, stream: int, kind: int, key: tuple[int, int], content: bytes) -> tuple[str, bytes] | None:
        """Take a FEEDBACK or FEEDBACK_MORE record; the channel and the item that it completes, if one and if it is
        taken here. KeyError for a channel that SETTINGS did not name; RemoteProtocolError if it is beyond a bound.
        """
        more = kind >= RecordType.FEEDBACK_MORE
        number = kind - (RecordType.FEEDBACK_MORE if more else RecordType.FEEDBACK)
        if number >= len(self._peer_channels):
            raise KeyError(number)
        channel = self._peer_channels[number]
        if channel is None:
            return None  # named, but nobody here takes it; the peer should not have sent it
        if more or self._parts:
            whole = self._join(stream, kind, (stream, number, *key), more, content)
            if whole is None:
                return None
            content = whole
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
        if len(parts) > MAX_ITEM:
            raise RemoteProtocolError(
                f"an item of feedback is longer than {MAX_ITEM} bytes", stream=stream, record_type=kind
            )
        if more:
            return None
        del self._parts[key]
        return bytes(parts)
