"""The queues before SCTP's: what waits to be sent, and in which order it goes.

SCTP's send buffer is one for all streams, and little can overtake what is in it. So bulk waits here, and SCTP is given
only what it can send soon (`Association.room`). A *lane* is a queue of whole records for one stream; they go out in
order, as many to a message as fit.

Between priorities the lower number goes first, always. Within one priority lanes alternate, a message each, and a lane
that has just become busy goes before those that have been busy for longer (the "new flows" of FQ-CoDel, RFC 8290
section 4.2), unless its content is long: a short answer does not wait behind two hundred downloads. A lane that has
become empty waits for one more turn before it counts as new again, so that a lane which is refilled as fast as it is
emptied cannot always go first (section 4.2, too). Each of the others has a turn for MOST_PASSED bytes of new ones; till
SCTP has room for it no more go in the room of short content, or SCTP, too, would send those first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ..common.bounded_queue import BoundedQueue
from ..sctp.carrier import Message
from .channels import Channel, ChannelFigures, Priority, events_of
from .records import RecordType, record

__all__ = ["MESSAGE_OVERHEAD", "PPID", "FeedbackLane", "Lane", "Outbox"]

PPID: Final = 0x46434749
"""Payload protocol identifier of FastCGI records: "FCGI". IANA has assigned none; its numbers are small."""

MESSAGE_OVERHEAD: Final = 200
"""Bytes of memory of a message beyond its data: a `Message`, the header of its bytes, its place in a queue."""
MOST_PASSED: Final = 2 << 20
"""Bytes of new lanes of content that go before a message of each that has been busy for longer: 17 s at 1 Mbit/s."""


class Lane:
    """Records of one sender on one stream, in order."""

    __slots__ = ("is_long", "on_drained", "priority", "queue", "queued", "sent", "size", "stream")

    lifetime: float | None = None
    unordered = False
    unfinished = False
    """Whether the last message ends inside an item: the lane then keeps its turn."""

    def __init__(self, stream: int, priority: int) -> None:
        self.stream = stream
        self.priority = priority
        self.is_long = False
        """Whether it never counts as new: those whose content is short go first."""
        self.queue: list[bytes] = []
        """At most `MAX_AHEAD` bytes of content, or a message of feedback."""
        self.size = 0
        """Bytes in the queue."""
        self.queued = False
        """Whether the lane stands in the outbox."""
        self.sent = False
        """Whether anything of the lane has been taken for sending."""
        self.on_drained: Callable[[], None] | None = None
        """Called once, when a closed lane has nothing left to send."""

    def waiting(self) -> bool:
        return bool(self.queue)

    def take(self, limit: int) -> bytes:
        """The next message: whole records, together at most `limit` bytes unless the first alone is longer."""
        queue = self.queue
        self.sent = True
        count = self._fitting(limit)
        message = queue[0] if count == 1 else b"".join(queue[:count])
        if count == len(queue):
            queue.clear()
        else:
            del queue[:count]
        self.size -= len(message)
        return message

    def _fitting(self, limit: int) -> int:
        """The number of records in the next message."""
        size = 0
        for count, encoded in enumerate(self.queue):
            size += len(encoded)
            if size > limit and count:
                return count
        return len(self.queue)

    def clear(self) -> None:
        """Drop what waits."""
        self.queue.clear()
        self.size = 0


class FeedbackLane(Lane):
    """The items of one channel, bounded; records are made when they go, so a dropped item costs nothing.

    An item longer than a message keeps the lane's turn until all of it has gone. The receiver then has few unfinished
    items to hold, and the parts of two never mix, even on a stream that two lanes share. Its messages have no lifetime,
    because SCTP could give up a part in the middle, which would join the halves of two items, and are ordered.
    """

    __slots__ = (
        *("channel", "content_size", "figures", "item_lifetime", "item_unordered", "items"),
        *("key", "kind", "lifetime", "unfinished", "unordered"),
    )

    def __init__(
        self,
        stream: int,
        priority: int,
        items: BoundedQueue,
        kind: int,
        key: tuple[int, int],
        content_size: int,
        channel: Channel | None = None,
        figures: ChannelFigures | None = None,
        *,
        lifetime: float | None = None,
        unordered: bool = False,
    ) -> None:
        """`kind` is the type of the records, `key` the request's id and generation; records have at most `content_size`
        bytes of content."""
        super().__init__(stream, priority)
        self.items = items
        self.kind = kind
        self.key = key
        self.content_size = content_size
        self.channel = channel
        self.figures = figures
        self.item_lifetime = self.lifetime = lifetime
        self.item_unordered = self.unordered = unordered
        self.unfinished = False

    def waiting(self) -> bool:
        return bool(self.queue) or bool(self.items)

    def take(self, limit: int) -> bytes:
        continued = self.unfinished
        while self.size < limit and self.items:
            self._encode(self.items.pop())
        last = self.queue[self._fitting(limit) - 1]
        self.unfinished = last[1] >= RecordType.FEEDBACK_MORE
        self.lifetime = None if continued or self.unfinished else self.item_lifetime
        self.unordered = self.item_unordered and not (continued or self.unfinished)
        return super().take(limit)

    def _encode(self, item: bytes) -> None:
        if self.channel is not None and self.figures is not None:
            # as the channel was declared when the lane was made
            self.figures.sent += events_of(item, self.channel.acknowledged, self.channel.counted)
            self.figures.sent_bytes += len(item)
        request_id, generation = self.key
        length = len(item)
        for start in range(0, length, self.content_size):
            stop = start + self.content_size
            kind = self.kind if stop >= length else self.kind + RecordType.FEEDBACK_MORE - RecordType.FEEDBACK
            encoded = record(kind, request_id, item[start:stop], generation)
            self.queue.append(encoded)
            self.size += len(encoded)


class Outbox:
    """All lanes of one association."""

    def __init__(self) -> None:
        self._classes: list[tuple[deque[Message], deque[Lane], deque[Lane]]] = [
            (deque(), deque(), deque()) for _ in Priority
        ]
        self._urgent = self._classes[: Priority.URGENT + 1]
        self._control = self._classes[: Priority.CONTROL + 1]
        self._content = self._classes[Priority.CONTENT]
        self.posted = 0
        """Bytes of memory of the waiting messages that `post` was given."""
        self._passed = 0
        """Bytes of new lanes of content since an old one last had its turn."""
        self.open = False
        """False until the peer's SETTINGS have arrived: only control messages go."""
        self._closed = False

    def post(self, priority: int, message: Message) -> None:
        """Queue a message that belongs to no lane: control, credit, a refusal."""
        if not self._closed:
            self._classes[priority][0].append(message)
            self.posted += len(message.data) + MESSAGE_OVERHEAD

    def add(self, lane: Lane, encoded: bytes) -> None:
        """Queue a whole record on a lane."""
        if not self._closed:
            lane.queue.append(encoded)
            lane.size += len(encoded)
            self.wake(lane)

    def wake(self, lane: Lane) -> None:
        """Queue a lane that has something to send."""
        if not lane.queued and not self._closed:
            lane.queued = True
            self._classes[lane.priority][1].append(lane)

    def close(self, last: Message | None = None) -> None:
        """Drop what waits and send nothing more but `last`."""
        for queues in self._classes:
            for queue in queues:
                queue.clear()
        self._closed, self.posted = True, 0
        if last is not None:
            self._control[0][0].append(last)
            self.posted = len(last.data) + MESSAGE_OVERHEAD

    def _sendable(self, urgent: bool) -> list[tuple[deque[Message], deque[Lane], deque[Lane]]]:
        return self._control if not self.open else self._urgent if urgent else self._classes

    def waiting(self, urgent: bool = False) -> bool:
        """Whether anything, or anything urgent, waits; a lane that was cleared since counts, too."""
        return any(messages or new or old for messages, new, old in self._sendable(urgent))

    def waiting_bytes(self) -> int:
        """Bytes of the records that wait; items of feedback that are not records yet are not counted."""
        size = 0
        for messages, new, old in self._classes:
            size += sum(len(message.data) for message in messages)
            size += sum(len(encoded) for lanes in (new, old) for lane in lanes for encoded in lane.queue)
        return size

    def take(self, room: int, limit: int, urgent: bool = False, begins: bool = False) -> list[Message]:
        """Messages to send now, the most urgent first: about `room` bytes, `limit` bytes each at most. The last one may
        go beyond `room`, so any room above 0 makes progress. `urgent`: only those; `begins`: only the first of content
        that is not long."""
        taken: list[Message] = []
        for messages, new, old in (self._content,) if begins and self.open else self._sendable(urgent):
            while room > 0 and messages:
                message = messages.popleft()
                size = len(message.data)
                room -= size
                self.posted -= size + MESSAGE_OVERHEAD
                taken.append(message)
            while room > 0 and (new or old):
                turn = bool(old) and (not new or (self._passed * len(old) >= MOST_PASSED and old is self._content[2]))
                if turn and begins:
                    break
                if new and new[0].is_long:
                    old.append(new.popleft())
                    continue
                lane = old.popleft() if turn else new.popleft()
                if not lane.waiting():
                    # cleared, or all its items were dropped
                    self._leave(lane)
                    continue
                data = lane.take(limit)
                room -= len(data)
                taken.append(Message(lane.stream, data, PPID, lane.unordered, lane.lifetime))
                if old is self._content[2]:
                    self._passed = self._passed + len(data) if old and not turn else 0
                if lane.unfinished:
                    new.appendleft(lane)
                elif lane.waiting() or (old and lane.on_drained is None):
                    old.append(lane)
                else:
                    self._leave(lane)
        return taken

    def drop_feedback(self) -> None:
        """Drop the items that wait; an item of which a part has gone counts as sent."""
        for _, new, old in self._classes:
            for lane in (*new, *old):
                if isinstance(lane, FeedbackLane):
                    lane.items.drop_all()

    def close_lane(self, lane: Lane, on_drained: Callable[[], None]) -> None:
        """Call `on_drained` when all of the lane has been taken, at once if it has: nothing more will be added."""
        if lane.queued and not self._closed:
            lane.on_drained = on_drained
        else:
            on_drained()

    @staticmethod
    def _leave(lane: Lane) -> None:
        lane.queued = False
        if lane.on_drained is not None:
            on_drained, lane.on_drained = lane.on_drained, None
            on_drained()
