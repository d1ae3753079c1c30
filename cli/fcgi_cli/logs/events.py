"""What comes out of sources: lines, and what there is to tell about lines."""

from __future__ import annotations

from dataclasses import dataclass, field

from fcgi_core.common.text import escape

__all__ = ["Event", "Line", "Lost", "Note", "OutputClosed", "Skipped", "SourceError"]


OVERHEAD = 100
"""Characters that a line counts for beside its text."""


class SourceError(Exception):
    """A feed or a file cannot be read; sentences for the user, in which names of files are harmless."""

    @property
    def sentences(self) -> list[str]:
        (what,) = self.args
        return what if isinstance(what, list) else [what]

    def __str__(self) -> str:
        return "\n".join(map(escape, self.sentences))


class OutputClosed(Exception):
    """Whoever reads what we write has gone."""


@dataclass(slots=True)
class Line:
    """A line of the feed: text as it came, not yet escaped."""

    number: int
    time: float
    severity: int
    message: str
    server_name: str = ""
    application: str = ""
    process: str = ""
    kind: str = ""
    request: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    facility: int = 1
    source: str = ""
    """Which feed or file it came from; '' if there is but one."""
    past: bool = field(default=False, compare=False)
    """It was there when we came."""

    @property
    def size(self) -> int:
        """Characters that it holds, about, with what an object takes."""
        return len(self.message) + sum(map(len, self.fields.values())) + OVERHEAD


@dataclass(frozen=True, slots=True)
class Lost:
    """So many lines are missing here: the feed no longer had them when we were there to read."""

    count: int
    past: bool = field(default=False, compare=False)
    """All of them were there when we came."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """So many lines came here and were not drawn: nobody could have read them."""

    count: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something about the feed itself."""

    text: str


Event = Line | Lost | Skipped | Note
