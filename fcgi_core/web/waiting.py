"""The queue of requests that wait for an application, and its bounds in number, bytes and time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .exchange import State, Wait, WebExchange

__all__ = ["WaitingRequests"]

MAX_QUEUED_INPUT = 64 * 1024
"""Bytes of a waiting request's body from which on its connection is not read."""
MAX_WAITING_BYTES = 256 << 20
"""Bytes of PARAMS and bodies of waiting requests from which on a request is answered 503: 27 KiB for each of 10,000."""
OVERLOADED_FOR = 1.0
"""Seconds after an application's first refusal of a request, because it has too much to do, from which on the next
refusal is answered 503; a FastCGI server whose backlog is full refuses at once."""


class WaitingRequests:
    """Requests in state WAITING, the longest-waiting first; requests that were queued again are last. Times are the
    loop's."""

    def __init__(self, *, timeout: float, length: int) -> None:
        """`timeout`: seconds that a request may wait in all; `length`: requests that may wait."""
        self._timeout = timeout
        self._length = length
        self.queue: deque[WebExchange] = deque()
        self.size = 0
        """Bytes that the queued requests hold."""

    @property
    def is_full(self) -> bool:
        return len(self.queue) >= self._length or self.size > MAX_WAITING_BYTES

    def add(self, exchange: WebExchange, now: float) -> None:
        """Queue a request that no application has accepted yet."""
        if exchange.wait is None:
            exchange.wait = Wait(now + self._timeout)
        self.queue.append(exchange)
        self._count(exchange, exchange.wait)

    def add_again(self, exchange: WebExchange, now: float, overloaded: bool) -> bool:
        """Queue a request that an application refused, `overloaded` or ending, or was lost with. Return False, and do
        not queue it, if it has waited for too long: the time counts from the first refusal."""
        wait = exchange.wait = exchange.wait or Wait(now + self._timeout)
        if overloaded:
            if wait.overloaded_at is None:
                wait.overloaded_at = now
            if wait.overloaded_at + OVERLOADED_FOR < now:
                return False
        if wait.deadline < now:
            return False
        self.add(exchange, now)
        return True

    def grew(self, exchange: WebExchange) -> None:
        """Count input that came for a queued request, and stop to read its connection if that is too much."""
        if not exchange.input_closed and exchange.size_of_input() > MAX_QUEUED_INPUT:
            exchange.downstream.stop_reading(exchange)
        if exchange.wait is not None:
            self._count(exchange, exchange.wait)

    def serve(self, begin: Callable[[WebExchange], bool]) -> None:
        """Dequeue requests until `begin` returns False: no application accepts the next."""
        queue = self.queue
        while queue:
            exchange = queue[0]
            if exchange.state is not State.OVER and not begin(exchange):
                return
            queue.popleft()
            self._uncount(exchange)

    def remove_late(self, now: float) -> list[WebExchange]:
        """Dequeue and return the requests whose time is up, and those that are over already."""
        late = [one for one in self.queue if one.state is State.OVER or _is_late(one, now)]
        if late:
            self.queue = deque(one for one in self.queue if one.state is not State.OVER and not _is_late(one, now))
        for exchange in late:
            self._uncount(exchange)
        return late

    def _count(self, exchange: WebExchange, wait: Wait) -> None:
        self.size -= wait.size
        wait.size = len(exchange.raw_params) + exchange.size_of_input()
        self.size += wait.size

    def _uncount(self, exchange: WebExchange) -> None:
        assert exchange.wait is not None
        self.size -= exchange.wait.size
        exchange.wait.size = 0


def _is_late(exchange: WebExchange, now: float) -> bool:
    return exchange.wait is not None and exchange.wait.deadline < now
