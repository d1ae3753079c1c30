"""Lines of one kind in the log: the first ones each, the others in one line that counts them.

A peer can cause such a line as often as it likes, by a packet for example. It must not fill the disk.
"""

from __future__ import annotations

import asyncio
import logging

__all__ = ["Repeats"]

AT_ONCE = 3
"""Lines that are written as they come, in each period."""
PERIOD = 60.0
"""Seconds after which the lines beyond AT_ONCE are reported in one."""


class Repeats:
    """Writes lines of one kind to a log, AT_ONCE + 1 in PERIOD at most. Nothing is lost but their texts."""

    def __init__(self, log: logging.Logger, level: int, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._level = level
        self._loop = loop
        self._written = 0
        self._more = 0
        self._last = ""
        self._period: asyncio.TimerHandle | None = None

    def log(self, text: str, times: int = 1) -> None:
        """What happened, `times` times."""
        if self._period is None:
            self._period = self._loop.call_later(PERIOD, self._over)
        if self._written < AT_ONCE:
            self._written += 1
            times -= 1
            self._log.log(self._level, "%s", text)
        if times:
            self._more += times
            self._last = text

    def _over(self) -> None:
        self._period = None
        self._written = 0
        self._report()

    def _report(self) -> None:
        if self._more:
            self._log.log(self._level, "%d more like this: %s", self._more, self._last)
            self._more = 0

    def close(self) -> None:
        """Report what is not reported yet; nothing more comes."""
        if self._period is not None:
            self._period.cancel()
            self._period = None
        self._report()
