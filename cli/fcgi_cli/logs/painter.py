"""Lines on a terminal, with rich: a colour for each severity, one that stays the same for each host, aligned columns.

Remote text comes in as rich `Text`, after it was escaped, and never as markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TextIO
from zlib import crc32

from rich.console import Console
from rich.text import Text

from fcgi_core.text import SEVERITIES, escape_word

from .logs_format import CONTINUED, Clock, about, message_lines
from .logs_source import Event, Line

__all__ = ["TerminalOutput"]

SEVERITY_STYLES = (
    *("bold white on red", "bold white on red", "bold red", "red"),
    *("yellow", "cyan", "", "dim"),
)
MESSAGE_STYLES = ("bold", "bold", "bold", "", "", "", "", "dim")
HOST_STYLES = ("green", "blue", "magenta", "cyan", "bright_green", "bright_blue", "bright_magenta", "bright_cyan")
WIDEST_HOST, WIDEST_APPLICATION = 28, 16
"""Columns; longer names are cut at the front, where hosts differ least from what stands in other lines."""
MOST_LINES, MOST_CHARACTERS = 200, 8192
"""Of one message; the rest is told, and is there with ``-o raw``."""


class TerminalOutput:
    """Writes batches of events. Columns grow with the names that come, and stay."""

    def __init__(self, out: TextIO, clock: Clock, highlight: re.Pattern[str] | None = None) -> None:
        self._console = Console(file=out, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._clock = clock
        self._highlight = highlight
        self._host_width = 9
        self._application_width = 4

    def write(self, events: Iterable[Event]) -> None:
        text = Text()
        for event in events:
            if isinstance(event, Line):
                self._line(text, event)
            else:
                text.append(f"-- {about(event)}\n", "bold yellow")
        self._console.print(text, end="")

    def _line(self, text: Text, line: Line) -> None:
        host = _fit(escape_word(line.server_name), WIDEST_HOST)
        application = _fit(escape_word(line.application), WIDEST_APPLICATION)
        self._host_width = max(self._host_width, len(host))
        self._application_width = max(self._application_width, len(application))
        text.append(f"{self._clock.text(line.time)} ", "dim")
        text.append(f"{SEVERITIES[line.severity]:7}", SEVERITY_STYLES[line.severity])
        text.append(f" {host:{self._host_width}}", HOST_STYLES[crc32(line.server_name.encode(errors="replace")) % 8])
        text.append(f" {application:{self._application_width}} ", "dim")
        if line.request:
            text.append(f"{escape_word(line.request)[:8]} ", "dim blue")
        message = Text(f"\n{CONTINUED}".join(_shown(line.message)), MESSAGE_STYLES[line.severity])
        if self._highlight is not None:
            message.highlight_regex(self._highlight, "reverse")
        text.append_text(message)
        text.append("\n")


def _fit(name: str, width: int) -> str:
    return name if len(name) <= width else "…" + name[1 - width :]


def _shown(message: str) -> list[str]:
    """The lines of a message that a screen can bear."""
    lines = message_lines(message[:MOST_CHARACTERS])
    if len(lines) <= MOST_LINES and len(message) <= MOST_CHARACTERS:
        return lines
    return [*lines[:MOST_LINES], f"… {len(message)} characters in all; -o raw and -o json show them"]
