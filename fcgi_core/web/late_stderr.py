"""Answers that are complete but for STDERR that the application sent before their end and that is late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..protocol.events import RequestEnded
from ..protocol.request import Request
from .exchange import State, WebExchange

__all__ = ["LateStderr", "stderr_missing"]

STDERR_WITHIN = 0.5
"""Seconds that an answer's end waits for its STDERR: a few retransmissions of a fast path. What comes later reaches the
plugins, and not the web server."""


def stderr_missing(event: RequestEnded) -> int:
    """Return how many bytes of an ended request's STDERR are still on their way."""
    return (event.stderr - event.request.stderr_bytes) % (1 << 24)


class LateStderr:
    """Holds ends of requests until their STDERR has come, or takes too long; then it ends them and calls `finished`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, finished: Callable[[WebExchange], None]) -> None:
        self._loop = loop
        self._finished = finished
        self.ends: dict[Request, tuple[WebExchange, RequestEnded, asyncio.TimerHandle]] = {}

    def wait(self, exchange: WebExchange, event: RequestEnded) -> None:
        """Hold the end of a request."""
        timer = self._loop.call_later(STDERR_WITHIN, self._release, event.request)
        self.ends[event.request] = (exchange, event, timer)

    def stderr_came(self, request: Request) -> None:
        """Release the request's end if nothing is missing any more."""
        if request in self.ends and not stderr_missing(self.ends[request][1]):
            self._release(request)

    def release_all(self) -> None:
        """Wait no longer: the association is lost."""
        for request in tuple(self.ends):
            self._release(request)

    def _release(self, request: Request) -> None:
        exchange, event, timer = self.ends.pop(request)
        timer.cancel()
        if exchange.state is not State.OVER:  # the client may have gone
            exchange.end(event.app_status, event.status)
            self._finished(exchange)
