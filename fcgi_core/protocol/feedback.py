"""The plugin channels of one association: their numbers, queues and figures, and the items that arrive in parts.

Part of `Connection`, which knows the peer and the requests.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..common.bounded_queue import BoundedQueue, Budget
from ..errors import LocalProtocolError, RemoteProtocolError
from .channels import ASIDE, MAX_CHANNELS, MAX_ITEM, WITHDRAWN, Channel, ChannelFigures, Scope, events_of
from .outbox import FeedbackLane
from .records import RecordType
from .request import Request

__all__ = ["REFERENCE", "Feedback"]

MAX_FEEDBACK_WAITING = 64 << 20
"""Bytes of feedback that may wait on one association, all channels and requests together."""
LEAST_URGENT = 7
"""Urgency of items of which no other is known."""
REFERENCE = 8
"""Bytes of a request's number before an item that another association than the request's carries."""
PARTS_OVERHEAD = 400
"""Bytes of memory of an unfinished item beyond its data: its place in a dictionary, and a buffer that may grow."""
MAX_UNFINISHED_ITEMS = 256
"""Unfinished items at once: those of which a part has arrived and the last has not."""
MAX_UNFINISHED_BYTES = 16 << 20
"""Bytes of those items together, without PARTS_OVERHEAD. Our own sender has one unfinished for each priority; the rest
is room for what SCTP delivers out of order between streams, and its receive buffer has 4 MiB."""


class _PeerChannel:
    """A channel that the peer sends on, as its SETTINGS describe it."""

    __slots__ = ("accepted", "flags", "name")

    def __init__(self, description: str, own: Channel | None) -> None:
        self.name, *self.flags = description.split(";")
        self.accepted = own is not None and own.is_described_by(description)
        """Whether a channel of this side is declared in the same way."""


class Feedback:
    """Channels in both directions. Urgency is a small number, lower is more urgent."""

    def __init__(self, outgoing: Sequence[Channel], incoming: Sequence[Channel]) -> None:
        """`outgoing` get their numbers in this order. LocalProtocolError if they are too many."""
        self.outgoing: list[Channel] = []
        """By number; a removed channel keeps its number."""
        self.accepts: tuple[str, ...] = ()
        self.taken: frozenset[str] = frozenset()
        """Names of the channels to send on that the peer accepts."""
        self.lapsed: frozenset[str] = frozenset()
        """Those that it has not accepted for a while since the user last looked: it discarded what came meanwhile."""
        self.figures: dict[str, ChannelFigures] = {}
        self.budget = Budget(MAX_FEEDBACK_WAITING)
        """What waits to be sent, all channels and requests together."""
        self._incoming: dict[str, Channel] = {}
        self._numbers: dict[str, int] = {}
        self._since: dict[str, int] = {}
        """By name of a channel to send on: the serial of the SETTINGS that named it."""
        self._peer_channels: list[_PeerChannel] = []
        self.unfinished = Budget(MAX_UNFINISHED_BYTES + MAX_UNFINISHED_ITEMS * PARTS_OVERHEAD)
        """Memory of the items of which the last part has not arrived."""
        self._parts: dict[tuple[int | None, int, int, int], bytearray] = {}
        self._association_lanes: dict[int, FeedbackLane] = {}
        self.change(outgoing, incoming, 0)

    def change(
        self, outgoing: Sequence[Channel], incoming: Sequence[Channel], serial: int, aside: Collection[str] = ()
    ) -> bool:
        """Replace the channels, to be named in the SETTINGS of this serial; whether anything has changed. `aside` has
        names of incoming channels on which the peer is to send nothing for now; items under way still arrive.

        What waits on a removed channel still goes. A channel that is declared in another way than before gets another
        number, so that items of the old kind are not read as the new kind. LocalProtocolError if no number is left;
        nothing has changed then.
        """
        accepts = tuple(channel.describe() + (ASIDE if channel.name in aside else "") for channel in incoming)
        now = [self.outgoing[number] for number in self._numbers.values()]
        fresh = [channel for channel in outgoing if channel not in now]
        kept = [channel for channel in now if channel in outgoing]
        if not fresh and len(kept) == len(now) and accepts == self.accepts:
            return False
        again = {channel: number for number, channel in enumerate(self.outgoing) if channel in fresh}
        if len(self.outgoing) + len(fresh) - len(again) > MAX_CHANNELS:
            raise LocalProtocolError(f"more than {MAX_CHANNELS} channels: one side cannot number more")
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
            self.figures.setdefault(channel.name, ChannelFigures(channel)).channel = channel
        return True

    def close(self) -> None:
        """Forget what waits and what arrived in part: the association is gone. The figures stay."""
        self._parts.clear()
        self.unfinished.used = 0
        self._association_lanes.clear()

    def descriptions(self) -> tuple[str, ...]:
        """For SETTINGS: the channels that this side sends on, by number, and the removed ones, which items under way
        still name."""
        return tuple(
            channel.describe() + ("" if self._numbers.get(channel.name) == number else WITHDRAWN)
            for number, channel in enumerate(self.outgoing)
        )

    def number(self, channel: str, of_request: bool) -> int:
        """The number of a channel to send on; LocalProtocolError if it was not declared or has the other scope."""
        number = self._numbers.get(channel)
        if number is None:
            raise LocalProtocolError(f"channel {channel!r} was not declared for sending on this side")
        scope = self.outgoing[number].scope
        if (scope is Scope.REQUEST) is not of_request:
            what = f"its scope is {scope.value}; only a channel of request scope goes with a request"
            raise LocalProtocolError(f"channel {channel}: {what}")
        return number

    def refuse(self, channel: str, item: bytes) -> None:
        """Count a received item as dropped instead: it is not passed on after all."""
        figures = self.figures[channel]
        figures.received -= figures.events(item)
        figures.received_bytes -= len(item)
        figures.drop(LEAST_URGENT, item)

    def _lane(self, channel: str) -> FeedbackLane | None:
        return self._association_lanes.get(self._numbers.get(channel, -1))

    def has_room(self, channel: str, length: int) -> bool:
        """Whether the queue of a channel of association scope has room for an item of this length, dropping nothing."""
        lane = self._lane(channel)
        return self.budget.used + length <= self.budget.limit and (
            lane is None or lane.items.size + length <= lane.items.bound
        )

    def filled(self, channel: str) -> float:
        """How full the queue of a channel of association scope is, 0 to 1."""
        lane = self._lane(channel)
        return 0.0 if lane is None else lane.items.size / lane.items.bound

    def take_back(self, channel: str) -> list[tuple[bytes, int]]:
        """Remove and return what waits on the stream of a channel that no request has: items with their urgency."""
        lane = self._lane(channel)
        return [] if lane is None else lane.items.pop_all()

    def lanes(self, request: Request | None) -> dict[int, FeedbackLane]:
        """The lanes of a request, or those of association scope, by the channel's number; further lanes of a request on
        a channel follow at a distance of MAX_CHANNELS."""
        if request is None:
            return self._association_lanes
        if request.feedback is None:
            request.feedback = {}
        return request.feedback

    def make_lane(self, number: int, request: Request | None, stream: int, size: int, extra: int = 0) -> FeedbackLane:
        """Make a lane for a channel on `stream`, with records of at most `size` bytes of content. `extra`, if not 0, is
        the number of a further lane of the request on the channel."""
        channel = self.outgoing[number]
        figures = self.figures[channel.name]
        lane = self.lanes(request)[number + extra * MAX_CHANNELS] = FeedbackLane(
            stream,
            channel.priority,
            BoundedQueue(channel.queue_bytes, figures.drop, self.budget, channel.when_full),
            RecordType.FEEDBACK + number,
            (0, 0) if request is None else request.key,
            size,
            channel,
            figures,
            lifetime=channel.lifetime,
            unordered=not channel.ordered,
        )
        return lane

    def meet(self, peer_channels: Sequence[str], peer_accepts: Sequence[str], seen: int) -> None:
        """Note what the peer's SETTINGS say: descriptions of the channels it sends on, by number; descriptions or names
        of the channels it accepts; the serial of our SETTINGS that it had seen."""
        self._peer_channels = [_PeerChannel(one, self._incoming.get(one.partition(";")[0])) for one in peer_channels]
        accepted = {description.partition(";")[0]: description for description in peer_accepts}
        before = self.taken
        self.taken = frozenset(
            name
            for name, number in self._numbers.items()
            # nothing is sent on a channel until the peer has seen its number
            if self._since[name] <= seen
            and not (description := accepted.get(name, ASIDE)).endswith(ASIDE)
            and self.outgoing[number].is_described_by(description)
        )
        self.lapsed |= before - self.taken

    def comes_after_requests(self) -> bool:
        """Whether the peer sends on a channel that is accepted here: an item may belong to a request that is over."""
        return any(channel.accepted for channel in self._peer_channels)

    def peer_number(self, channel: str) -> int | None:
        """The peer's number of a channel that it sends on; None if it does not."""
        return next((n for n, one in enumerate(self._peer_channels) if one.accepted and one.name == channel), None)

    def receive(
        self, stream: int | None, kind: int, key: tuple[int, int], content: bytes
    ) -> tuple[str, bytes, int] | None:
        """Take a FEEDBACK or FEEDBACK_MORE record; the channel, the item and the number before it (or 0), None if it
        completes none or the channel is not accepted. `stream` is None for an unordered message, which may come between
        the parts of an item. KeyError for an unnamed channel; RemoteProtocolError for an item beyond a bound.
        """
        more = kind >= RecordType.FEEDBACK_MORE
        number = kind - (RecordType.FEEDBACK_MORE if more else RecordType.FEEDBACK)
        if number >= len(self._peer_channels):
            raise KeyError(number)
        if more or self._parts:
            try:
                whole = self._join((stream, number, *key), more, content)
            except ValueError as error:
                raise RemoteProtocolError(str(error), stream=stream, record_type=kind) from None
            if whole is None:
                return None
            content = whole
        channel = self._peer_channels[number]
        figures = self.figures.get(channel.name)
        if not channel.accepted or figures is None:
            # the peer could not know that when it sent the item, and counted it as sent
            if figures is not None:
                events = events_of(content, "acknowledged" in channel.flags, "counted" in channel.flags)
                figures.add_dropped(LEAST_URGENT, events)
            return None
        figures.received_bytes += len(content)
        of_request = 0
        if not key[0] and figures.channel.scope is Scope.REQUEST:
            of_request, content = int.from_bytes(content[:REFERENCE], "big"), content[REFERENCE:]
            if not content:
                raise RemoteProtocolError("an item without its request", stream=stream, record_type=kind)
        figures.received += figures.events(content)
        return channel.name, content, of_request

    def _join(self, key: tuple[int | None, int, int, int], more: bool, content: bytes) -> bytes | None:
        """The item that this part completes, None if it completes none; ValueError beyond a bound."""
        parts = self._parts.get(key)
        if parts is None:
            if not more:
                return content
            if len(self._parts) >= MAX_UNFINISHED_ITEMS:
                raise ValueError(f"more than {MAX_UNFINISHED_ITEMS} items of feedback are unfinished")
            parts = self._parts[key] = bytearray()
            self.unfinished.used += PARTS_OVERHEAD
        parts += content
        within = self.unfinished.add(len(content))
        if len(parts) > MAX_ITEM:
            raise ValueError(f"an item of feedback is longer than {MAX_ITEM} bytes")
        if not more:
            self.unfinished.used -= len(parts) + PARTS_OVERHEAD
            del self._parts[key]
            return bytes(parts)
        if not within:
            raise ValueError(f"unfinished items of feedback have more than {MAX_UNFINISHED_BYTES} bytes together")
        return None
