"""Lines of a batch on the web side: what they have in common is kept once, and made text once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fcgi_core.plugin import FeedEntry

__all__ = ["Head", "Lines"]


class Head:
    """What a `FeedEntry` has beside time and message, and texts that outputs make of that once."""

    __slots__ = ("about", "mark", "message", "server_name", "severity")

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
        self.mark = ""
        """What stands in a line of a file between time and text; made when first wanted."""
        self.message: tuple[str, str] | None = None
        """What stands in an RFC 5424 message before and after its time; likewise."""

    def entry(self, time: float, text: str) -> FeedEntry:
        return FeedEntry(time, self.severity, text, *self.about)


class Lines:
    """By column: the heads, and for each line its time, the number of its head, and its text."""

    __slots__ = ("clean", "heads", "numbers", "size", "texts", "times")

    def __init__(
        self, heads: Sequence[Head], times: Sequence[int], numbers: Sequence[int], texts: Sequence[str], clean: bool
    ) -> None:
        self.heads = heads
        self.times = times
        """Microseconds since the epoch."""
        self.numbers = numbers
        self.texts = texts
        self.clean = clean
        """All texts are printable ASCII. False says nothing."""
        self.size = sum(map(len, texts))
        """Characters of text."""

    def __len__(self) -> int:
        return len(self.texts)

    def entries(self) -> Iterator[FeedEntry]:
        """The lines, each for itself."""
        heads = self.heads
        new = tuple.__new__  # FeedEntry(…) checks how it is called, which takes as long as the rest
        for time, number, text in zip(self.times, self.numbers, self.texts, strict=True):
            head = heads[number]
            yield new(FeedEntry, (time / 1_000_000, head.severity, text, *head.about))

    def down_to(self, threshold: int) -> Lines | None:
        """The lines of this severity and the more severe ones; None if there are none."""
        wanted = [head.severity <= threshold for head in self.heads]
        if all(wanted):
            return self
        chosen = [position for position, number in enumerate(self.numbers) if wanted[number]]
        if not chosen:
            return None
        return self._of(chosen)

    def by_host(self) -> dict[str, Lines]:
        """The lines of each virtual host."""
        names = {head.server_name for head in self.heads}
        if len(names) == 1:
            return {names.pop(): self}
        positions: dict[str, list[int]] = {}
        for position, number in enumerate(self.numbers):
            positions.setdefault(self.heads[number].server_name, []).append(position)
        return {name: self._of(chosen) for name, chosen in positions.items()}

    def _of(self, chosen: Sequence[int]) -> Lines:
        return Lines(
            self.heads,
            [self.times[position] for position in chosen],
            [self.numbers[position] for position in chosen],
            [self.texts[position] for position in chosen],
            self.clean,
        )
