"""The operator's log: how its lines look, and how often lines of one kind are written.

Much of the text in a line came over the network: a peer's name, the text of its ERROR record, a URI. So all lines of
both sides go through one formatter, which makes each record one line of harmless text. A fault that one peer repeats
costs a few lines and a count, not a line each time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from .loop import Handle, Loop
from .text import escape, hide_secrets

__all__ = ["AT_ONCE", "LimitedLog", "LineFormatter", "WINDOW"]

MAX_LINE = 4096
"""Characters of one line; journald cuts at 48 KiB, rsyslog at 8 KiB."""
MAX_FRAMES = 32 << 10
"""Characters of a traceback below a line; its end is kept, which says what happened."""
INDENT = "    "
AT_ONCE = 5
"""Lines of one kind that are written within `WINDOW`; the others are counted."""
WINDOW = 60.0
"""Seconds."""


class LineFormatter(logging.Formatter):
    """Formats a record as one line, with control characters escaped and secrets in URIs replaced.

    Tracebacks follow on separate lines, indented so that none can be mistaken for a record: that of `exc_info`, and the
    text given as ``extra={"frames": text}``.
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
    """Lines of one kind since `since`."""

    __slots__ = ("last", "level", "more", "report", "since", "written")

    def __init__(self, level: int, since: float) -> None:
        self.level = level
        self.since = since
        self.written = 0
        self.more = 0
        """Lines that were counted and not written."""
        self.last = ""
        """The text of the last of these."""
        self.report: Handle | None = None


class LimitedLog:
    """Writes lines that a peer can cause as often as it likes, which must not fill the disk.

    Of each kind `AT_ONCE` lines in `WINDOW` seconds are written; the others are counted, and reported in one line.
    """

    def __init__(self, log: logging.Logger, loop: Loop) -> None:
        self._log = log
        self._loop = loop
        self._kinds: dict[str, _Kind] = {}

    def log(
        self, level: int, text: str, *values: object, times: int = 1, extra: Mapping[str, object] | None = None
    ) -> None:
        """Write `text` % `values`, or count it, `times` times. Lines of the same `text` are of one kind, so it is a
        literal and holds no remote text. `extra` is the log record's."""
        now = self._loop.time()
        kind = self._kinds.get(text)
        if kind is None or (now - kind.since >= WINDOW and not kind.more):
            kind = self._kinds[text] = _Kind(level, now)
        if kind.written < AT_ONCE:
            kind.written += 1
            times -= 1
            self._log.log(level, text, *values, extra=extra)
        if times:
            kind.more += times
            kind.last = text % values
            if kind.report is None:
                kind.report = self._loop.call_at(kind.since + WINDOW, self._report, text)

    def close(self) -> None:
        """Report now what would be reported later."""
        for text, kind in tuple(self._kinds.items()):
            if kind.report is not None:
                kind.report.cancel()
                self._report(text)
        self._kinds.clear()

    def _report(self, text: str) -> None:
        kind = self._kinds.pop(text)
        within = self._loop.time() - kind.since
        self._log.log(kind.level, "%d more like this within %.0f s: %s", kind.more, within, kind.last)
