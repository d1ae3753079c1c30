"""Formats events as plain text for a pipe, and what the painter of a terminal shares with that. All is escaped."""

from __future__ import annotations

import json
import time

from fcgi_core.common.text import SEVERITIES, escape, escape_word

from .events import Event, Line, Lost, Note, Skipped

__all__ = ["CONTINUED", "Clock", "about", "fold", "message_lines", "format_json", "format_pretty", "format_raw"]

CONTINUED = "    "
"""Written before each further line of a message, so that no message can imitate the beginning of a line."""
_MORE = [name for name in Line.__slots__[4:] if name != "past"]  # `past` depends on the viewer


class Clock:
    """Formats times, local or in UTC; with date and offset if `dated`. It keeps the text of the latest second."""

    def __init__(self, *, utc: bool = False, dated: bool = True) -> None:
        self._convert = time.gmtime if utc else time.localtime
        self._utc = utc
        self._dated = dated
        self._second: int | None = None
        self._before = self._after = ""

    def text(self, moment: float) -> str:
        """Format `moment`, in seconds since the epoch, to the millisecond."""
        milliseconds = int(moment * 1000)  # not rounded, so that no line shows a second that had not begun
        second, rest = divmod(milliseconds, 1000)
        if second != self._second:
            self._second = second
            when = self._convert(second)
            date = f"{when.tm_year:04}-{when.tm_mon:02}-{when.tm_mday:02}T" if self._dated else ""
            self._before = f"{date}{when.tm_hour:02}:{when.tm_min:02}:{when.tm_sec:02}"
            if self._dated:
                offset = time.strftime("%z", when)
                self._after = "Z" if self._utc else f"{offset[:3]}:{offset[3:]}"
        return f"{self._before}.{rest:03}{self._after}"


def message_lines(message: str) -> list[str]:
    """The lines of a message, each escaped; at least one."""
    return [escape(line.expandtabs()) for line in message.split("\n")]


def fold(lines: list[str]) -> list[str]:
    """Fold the lines of a message into one: its beginning, the number of further lines, and the exception at its end.

    In a logged exception the first line is the message, and the last line without indentation is the exception. A
    message that begins with the traceback is shown by its exception only.
    """
    if len(lines) == 1:
        return lines
    first, *more = lines
    last = next((line for line in reversed(more) if line and not line[0].isspace()), "")
    many = f"⋯ {len(more)} more line{'s' if len(more) > 1 else ''}"
    if first.startswith("Traceback (most recent call last)") and last:
        return [f"{last} {many}"]
    if last and any("Traceback (most recent call last)" in line for line in more):
        return [f"{first} {many}: {last}"]
    return [f"{first} {many}"]


def format_pretty(event: Event, clock: Clock, *, folded: bool = False) -> str:
    """Time, severity, host, application, request and text; further lines of the text are indented."""
    if not isinstance(event, Line):
        return f"-- {about(event)}\n"
    process = f"[{escape_word(event.process)}]" if event.process else ""
    request = f" [{escape_word(event.request)}]" if event.request else ""
    lines = message_lines(event.message)
    text = f"\n{CONTINUED}".join(fold(lines) if folded else lines)
    source = f"{escape_word(event.source)} " if event.source else ""
    return (
        f"{source}{clock.text(event.time)} {SEVERITIES[event.severity]:7} {escape_word(event.server_name)}"
        f" {escape_word(event.application)}{process}{request} {text}\n"
    )


def format_raw(event: Event) -> str:
    """The text only, on one line."""
    return f"{escape(event.message)}\n" if isinstance(event, Line) else ""


def format_json(event: Event) -> str:
    """A JSON object on a line, with the names of the feed; {"lost": COUNT} where lines are missing."""
    if isinstance(event, Note | Skipped):
        return ""
    if isinstance(event, Lost):
        return json.dumps({"lost": event.count}) + "\n"
    value: dict[str, object] = {
        "n": event.number,
        "time": event.time,
        "severity": event.severity,
        "message": event.message,
    }
    for name in _MORE:
        if (item := getattr(event, name)) not in ("", {}):
            value[name] = item
    return (
        json.dumps(value).replace("\x7f", "\\u007f") + "\n"
    )  # ASCII; DEL is the only control that JSON does not escape


def about(event: Lost | Skipped | Note) -> str:
    """A sentence for an event that is not a line."""
    if isinstance(event, Note):
        return escape(event.text)
    if isinstance(event, Skipped):
        return f"{event.count:,} lines not drawn: they came too fast to read"
    return f"{event.count} line{'s' if event.count != 1 else ''} lost"
