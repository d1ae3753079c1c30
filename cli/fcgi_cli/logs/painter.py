"""Formats events for a terminal: a colour for each severity, a constant colour for each host, aligned columns.

Rich knows styles and what a terminal can show of them; the text is put together here, because rich takes twenty times
as long for a line. Remote text is escaped first, and never read as markup.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from zlib import crc32

from rich.color import ColorSystem
from rich.style import Style

from fcgi_core.common.text import SEVERITIES, escape_word

from .events import Event, Line
from .formats import CONTINUED, Clock, about, fold, message_lines

__all__ = ["Painter", "colour_system"]

SEVERITY_STYLES = (
    *("bold white on red", "bold white on red", "bold red", "red"),
    *("yellow", "cyan", "", "dim"),
)
MESSAGE_STYLES = ("bold", "bold", "bold", "", "", "", "", "dim")
HOST_STYLES = tuple(
    f"color({number})"
    for number in (
        *(75, 114, 176, 80, 141, 173, 108, 39, 211, 149, 109, 183, 216, 43, 69, 134, 150, 204, 37, 99),
        *(137, 72, 217, 111, 170, 107, 152, 103, 209),
    )
)
"""Colours that the eye distinguishes from each other and from severities; rich picks the nearest of sixteen."""
HIGHLIGHT_STYLES = ("reverse", "black on yellow", "black on cyan", "black on magenta", "black on green")
WIDEST_HOST, WIDEST_APPLICATION = 28, 16
"""Columns; longer names are cut at the front."""
MOST_LINES, MOST_CHARACTERS = 200, 8192
"""Of one message; a note counts the rest, which ``-o raw`` shows."""
WITHOUT_APPLICATION, WITHOUT_REQUEST, WITHOUT_HOST = 80, 60, 36
"""Terminals with fewer columns than this do not get that column."""


def colour_system() -> ColorSystem | None:
    """The colours of the terminal; None if it shall have none (https://no-color.org)."""
    term = os.environ.get("TERM", "")
    if os.environ.get("NO_COLOR") or term in ("", "dumb"):
        return None
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return ColorSystem.TRUECOLOR
    return ColorSystem.EIGHT_BIT if "256color" in term or "direct" in term else ColorSystem.STANDARD


class Painter:
    """Formats batches of events for a terminal. Columns grow with the names that come, and never shrink."""

    def __init__(
        self,
        clock: Clock,
        colours: ColorSystem | None,
        highlights: Sequence[re.Pattern[str]] = (),
        *,
        folded: bool = False,
        width: int = 0,
        form: Callable[[Line], str] | None = None,
    ) -> None:
        self.folded = folded
        self.highlights = list(highlights)
        self.width = width
        """Columns of the terminal; 0 for no limit."""
        self._clock = clock
        self._form = form
        self._style = lru_cache(maxsize=256)(lambda style: _codes(style, colours))
        self._host_width = 9
        self._application_width = 4
        self._source_width = 0

    @classmethod
    def of(cls, args: argparse.Namespace) -> Painter:
        """A painter with the options of the command line."""
        flags = re.IGNORECASE if args.ignore_case else 0
        patterns = args.highlight + ([] if args.invert_match else args.grep)
        clock = Clock(utc=args.utc, dated=False)
        form = None
        if args.template is not None:
            from .template import template

            form = template(args.template, Clock(utc=args.utc))
        highlights = [re.compile(one, flags) for one in patterns]
        return cls(clock, colour_system(), highlights, folded=args.fold, form=form)

    def paint(self, events: Iterable[Event]) -> str:
        """Format events, with a newline after each."""
        return "".join(
            self.line(event) if isinstance(event, Line) else self.styled(f"-- {about(event)}", "bold yellow") + "\n"
            for event in events
        )

    def styled(self, text: str, style: str) -> str:
        """Surround text with the codes of a style."""
        begin, end = self._style(style)
        return f"{begin}{text}{end}" if text else ""

    def line(self, line: Line) -> str:
        """Format a line, with the newline."""
        if self._form is not None:  # laid out by the user
            text = self._form(line).removesuffix("\n")
            return "\n".join(self._highlighted(one, SEVERITY_STYLES[line.severity]) for one in text.split("\n")) + "\n"
        styled = self.styled
        width = self.width or 1000
        parts = []
        if line.source:
            source = _fit(escape_word(line.source), WIDEST_APPLICATION)
            self._source_width = max(self._source_width, len(source))
            parts.append(styled(f"{source:{self._source_width}} ", _host_style(line.source)))
        time = self._clock.text(line.time)
        parts.append(styled(time if width >= WITHOUT_REQUEST else time.partition(".")[0], "dim"))
        parts.append(" " + styled(f"{SEVERITIES[line.severity]:7}", SEVERITY_STYLES[line.severity]))
        if width >= WITHOUT_HOST:
            host = _fit(escape_word(line.server_name), WIDEST_HOST)
            self._host_width = max(self._host_width, len(host))
            parts.append(styled(f" {host:{self._host_width}}", _host_style(line.server_name)))
        if width >= WITHOUT_APPLICATION:
            application = _fit(escape_word(line.application), WIDEST_APPLICATION)
            self._application_width = max(self._application_width, len(application))
            parts.append(styled(f" {application:{self._application_width}}", "dim"))
        if line.request and width >= WITHOUT_REQUEST:
            parts.append(styled(f" {escape_word(line.request)[:8]}", "dim blue"))
        lines = _shown(line.message)
        if self.folded:
            lines = fold(lines)
        style = MESSAGE_STYLES[line.severity]
        message = f"\n{CONTINUED}".join(self._highlighted(one, style) for one in lines)
        return f"{''.join(parts)} {message}\n"

    def _highlighted(self, text: str, style: str) -> str:
        spans = sorted(
            (match.start(), match.end(), number)
            for number, pattern in enumerate(self.highlights)
            for match in pattern.finditer(text)
            if match.end() > match.start()
        )
        if not spans:
            return self.styled(text, style)
        parts = []
        at = 0
        for begin, end, number in spans:
            if begin >= at:
                parts.append(self.styled(text[at:begin], style))
                parts.append(self.styled(text[begin:end], HIGHLIGHT_STYLES[number % len(HIGHLIGHT_STYLES)]))
                at = end
        parts.append(self.styled(text[at:], style))
        return "".join(parts)


def _codes(style: str, colours: ColorSystem | None) -> tuple[str, str]:
    """The codes to write before and after a text."""
    begin, _, end = Style.parse(style).render("\0", color_system=colours).partition("\0")
    return begin, end


@lru_cache(maxsize=1024)
def _host_style(name: str) -> str:
    return HOST_STYLES[crc32(name.encode(errors="replace")) % len(HOST_STYLES)]


def _fit(name: str, width: int) -> str:
    return name if len(name) <= width else "…" + name[1 - width :]


def _shown(message: str) -> list[str]:
    """The lines of a message, as far as they fit a screen."""
    lines = message_lines(message[:MOST_CHARACTERS])
    if len(lines) <= MOST_LINES and len(message) <= MOST_CHARACTERS:
        return lines
    return [*lines[:MOST_LINES], f"… {len(message)} characters in all; -o raw and -o json show them"]
