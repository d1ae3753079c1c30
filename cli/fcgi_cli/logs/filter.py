"""Decides which lines are shown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate

from .events import Line
from .where import Comparison

__all__ = ["Filter", "Wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Conditions on lines. Each kind that is given must hold; of one kind any is enough, except that all of `where`
    must hold.

    Server names and applications are shell patterns (``*.example``) that ignore case; a request is given by the
    beginning of its identity.
    """

    level: int = 7
    server_names: tuple[str, ...] = ()
    applications: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    ignore_case: bool = False
    invert: bool = False
    where: tuple[Comparison, ...] = ()
    since: float = -math.inf
    until: float = math.inf

    @property
    def everything(self) -> bool:
        """Whether every line is wanted."""
        return self == Wanted(invert=self.invert, ignore_case=self.ignore_case)


class Filter:
    """Accepts the lines that are wanted."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._level = wanted.level
        self._server_name = _any_of(wanted.server_names)
        self._application = _any_of(wanted.applications)
        joined = "|".join(f"(?:{pattern})" for pattern in wanted.patterns)
        self.pattern = re.compile(joined, re.IGNORECASE if wanted.ignore_case else 0) if joined else None
        """What a message must contain, or must not if `wanted.invert`."""
        self._everything = wanted.everything

    def takes(self, line: Line) -> bool:
        if self._everything:
            return True
        wanted = self.wanted
        return (
            line.severity <= self._level
            and wanted.since <= line.time <= wanted.until
            and (self._server_name is None or self._server_name.match(line.server_name) is not None)
            and (self._application is None or self._application.match(line.application) is not None)
            and (not wanted.requests or line.request.startswith(wanted.requests))
            and (self.pattern is None or (self.pattern.search(line.message) is None) is wanted.invert)
            and all(comparison.holds(line) for comparison in wanted.where)
        )


def _any_of(patterns: Iterable[str]) -> re.Pattern[str] | None:
    joined = "|".join(translate(pattern) for pattern in patterns)
    return re.compile(joined, re.IGNORECASE) if joined else None
