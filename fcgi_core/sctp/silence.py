"""When a silent peer is given up: after one configured time, with every carrier, idle or busy.

SCTP counts retransmissions and unanswered heartbeats (RFC 9260 sections 8.1 to 8.3). How long that takes depends on the
round trip, on whether there is data to send, and on the stack: Linux and usrsctp count both together, so a busy
association would end in a third of an idle one's time. So the stacks get no limit, and a :class:`Watch` measures what
was configured: the time since the last packet. A living peer answers heartbeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

__all__ = ["DEAD_AFTER_MAX", "DEAD_AFTER_MIN", "ENDLESS", "Silence", "Watch", "silence"]

DEAD_AFTER_MIN, DEAD_AFTER_MAX = 2.0, 300.0
RTO_INITIAL, RTO_MIN, RTO_MAX = 0.5, 0.1, 3.0
"""RFC 9260 section 16 has 1 s for RTO_MIN, which is too much for a loss inside a data centre."""
ENDLESS = 65535
"""Retransmissions after which SCTP gives up: more than there can be within `DEAD_AFTER_MAX`."""
LOOKS = 8
"""Looks for a packet within `dead_after` at least, so that silence is noticed at most an eighth late."""
TOGETHER = 16
"""Looks are at multiples of this part of the time between them, so that the loop wakes up for many associations at
once: at rest, a wake-up costs more than a look."""
LOOK_EVERY = 1.5
"""Seconds between two looks at most."""


class Silence(NamedTuple):
    """Settings of RFC 9260 section 16, and `dead_after`, with the names that CarrierOptions has."""

    dead_after: float
    heartbeat_interval: float
    path_max_retransmissions: int
    rto_initial: float
    rto_max: float


def silence(dead_after: float) -> Silence:
    """Settings with which SCTP asks a peer often enough in `dead_after` seconds.

    Both timers, of retransmissions (busy) and of heartbeats (idle), begin with the RTO, at best `RTO_MIN`, and double
    it with each time-out up to `rto_max`; the heartbeat timer adds `heartbeat_interval`. `rto_max` is a seventh of
    `dead_after` and at most 3 s; `heartbeat_interval` is a third of `rto_max`. So the kernel carrier asks an idle peer
    at least three times, seven times on a fast path, and finds a path that returns soon; the userspace carrier asks
    seven times on any path (`Watch`). A round trip must stay below `rto_max`, or packets on their way count as lost.

    `path_max_retransmissions` is for the kernel carrier's peers with several addresses: time-outs of one path after
    which another is preferred, in about `dead_after` when idle. With r(k) = min(RTO_MIN * 2**k, rto_max) that is
    heartbeat_interval + r(0), then the sum of heartbeat_interval + r(k), k = 0 ... n.
    """
    rto_max = min(dead_after / 7, RTO_MAX)
    heartbeat = rto_max / 3
    rto = RTO_MIN
    idle = heartbeat + rto
    strikes = 0
    while idle + (heartbeat + rto) / 2 <= dead_after:
        idle += heartbeat + rto
        rto = min(2 * rto, rto_max)
        strikes += 1
    return Silence(dead_after, heartbeat, max(1, strikes - 1), min(RTO_INITIAL, rto_max), rto_max)


class Watch:
    """Calls `gone`, once, when an association's count of received packets has not changed for `dead_after` seconds.

    It does so between 1 and 1.25 times `dead_after`, on a loop that runs. It counts looks and does not compare clocks:
    a process that was stopped reads what has come meanwhile before it has looked often enough.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dead_after: float,
        received: Callable[[], int | None],
        gone: Callable[[], None],
        quiet: Callable[[], None] | None = None,
    ) -> None:
        """`quiet` is called at each look that finds no packet since the last one. A heartbeat that it sends, and its
        answer, are signs of life to both sides: at rest one of them sends one in two intervals, and the other none."""
        self._loop = loop
        self._looks = max(LOOKS, ceil(dead_after / LOOK_EVERY))
        self._interval = dead_after / self._looks
        self._grid = self._interval / TOGETHER
        self._received = received
        self._gone = gone
        self._quiet = quiet or _nothing
        self._count = received()
        self._still = 0
        self._handle = self._look_later()

    def _look_later(self) -> asyncio.TimerHandle:
        loop = self._loop
        return loop.call_at(ceil((loop.time() + self._interval) / self._grid) * self._grid, self._look)

    def _look(self) -> None:
        count = self._received()
        self._still = self._still + 1 if count == self._count else 0
        self._count = count
        if self._still >= self._looks:
            self._gone()
            return
        self._handle = self._look_later()
        if self._still:
            self._quiet()

    def stop(self) -> None:
        self._handle.cancel()
        self._received = self._gone = self._quiet = _nothing  # methods of the association, which holds this: a circle


def _nothing() -> None:
    """Replaces a call-back that is not called any more."""
