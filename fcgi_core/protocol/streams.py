"""Stream plans: on which SCTP stream what is sent. Purely the sender's matter, for receivers go by the record header.

Streams 0 (silent, for security) and 1 (control) are nobody's; the pool is 2 and up. `per-channel`, the default, gives a
request a *set* of streams: one for content, one for STDERR once it writes any, one for each plugin channel of request
scope that it uses. A lost packet of a log line then holds up no content, and the other way round.

A stream that was released waits as long as possible before it is leased again (least recently used first): what the
last holder sent has most likely arrived, so a loss of his does not hold up the next. Streams keep their priority while
they wait, so that an SCTP stack is told of a priority once in a stream's life and not once a lease.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from .channels import Priority

__all__ = ["CONTROL_STREAM", "FIRST_STREAM", "SECURITY_STREAM", "Plan", "Shortages", "StreamPool", "StreamSet"]

SECURITY_STREAM = 0
CONTROL_STREAM = 1
FIRST_STREAM = 2


class Plan(Enum):
    """How work is divided over streams. All interoperate; docs/streams.md measures them against each other."""

    SINGLE = "single"
    """Everything on stream 2: what FastCGI on one TCP connection does."""
    PER_TYPE = "per-type"
    """One stream for all content, one for all STDERR, one for each channel."""
    PER_REQUEST = "per-request"
    """One stream for each request with all that belongs to it; association channels own one each."""
    PER_CHANNEL = "per-channel"
    """A set of streams for each request."""


@dataclass(slots=True)
class Shortages:
    """How often the pool was too short, by what was done about it."""

    asked: int = 0
    """More streams were asked for (RFC 6525)."""
    shared_feedback: int = 0
    """STDERR or a request channel went to a stream that others use."""
    shared_content: int = 0
    """The content of two requests went to one stream."""


class StreamSet:
    """The streams that one request holds. Filled as it needs them; most need but one."""

    __slots__ = ("content", "others")

    def __init__(self) -> None:
        self.content = 0
        """The stream of its content, 0 for none."""
        self.others: dict[Hashable, int] | None = None

    @property
    def streams(self) -> dict[Hashable, int]:
        """All of them, by what they carry."""
        return ({CONTENT: self.content} if self.content else {}) | (self.others or {})


CONTENT = "content"
STDERR = "stderr"


class StreamPool:
    """The outgoing streams of one association and who holds them."""

    def __init__(self, plan: Plan, outgoing: int) -> None:
        """`outgoing` is the number of streams the association has, 0 and 1 included."""
        self.plan = plan
        self.outgoing = outgoing
        self.shortages = Shortages()
        self.wanted = 0
        """Streams that the pool would like to have more; whoever asks the carrier sets it to 0."""
        self.priorities: list[tuple[int, int]] = []
        """(stream, priority) that the carrier is still to be told; whoever tells it empties the list."""
        self._fresh = FIRST_STREAM
        self._free: dict[int, deque[int]] = {}
        self._holders: dict[int, int] = {}
        self._priority: dict[int, int] = {}
        self._associations: dict[Hashable, int] = {}
        self._may_grow = True

    def grow(self, outgoing: int) -> None:
        """The association has `outgoing` streams now. If it asked for more and these are not, the peer refused."""
        if outgoing > self.outgoing:
            self.outgoing = outgoing
            self._may_grow = True

    def in_use(self) -> int:
        """Streams that requests hold now; those of association channels are not counted."""
        return len(self._holders)

    def holders(self) -> dict[int, int]:
        """Each stream that requests hold, with how many times they do."""
        return dict(self._holders)

    def association_streams(self) -> dict[Hashable, int]:
        """Each channel of association scope that has a stream, with that stream."""
        return dict(self._associations)

    def association_stream(self, channel: Hashable, priority: int) -> int:
        """The stream of a channel of association scope; it keeps it."""
        stream = self._associations.get(channel)
        if stream is None:
            if self.plan is Plan.SINGLE:
                stream = FIRST_STREAM
            else:
                stream = self._take(priority) or self._share(priority, content=False)
            self._associations[channel] = stream
        return stream

    def content_stream(self, streams: StreamSet) -> int:
        """The stream for the content of a request."""
        if streams.content:
            return streams.content
        if self.plan is Plan.SINGLE:
            stream = FIRST_STREAM
        elif self.plan is Plan.PER_TYPE:
            return self.association_stream(CONTENT, Priority.CONTENT)
        else:
            stream = self._take(Priority.CONTENT) or self._share(Priority.CONTENT, content=True)
            self._holders[stream] = self._holders.get(stream, 0) + 1
        streams.content = stream
        return stream

    def feedback_stream(self, streams: StreamSet, channel: Hashable, priority: int) -> int:
        """The stream for STDERR or a channel of request scope, for one request."""
        if streams.others is None:
            streams.others = {}
        stream = streams.others.get(channel, 0)
        if stream:
            return stream
        if self.plan is Plan.SINGLE:
            stream = FIRST_STREAM
        elif self.plan is Plan.PER_TYPE:
            return self.association_stream(channel, priority)
        elif self.plan is Plan.PER_REQUEST:
            return self.content_stream(streams)
        else:
            stream = self._take(priority) or self._share(priority, content=False)
            self._holders[stream] = self._holders.get(stream, 0) + 1
        streams.others[channel] = stream
        return stream

    def release(self, streams: StreamSet) -> None:
        """The request has sent all it will: its streams go to the back of the queue."""
        if streams.content:
            self._release(streams.content)
            streams.content = 0
        if streams.others is not None:
            for stream in streams.others.values():
                self._release(stream)
            streams.others = None

    def _release(self, stream: int) -> None:
        count = self._holders.get(stream, 0)
        if count > 1:
            self._holders[stream] = count - 1
        elif count == 1:
            del self._holders[stream]
            if self._associations and stream in self._associations.values():
                return  # lent by an association channel when the pool was empty
            priority = self._priority[stream]
            queue = self._free.get(priority)
            if queue is None:
                queue = self._free[priority] = deque()
            queue.append(stream)

    def _take(self, priority: int) -> int:
        """A stream that nobody holds, 0 if there is none: a new one, one of this priority, or one of another."""
        if self._fresh < self.outgoing:
            stream = self._fresh
            self._fresh += 1
        else:
            queue = self._free.get(priority)
            if not queue:
                queue = max(self._free.values(), key=len, default=None)
                if not queue:
                    return 0
            stream = queue.popleft()
        self._prioritize(stream, priority)
        return stream

    def _share(self, priority: int, *, content: bool) -> int:
        """No stream is free: ask for more for those who come later, and give one that others use."""
        if self._may_grow:
            # as many again as there are, so that few questions lead to many streams; no second one before the answer
            self.wanted = max(16, self.outgoing)
            self._may_grow = False
            self.shortages.asked += 1
        if content:
            self.shortages.shared_content += 1
        else:
            self.shortages.shared_feedback += 1
        alike = [stream for stream, held in self._priority.items() if held == priority and stream in self._holders]
        if alike:
            return min(alike, key=self._holders.__getitem__)
        if self._holders:
            return min(self._holders, key=self._holders.__getitem__)
        # a pool of one or two streams, held by association channels
        return min(FIRST_STREAM, self.outgoing - 1)

    def _prioritize(self, stream: int, priority: int) -> None:
        if self._priority.get(stream) != priority:
            self._priority[stream] = priority
            self.priorities.append((stream, priority))
