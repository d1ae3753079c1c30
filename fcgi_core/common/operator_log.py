"""The operator's log: how its lines look, whatever they say, and how often lines of one kind are written.

Much of what a line says came over the network: a peer's name, the text of its ERROR record, a URI. So all lines of both
sides go through one formatter, which lets a record be one line and nothing of it be more than text. And what one peer
does wrong again and again costs a few lines and a sum, not a line each time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from .loop import Handle, Loop
from .text import escape, hide_secrets

__all__ = ["LineFormatter", "Sums"]

MAX_LINE = 4096
"""Characters of one line; journald cuts at 48 KiB, rsyslog at 8 KiB."""
MAX_FRAMES = 32 << 10
"""Characters of the lines that follow one, a traceback's; those at its end say what happened."""
INDENT = "    "
FIRST = 5
"""Lines of one kind about one peer that are written within `WINDOW`; more are summed."""
WINDOW = 60.0
"""Seconds."""


class LineFormatter(logging.Formatter):
    """A record is one line, in which control characters are escaped and secrets in URIs are replaced.

    Frames follow on lines of their own, which are indented, so that none can be taken for a record: those of
    `exc_info`, and what is given as ``extra={"frames": text}``.
    """

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        lines = [_clean(self.formatMessage(record))]
        frames = str(getattr(record, "frames", ""))
        if record.exc_info:
            frames += self.formatException(record.exc_info)
        if record.stack_info:
            frames += record.stack_info
        if len(frames) > MAX_FRAMES:
            frames = f"[cut: {len(frames)} characters in all]\n{frames[-MAX_FRAMES:]}"
        lines += [INDENT + _clean(line) for line in frames.splitlines()]
        return "\n".join(lines)


def _clean(line: str) -> str:
    if len(line) > MAX_LINE:
        line = f"{line[:MAX_LINE]} [cut: {len(line)} characters in all]"
    return escape(hide_secrets(line))


class _Kind:
    """Lines of one kind."""

    __slots__ = ("count", "since", "sum_due", "summed")

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0
        """Lines since then."""
        self.summed = 0
        """Those of them that were not written."""
        self.sum_due: Handle | None = None


class Sums:
    """Writes what is to be said about one peer: of each kind the first `FIRST` lines in `WINDOW` seconds, and of those
    that follow how many they were, when the time is over or the peer is gone."""

    def __init__(self, log: logging.Logger, loop: Loop, who: str) -> None:
        """`who` stands at the beginning of the sums."""
        self._log = log
        self._loop = loop
        self.who = who
        self._kinds: dict[str, _Kind] = {}

    def say(self, level: int, what: str, text: str, *values: object, extra: Mapping[str, object] | None = None) -> None:
        """A line `text` % `values`; `what` names its kind, for the sum: "records left out". Kinds are few: no remote
        text is one. `extra` is the log record's."""
        now = self._loop.time()
        kind = self._kinds.get(what)
        if kind is None or (now - kind.since >= WINDOW and not kind.summed):
            kind = self._kinds[what] = _Kind(now)
        kind.count += 1
        if kind.count <= FIRST:
            self._log.log(level, text, *values, extra=extra)
            return
        kind.summed += 1
        if kind.sum_due is None:
            kind.sum_due = self._loop.call_at(kind.since + WINDOW, self._sum, what, level)

    def close(self) -> None:
        """Write the sums that are due later; the peer is gone."""
        for what, kind in tuple(self._kinds.items()):
            if kind.sum_due is not None:
                kind.sum_due.cancel()
                self._sum(what, logging.WARNING)
        self._kinds.clear()

    def _sum(self, what: str, level: int) -> None:
        kind = self._kinds.pop(what)
        within = self._loop.time() - kind.since
        self._log.log(level, "%s: %s %d times more within %.0f s", self.who, what, kind.summed, within)
