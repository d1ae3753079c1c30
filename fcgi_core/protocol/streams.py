"""On which SCTP stream a sender puts what. A receiver goes by the record header alone, so each side chooses for itself.

Stream 0 (kept for security) and 1 (control) are reserved; the pool is 2 and up. A request holds a *set* of streams: one
for content, one for STDERR once it writes any, one for each plugin channel of request scope that it uses. A lost packet
of a log line then holds up no content, and the other way round. docs/streams.md compares this policy with others, which
`bench/streams/policies.py` has.

The stream released longest ago is leased first: what its last holder sent has most likely arrived, so a loss there does
not hold up the next holder. A stream keeps its priority while it is free, so SCTP learns a priority once in a stream's
life and not once a lease, but for streams of long content: those go behind the others (`let_others_first`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from .channels import Priority

__all__ = ["CONTROL_STREAM", "FIRST_STREAM", "SECURITY_STREAM", "Policy", "Shortages", "StreamPool", "StreamSet"]

SECURITY_STREAM: Final = 0
CONTROL_STREAM: Final = 1
FIRST_STREAM: Final = 2
CONTENT_PRIORITY: Final[int] = Priority.CONTENT
"""As a constant, because Python 3.11 runs code of `enum` for each `Priority.CONTENT`."""
LONG_CONTENT: Final = 1 << 15
"""What SCTP is told of the priority of long content; that of content is below and that of feedback above."""
CONTENT = "content"
STDERR = "stderr"


@dataclass(slots=True)
class Shortages:
    """How often no stream was free, by what the pool did then."""

    asked: int = 0
    """It asked for more streams (RFC 6525)."""
    shared_feedback: int = 0
    """It put STDERR or a request channel on a stream that others use."""
    shared_content: int = 0
    """It put the content of two requests on one stream."""


class StreamSet:
    """The streams that one request holds, leased when it needs them; most requests need one."""

    __slots__ = ("content", "others")

    def __init__(self) -> None:
        self.content = 0
        """The stream for content, 0 for none."""
        self.others: dict[Hashable, int] | None = None

    @property
    def streams(self) -> dict[Hashable, int]:
        """All streams, by what they carry."""
        return ({CONTENT: self.content} if self.content else {}) | (self.others or {})


Policy = Callable[[Hashable, StreamSet | None], tuple[Hashable, StreamSet | None]]
"""Another division of work than a set of streams for each request: says for a channel (CONTENT, STDERR and plugin
channels) of a request, or of the association (None), as which channel of which holder it is to travel."""


class StreamPool:
    """The outgoing streams of one association and who holds them."""

    def __init__(self, outgoing: int, policy: Policy | None = None) -> None:
        """`outgoing` is the number of streams the association has, 0 and 1 included."""
        self.outgoing = outgoing
        self.shortages = Shortages()
        self.wanted = 0
        """Streams to ask the carrier for; the driver asks and sets it to 0."""
        self.priorities: list[tuple[int, int]] = []
        """(stream, priority) pairs to tell the carrier; the driver tells it and empties the list."""
        self.policy: Policy | None = policy
        self._fresh = FIRST_STREAM
        self._free: dict[int, deque[int]] = {}
        self.holders: dict[int, int] = {}
        """Each stream that requests hold, with the number of its holders; not those of association channels."""
        self._priority: dict[int, int] = {}
        self.association_streams: dict[Hashable, int] = {}
        """Each channel of association scope that has a stream, with that stream."""
        self._may_grow = True

    def grow(self, outgoing: int) -> None:
        """Note that the association has `outgoing` streams now. The same number as before means the peer refused."""
        if outgoing > self.outgoing:
            self.outgoing = outgoing
            self._may_grow = True

    def association_stream(self, channel: Hashable, priority: int) -> int:
        """The stream of a channel of association scope, which keeps it."""
        if self.policy is not None:
            channel, _ = self.policy(channel, None)
        stream = self.association_streams.get(channel)
        if stream is None:
            stream = self.association_streams[channel] = self._take(priority) or self._share(priority, content=False)
        return stream

    def content_stream(self, streams: StreamSet) -> int:
        """The stream for the content of a request."""
        if streams.content:
            return streams.content
        if self.policy is not None:
            channel, holder = self.policy(CONTENT, streams)
            if holder is None:
                return self.association_stream(channel, CONTENT_PRIORITY)
        stream = streams.content = self._take(CONTENT_PRIORITY) or self._share(CONTENT_PRIORITY, content=True)
        self.holders[stream] = self.holders.get(stream, 0) + 1
        return stream

    def feedback_stream(self, streams: StreamSet, channel: Hashable, priority: int) -> int:
        """The stream for STDERR or a channel of request scope, for one request."""
        if self.policy is not None:
            channel, holder = self.policy(channel, streams)
            if holder is None:
                return self.association_stream(channel, priority)
            if channel == CONTENT:
                return self.content_stream(streams)
        if streams.others is None:
            streams.others = {}
        stream = streams.others.get(channel, 0)
        if not stream:
            stream = streams.others[channel] = self._take(priority) or self._share(priority, content=False)
            self.holders[stream] = self.holders.get(stream, 0) + 1
        return stream

    def let_others_first(self, stream: int) -> None:
        """Note that the content on a stream is long: that of others goes first. A stream that is shared stays."""
        if self._priority.get(stream) == CONTENT_PRIORITY and self.holders.get(stream) == 1:
            self._prioritise(stream, LONG_CONTENT)

    def _prioritise(self, stream: int, priority: int) -> None:
        """Of two streams with content the lower number goes first, mostly the older request as streams are leased in
        turn: with one priority for all, SCTP would alternate, and all answers would be complete late."""
        self._priority[stream] = priority
        told = priority
        if priority == CONTENT_PRIORITY:
            told = min(priority + stream, LONG_CONTENT - 1)
        elif CONTENT_PRIORITY < priority < LONG_CONTENT:
            told = LONG_CONTENT + priority
        self.priorities.append((stream, told))

    def release(self, streams: StreamSet) -> None:
        """Take back the streams of a request that sends nothing more: they go to the back of the queue."""
        if streams.content:
            self._release(streams.content)
            streams.content = 0
        if streams.others is not None:
            for stream in streams.others.values():
                self._release(stream)
            streams.others = None

    def _release(self, stream: int) -> None:
        count = self.holders.get(stream, 0)
        if count > 1:
            self.holders[stream] = count - 1
        elif count == 1:
            del self.holders[stream]
            if self.association_streams and stream in self.association_streams.values():
                return  # lent by an association channel when the pool was empty
            priority = self._priority[stream]
            queue = self._free.get(priority)
            if queue is None:
                queue = self._free[priority] = deque()
            queue.append(stream)

    def _take(self, priority: int) -> int:
        """A free stream, 0 if there is none: a new one, one of this priority, or one of another."""
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
        if self._priority.get(stream) != priority:
            self._prioritise(stream, priority)
        return stream

    def _share(self, priority: int, *, content: bool) -> int:
        """With no stream free: ask for more, for later requests, and return one that others use."""
        if self._may_grow:
            # as many again as there are, so that few requests lead to many streams; none while one is unanswered
            self.wanted = max(16, self.outgoing)
            self._may_grow = False
            self.shortages.asked += 1
        if content:
            self.shortages.shared_content += 1
        else:
            self.shortages.shared_feedback += 1
        alike = [stream for stream, held in self._priority.items() if held == priority and stream in self.holders]
        if alike:
            return min(alike, key=self.holders.__getitem__)
        if self.holders:
            return min(self.holders, key=self.holders.__getitem__)
        # a pool of one or two streams, held by association channels
        return min(FIRST_STREAM, self.outgoing - 1)
