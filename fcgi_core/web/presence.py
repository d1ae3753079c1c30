"""What is logged of an application that comes and goes.

An absence costs a line when it begins, a line for the first attempt that fails, and then a line every REMIND seconds,
whatever the reasons are. An application that comes and goes all the time costs no line each time.
"""

from __future__ import annotations

import asyncio
import logging

from ..sctp.carrier import Address

__all__ = ["Presence"]

STEADY = 10.0
"""Seconds that an association lasts which ends an absence; a shorter one belongs to it."""
MAX_BRIEF = 3
"""Associations in a row that did not last, after which their beginnings and ends are not logged one by one."""
REMIND = 300.0
"""Seconds between log lines about an application that is still away."""


class Presence:
    """Follows the associations with one application, one after the other, and logs what is worth a line."""

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop, log: logging.Logger) -> None:
        self._log = log
        self._address = address
        self._loop = loop
        self._attempts = 0
        """Attempts that failed in this absence."""
        self._away_since = loop.time()
        self._up_at = 0.0
        self._brief = 0
        """Associations in a row that did not last."""
        self._logged_at: float | None = None
        self._steady: asyncio.TimerHandle | None = None

    @property
    def flaps(self) -> bool:
        """Whether the application comes and goes, so that no line is written each time."""
        return self._brief >= MAX_BRIEF

    def level(self, level: int) -> int:
        """Return the level of a log line about one association: DEBUG where such lines would fill the log."""
        return logging.DEBUG if self.flaps else level

    def came_up(self, association: int, name: str) -> None:
        """Log that the association with this number is up."""
        self._up_at = now = self._loop.time()
        absence = f" after {now - self._away_since:.0f} s, {self._attempts} attempts failed" if self._attempts else ""
        self._log.log(
            self.level(logging.INFO),
            "association %d with application %s at %s is up%s",
            *(association, name, self._address, absence),
        )
        if self.flaps:
            self._steady = self._loop.call_later(STEADY, self._is_steady, association)

    def _is_steady(self, association: int) -> None:
        self._steady = None
        self._log.info("association %d with application %s is up and stays", association, self._address)

    def went_down(self) -> bool:
        """Return whether the association that was up had lasted."""
        if self._steady is not None:
            self._steady.cancel()
            self._steady = None
        now = self._loop.time()
        if now - self._up_at < STEADY:
            self._brief += 1
            return False
        self._brief = self._attempts = 0
        self._away_since = now
        self._logged_at = None
        return True

    def failed(self, why: str, level: int) -> None:
        """Log that an attempt failed, or an association did not last; the first time with `level`."""
        self._attempts += 1
        now = self._loop.time()
        if self._logged_at is not None and now - self._logged_at < REMIND:
            self._log.debug("no association with %s: %s", self._address, why)
            return
        self._logged_at = now
        if self._attempts == 1:
            self._log.log(level, "no association with %s: %s; retrying", self._address, why)
        else:
            self._log.warning(
                "application %s has been away for %.0f s, %d attempts failed: %s",
                *(self._address, now - self._away_since, self._attempts, why),
            )
