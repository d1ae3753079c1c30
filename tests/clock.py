"""A clock that moves when told to, with as much of asyncio's loop as timers need."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Any, cast

__all__ = ["Clock"]


class Clock:
    """`loop` is itself, for who wants an event loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = count()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return cast(asyncio.AbstractEventLoop, self)

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        return self.call_at(self.now, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self.loop)
        heapq.heappush(self._due, (handle.when(), next(self._order), handle))
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context["exception"]

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def run_until(self, when: float) -> None:
        """Let everything happen up to `when`, which then is the time."""
        while self._due and self._due[0][0] <= when:
            due, _, handle = heapq.heappop(self._due)
            self.now = max(self.now, due)
            if not handle.cancelled():
                handle._run()
        self.now = max(self.now, when)

    def stop_until(self, when: float) -> None:
        """As after SIGSTOP: time passes, and what was due meanwhile happens then, once."""
        self.now = when
        late, self._due = self._due, []
        for due, order, handle in sorted(late):
            if due > when:
                heapq.heappush(self._due, (due, order, handle))
            elif not handle.cancelled():
                handle._run()
