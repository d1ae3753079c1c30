"""The events that sources produce: lines, gaps and notes."""

from __future__ import annotations

from dataclasses import dataclass, field

from fcgi_core.common.text import escape

__all__ = ["Event", "Line", "Lost", "Note", "OutputClosed", "Skipped", "SourceError"]


OVERHEAD = 100
"""Characters that a line counts in addition to its text."""


class SourceError(Exception):
    """A feed or a file cannot be read. Its argument is a sentence for the user, or a list of sentences."""

    @property
    def sentences(self) -> list[str]:
        (what,) = self.args
        return what if isinstance(what, list) else [what]

    def __str__(self) -> str:
        return "\n".join(map(escape, self.sentences))


class OutputClosed(Exception):
    """The reader of our output has gone."""


@dataclass(slots=True)
class Line:
    """A line of the feed, with its text as received, not yet escaped."""

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
    """The name of its feed or file; '' if there is only one."""
    past: bool = field(default=False, compare=False)
    """Whether it was there before the viewer started."""

    @property
    def size(self) -> int:
        """Characters that it holds, with `OVERHEAD` for the object."""
        return len(self.message) + sum(map(len, self.fields.values())) + OVERHEAD


@dataclass(frozen=True, slots=True)
class Lost:
    """Lines are missing here: the feed had dropped them before we read them."""

    count: int
    past: bool = field(default=False, compare=False)
    """Whether all of them were there before the viewer started."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Lines came here too fast to be read, and were not drawn."""

    count: int


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence about the feed itself."""

    text: str


Event = Line | Lost | Skipped | Note
