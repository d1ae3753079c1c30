"""The status line: state, rate, severities, losses, filters and lag."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from fcgi_core.common.text import SEVERITIES

from .events import Event, Line, Lost
from .painter import SEVERITY_STYLES, Painter

__all__ = ["Tally", "fit", "short", "status_line"]

RATE_OVER = 2.0
"""Seconds over which the rate is measured."""
SLOWER = 0.25
"""Seconds between samples for the rate."""


class Tally:
    """Counts all events, shown or not."""

    def __init__(self, now: float) -> None:
        self.severities = [0] * 8
        self.total = 0
        self.lost = 0
        self.lag = 0.0
        self._marks: deque[tuple[float, int]] = deque([(now, 0)])

    def count(self, event: Event) -> None:
        if isinstance(event, Line):
            self.severities[event.severity] += 1
            self.total += 1
        elif isinstance(event, Lost):
            self.lost += event.count

    def rate(self, now: float) -> float:
        """Lines per second over the last `RATE_OVER` seconds."""
        marks = self._marks
        if now - marks[-1][0] >= SLOWER:
            marks.append((now, self.total))
        while len(marks) > 2 and now - marks[1][0] > RATE_OVER:
            marks.popleft()
        passed = now - marks[0][0]
        return (self.total - marks[0][1]) / passed if passed >= SLOWER else 0.0


def short(count: float) -> str:
    """Format a count in at most five columns."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= limit:
            value = count / (1e3 if unit == "k" else limit)
            return f"{value:.3g}{unit}" if value < 999.5 else f"{value:.0f}{unit}"
    return f"{count:.0f}"


def fit(text: str, width: int) -> str:
    """Cut `text` to at most `width` cells."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width))


def status_line(painter: Painter, width: int, state: str, tally: Tally, now: float, rest: Sequence[str]) -> str:
    """Format `state`, the rate, losses, severities and `rest`, as far as they fit into `width` columns."""
    counts = [
        (f"{short(count)} {SEVERITIES[number]}", SEVERITY_STYLES[number])
        for number, count in enumerate(tally.severities)
        if count
    ]
    parts: list[list[tuple[str, str]]] = [[(state, "bold")], [(f"{short(tally.rate(now))}/s", "")]]
    if tally.lost:
        parts.append([(f"{short(tally.lost)} lost", "bold red")])
    if counts:
        parts.append(counts)
    parts += [[(text, "")] for text in rest]
    made, used = "", 0
    for number, part in enumerate(parts):
        for place, (text, style) in enumerate(part):
            separator = "" if number == 0 else "  " if place else " │ "
            size = cell_len(separator) + cell_len(text)
            if used + size > width:
                if used == 0:
                    return painter.styled(fit(text, width), style)
                return made
            made += painter.styled(separator, "dim") + painter.styled(text, style)
            used += size
    return made
