"""What a script waits for: a number of lines, or a line that matches; and the exit status for it."""

from __future__ import annotations

import os
import re

from .events import Line
from .pump import Pump

__all__ = ["Goal", "exit_status"]


class Goal:
    """Reached with the `count`-th line, or with a line that matches `pattern`; never if neither is given."""

    def __init__(self, count: int | None, pattern: str | None) -> None:
        self._left = count
        self._pattern = re.compile(pattern) if pattern is not None else None
        self.reached = count == 0

    def reached_with(self, line: Line) -> bool:
        """Count a line that is shown; return whether it is the last one."""
        if self._left is not None:
            self._left -= 1
            self.reached = self.reached or self._left <= 0
        if self._pattern is not None and self._pattern.search(line.message):
            self.reached = True
        return self.reached

    @property
    def status(self) -> int:
        """The exit status: 0 if the goal was reached or none was given, else 1."""
        asked = self._left is not None or self._pattern is not None
        return int(asked and not self.reached)


def exit_status(goal: Goal, pump: Pump) -> int:
    """The exit status of the command: the goal's, unless a source failed before it was reached."""
    if pump.failures and not goal.reached:
        return os.EX_UNAVAILABLE if len(pump.failures) == len(pump.sources) else 1
    return goal.status
