"""Lines of a batch on the web side: what they have in common is stored once and formatted once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from sys import getsizeof

from fcgi_core.plugin import FeedEntries, FeedEntry, memory_cost

from .about import details

__all__ = ["Head", "Lines", "OfRequest", "cost_of"]

ENTRY_COST = 640
"""Bytes of memory of an entry without its message and fields."""
LINES_COST = 640
"""Bytes of memory of `Lines` without heads and lines."""
EMPTY = getsizeof("")
"""Bytes of memory of an ASCII text without its characters."""
HEAD_COST = 1024
"""Bytes of memory of a head without its texts: the object, and the texts that outputs make of it."""
LINE_COST = 72
"""Bytes of memory of a line without its text: its time, and its place in five columns."""
REQUEST_COST = 256
"""Bytes of memory of an `OfRequest` without its PARAMS."""


def cost_of(entry: FeedEntry, before: FeedEntry | None = None) -> int:
    """Return the bytes of memory, about, that an entry adds to the one `before` it: lines of a request share fields."""
    fields = None if before is not None and entry.fields is before.fields else entry.fields
    return ENTRY_COST + memory_cost((entry.message,), fields)


class Head:
    """All of a `FeedEntry` but time and message, and the texts that outputs make of it once."""

    __slots__ = ("about", "cost", "fields", "mark", "message", "server_name", "severity")

    def __init__(
        self,
        severity: int,
        server_name: str,
        application: str,
        facility: int,
        process: str,
        kind: str,
        request: str,
        fields: Mapping[str, str] | None,
        host: str,
    ) -> None:
        self.severity = severity
        self.server_name = server_name
        self.about = (server_name, application, facility, process, kind, request, fields, host)
        """The fields of a `FeedEntry` after `message`."""
        self.cost = HEAD_COST + memory_cost((server_name, application, process, kind, request, host), fields)
        """Bytes of memory."""
        self.fields = fields
        self.mark = ""
        """The part of a file's line between time and request; made at first use."""
        self.message: tuple[str, str] | None = None
        """The parts of an RFC 5424 message before and after its time; made at first use."""

    def entry(self, time: float, text: str) -> FeedEntry:
        return FeedEntry(time, self.severity, text, *self.about)


class OfRequest:
    """What a line needs of its request. `params` are encoded as they came: few lines need them decoded."""

    __slots__ = ("_redact", "identity", "params")

    def __init__(self, identity: str, params: bytes, redact: Callable[[str], str]) -> None:
        self.identity = identity
        self.params = params
        self._redact = redact

    def details(self) -> dict[str, str]:
        """Return `about.details` of the request."""
        return details(self.params, self._redact)


class Lines(FeedEntries):
    """A sequence of entries, each made at access, stored by column: the heads, and for each line its time, the number
    of its head, its text, and its request if the head does not name it."""

    __slots__ = ("_held", "clean", "heads", "numbers", "requests", "size", "texts", "times")

    def __init__(
        self,
        heads: Sequence[Head],
        times: Sequence[int],
        numbers: Sequence[int],
        texts: Sequence[str],
        clean: bool,
        requests: Sequence[OfRequest | None] | None = None,
    ) -> None:
        self.heads = heads
        self.times = times
        """Microseconds since the epoch."""
        self.numbers = numbers
        self.texts = texts
        self.clean = clean
        """True if all texts are printable ASCII; False if that is not known."""
        self.requests = requests
        """None if the heads say everything."""
        self.size = sum(map(len, texts))
        """Characters of text."""
        self._held = 0

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def held(self) -> int:
        if not self._held:
            count = len(self.texts)
            cost = LINES_COST + count * LINE_COST + sum([head.cost for head in self.heads])
            cost += self.size + EMPTY * count if self.clean else memory_cost(self.texts)
            last: OfRequest | None = None
            for request in self.requests or ():
                if request is not None and request is not last:  # the lines of a request often follow each other
                    cost += len(request.params) + REQUEST_COST
                    last = request
            self._held = cost
        return self._held

    def entry(self, position: int) -> FeedEntry:
        head = self.heads[self.numbers[position]]
        about = head.about
        request = None if self.requests is None else self.requests[position]
        if request is not None:
            fields = {**(head.fields or {}), **request.details()}
            about = (*about[:5], request.identity, fields or None, about[7])
        return FeedEntry(self.times[position] / 1_000_000, head.severity, self.texts[position], *about)

    def down_to(self, threshold: int) -> Lines | None:
        """Return the lines of this severity or a more severe one; None if there are none."""
        wanted = [head.severity <= threshold for head in self.heads]
        if all(wanted):
            return self
        chosen = [position for position, number in enumerate(self.numbers) if wanted[number]]
        if not chosen:
            return None
        return self._of(chosen)

    def part(self, first: int, last: int) -> Lines:
        """Return the lines from `first` to before `last`."""
        if first == 0 and last >= len(self.texts):
            return self
        return self._of(range(first, min(last, len(self.texts))))

    def by_host(self) -> dict[str, Lines]:
        """Return the lines of each virtual host by its name."""
        names = {head.server_name for head in self.heads}
        if len(names) == 1:
            return {names.pop(): self}
        positions: dict[str, list[int]] = {}
        for position, number in enumerate(self.numbers):
            positions.setdefault(self.heads[number].server_name, []).append(position)
        return {name: self._of(chosen) for name, chosen in positions.items()}

    def _of(self, chosen: Sequence[int]) -> Lines:
        requests = self.requests
        return Lines(
            self.heads,
            [self.times[position] for position in chosen],
            [self.numbers[position] for position in chosen],
            [self.texts[position] for position in chosen],
            self.clean,
            None if requests is None else [requests[position] for position in chosen],
        )
