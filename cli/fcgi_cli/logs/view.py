"""The state of the viewer: keys change it, the loop draws it."""

from __future__ import annotations

from collections.abc import Sequence

from .backlog import Backlog
from .events import Event, Line, Note
from .filter import Filter
from .history import History
from .painter import Painter
from .status import fit

__all__ = ["View"]


class View:
    """What is shown, and what waits to be drawn."""

    def __init__(self, wanted: Filter, painter: Painter) -> None:
        self.filter = wanted
        self.painter = painter
        self.history = History()
        self.backlog = Backlog()
        self.hosts: set[str] = set()
        self.last: Line | None = None
        """The last line drawn."""
        self.ended = False
        self._text: list[str] = []

    def write(self, text: str) -> None:
        """Draw text that ends with a newline, before the lines that wait."""
        self._text.append(text)

    def say(self, text: str) -> None:
        """Draw a sentence of the viewer's."""
        self.write(self.painter.paint([Note(text)]))

    def show(self, events: Sequence[Event]) -> None:
        """Draw events."""
        self.write(self.painter.paint(events))
        for event in events:
            if isinstance(event, Line):
                self.last = event

    def rule(self, text: str) -> None:
        """Draw a line across the terminal."""
        width = (self.painter.width or 80) - 1
        self.write(self.painter.styled(fit(f"── {text} ".ljust(width, "─"), width), "bold green") + "\n")

    def written(self) -> str:
        """Remove and return the text to draw."""
        text = "".join(self._text)
        self._text.clear()
        return text

    def quit(self) -> None:
        self.ended = True
