"""How an application is relieved that refuses requests because it has too much to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .attempts import FIRST_RETRY, LAST_RETRY

__all__ = ["Overload"]


class Overload:
    """Limits an application, after it refused a request, to the requests that it has: it gets the next when one of them
    has ended, or after a pause that doubles with each refusal in a row."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_relief: Callable[[], None]) -> None:
        self._loop = loop
        self._on_relief = on_relief
        self.most: int | None = None
        """Most requests that the application gets now; None: there is no limit."""
        self.pause = FIRST_RETRY
        """Seconds until the limit ends; an answer makes them FIRST_RETRY again."""
        self._timer: asyncio.TimerHandle | None = None

    def refused(self, requests: int) -> None:
        """Limit the application to `requests`, which it has after its refusal."""
        self.most = requests
        if self._timer is None:
            self._timer = self._loop.call_later(self.pause, self._relieve)
            self.pause = min(self.pause * 2, LAST_RETRY)

    def _relieve(self) -> None:
        self._timer = self.most = None
        self._on_relief()

    def end(self) -> None:
        """End the limit: the association is lost."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.most = None
        self.pause = FIRST_RETRY
