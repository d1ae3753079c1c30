"""Which lines of the feed are shown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

from .logs_source import Line

__all__ = ["Filter"]


class Filter:
    """Takes a line that each kind of condition given takes; of several of a kind, one is enough.

    Server names and applications are patterns as a shell has them (``*.example``), in any case; a request is named by
    the beginning of its identity.
    """

    def __init__(
        self,
        *,
        level: int = 7,
        server_names: Iterable[str] = (),
        applications: Iterable[str] = (),
        requests: Iterable[str] = (),
        patterns: Iterable[str] = (),
        ignore_case: bool = False,
        invert: bool = False,
    ) -> None:
        self._level = level
        self._server_name = _any_of(server_names)
        self._application = _any_of(applications)
        self._requests = tuple(requests)
        joined = "|".join(f"(?:{pattern})" for pattern in patterns)
        self.pattern = re.compile(joined, re.IGNORECASE if ignore_case else 0) if joined else None
        """What a message has to have, or if `inverted` must not have."""
        self.inverted = invert

    def takes(self, line: Line) -> bool:
        return (
            line.severity <= self._level
            and (self._server_name is None or self._server_name.match(line.server_name) is not None)
            and (self._application is None or self._application.match(line.application) is not None)
            and (not self._requests or line.request.startswith(self._requests))
            and (self.pattern is None or (self.pattern.search(line.message) is None) is self.inverted)
        )


def _any_of(patterns: Iterable[str]) -> re.Pattern[str] | None:
    joined = "|".join(translate(pattern) for pattern in patterns)
    return re.compile(joined, re.IGNORECASE) if joined else None
