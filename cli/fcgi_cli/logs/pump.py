"""Waits for all sources, the terminal's keys, the deadline, and a reader that goes away."""

from __future__ import annotations

import math
import select
import time
from collections.abc import Sequence

from .events import Event, Note, OutputClosed, SourceError
from .merge import Merge
from .source import Source

__all__ = ["Pump"]


class Pump:
    """Reads events of all `sources`, merged, until the `deadline` (of `time.monotonic`). `output` is a descriptor whose
    reader may go away."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        deadline: float = math.inf,
        output: int | None = None,
    ) -> None:
        self.sources = sources
        self._deadline = deadline
        self._output = output
        self.watched: Sequence[int] = ()
        """Descriptors that end a wait when they can be read."""
        self._merge = Merge(sources) if len(sources) > 1 else None
        self._past_held = True
        self._notes: list[Event] = []

    @property
    def past(self) -> bool:
        """Whether some lines are unread that were there before the viewer started."""
        return any(source.past and not source.ended for source in self.sources)

    @property
    def timed_out(self) -> bool:
        return time.monotonic() >= self._deadline

    @property
    def ended(self) -> bool:
        """Whether no more events come."""
        return all(source.ended for source in self.sources) and not (self._merge and self._merge.waiting)

    @property
    def failures(self) -> list[str]:
        """The reasons why sources could not be read to their end."""
        return [source.failure for source in self.sources if source.failure]

    def start(self) -> None:
        """Open the sources. SourceError if none can be read."""
        for source in self.sources:
            try:
                source.start()
            except SourceError as error:
                source.fail(error)
        if len(self.failures) == len(self.sources):
            raise SourceError(self.failures)
        self._notes += map(Note, self.failures)

    def close(self) -> None:
        for source in self.sources:
            source.close()

    def wait(self, longest: float = math.inf, *, reading: bool = True) -> list[Event]:
        """Wait at most `longest` seconds for events, and return them, with a note for each source that has failed.
        OutputClosed.

        With `reading` false nothing is read, and lines wait in their source.
        """
        if self._notes:
            notes, self._notes = self._notes, []
            return notes
        sources = [
            one for one in self.sources if reading and not one.ended and (self._merge is None or self._merge.wants(one))
        ]
        poll = select.poll()
        by_descriptor = {}
        until = min(self._deadline, time.monotonic() + longest)
        for source in sources:
            until = min(until, source.due)
            if (descriptor := source.fileno()) is not None:
                by_descriptor[descriptor] = source
                poll.register(descriptor, select.POLLIN)
        if self._merge is not None and self._merge.due is not None:
            until = min(until, self._merge.due)
        if self._output is not None and self._output not in self.watched:
            poll.register(self._output, 0)  # errors only: the reader of a pipe has gone
        for descriptor in self.watched:
            poll.register(descriptor, select.POLLIN)
        if not reading or sources or not self.ended:
            left = until - time.monotonic()
            ready = poll.poll(None if math.isinf(left) else max(0.0, math.ceil(left * 1000)))
        else:
            ready = []
        if any(one == self._output and events & (select.POLLERR | select.POLLHUP) for one, events in ready):
            raise OutputClosed
        now = time.monotonic()
        readable = {id(by_descriptor[one]) for one, _ in ready if one in by_descriptor}
        events: list[Event] = []
        for source in sources:
            if id(source) in readable or source.due <= now:
                read = self._read(source)
                if self._merge is None:
                    events += read
                else:
                    self._merge.add(source, read)
        if self._merge is not None:
            whole = all(source.ended for source in self.sources)
            if self._past_held and not self.past:  # all of the past is here
                self._past_held, whole = False, True
            events = self._merge.take(all_of_it=whole)
        return events

    def _read(self, source: Source) -> list[Event]:
        try:
            events = source.read()
        except SourceError as error:
            events = source.fail(error)
        return [*events, Note(source.failure)] if source.failure else events
