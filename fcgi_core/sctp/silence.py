"""When a peer that has fallen silent is given up: one time, the same for every carrier, idle or busy.

SCTP itself counts what goes unanswered (RFC 9260 sections 8.1 to 8.3), and how long that takes depends on the path's
round trip, on whether there is data to send, and on the stack: Linux and usrsctp both count unacknowledged data and
unanswered heartbeats together, so that a busy association would end after a third of an idle one's time. So the
stacks are told to count on and on, and a :class:`Watch` measures what was configured: the time since the last packet.
Heartbeats see to it that a peer which lives has something to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

__all__ = ["DEAD_AFTER_MAX", "DEAD_AFTER_MIN", "ENDLESS", "Silence", "Watch", "silence"]

DEAD_AFTER_MIN, DEAD_AFTER_MAX = 2.0, 300.0
RTO_INITIAL, RTO_MIN, RTO_MAX = 0.5, 0.1, 3.0
"""RTO_MIN is what RFC 9260 has as 1 s: loss inside a data centre should not cost that."""
ENDLESS = 65535
"""Retransmissions after which SCTP itself would give up: more than there can be within `DEAD_AFTER_MAX`."""
LOOKS = 8
"""Looks for a packet within `dead_after`, at least; how much later than that silence is noticed: at most one look in
eight."""
LOOK_EVERY = 1.5
"""Seconds between looks at most."""


class Silence(NamedTuple):
    """Settings of RFC 9260 section 16 and our own, by the names that CarrierOptions has for them."""

    dead_after: float
    heartbeat_interval: float
    path_max_retransmissions: int
    rto_initial: float
    rto_max: float


def silence(dead_after: float) -> Silence:
    """Settings with which a peer that was silent for `dead_after` seconds had been asked often enough.

    Both timers, of retransmissions (busy) and of heartbeats (idle), begin with the RTO, at best `RTO_MIN`, and double
    it with each time-out up to `rto_max`; the heartbeat timer adds `heartbeat_interval`. `rto_max` is a seventh of the
    time and not above 3 s, and a third of that is between heartbeats. So an idle peer is asked three times at the very
    least, on a fast path seven times, and a path that returns is found soon. A round trip must stay below `rto_max`, or
    what is on its way counts as lost.

    `path_max_retransmissions` is for the kernel carrier's peers with several addresses: time-outs of one path after
    which another is preferred, about `dead_after` for an idle one. With r(k) = min(RTO_MIN * 2**k, rto_max) that is
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
    """Looks at an association's count of received packets; calls `gone`, once, when it has stood still for long.

    Never before `dead_after` seconds without a packet, and a quarter later at most on a loop that runs. Looks are
    counted and not clocks compared: a process that was itself stopped reads what has come meanwhile before it looks
    as often as it takes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dead_after: float,
        received: Callable[[], int | None],
        gone: Callable[[], None],
        quiet: Callable[[], None] | None = None,
    ) -> None:
        """`quiet` is called at each look for which nothing has come since the last one."""
        self._loop = loop
        self._looks = max(LOOKS, ceil(dead_after / LOOK_EVERY))
        self._interval = dead_after / self._looks
        self._received = received
        self._gone = gone
        self._quiet = quiet or _nothing
        self._count = received()
        self._still = 0
        self._handle = loop.call_later(self._interval, self._look)

    def _look(self) -> None:
        count = self._received()
        self._still = self._still + 1 if count == self._count else 0
        self._count = count
        if self._still >= self._looks:
            self._gone()
            return
        self._handle = self._loop.call_later(self._interval, self._look)
        if self._still:
            self._quiet()

    def stop(self) -> None:
        self._handle.cancel()
        self._received = self._gone = self._quiet = _nothing  # they are methods of what holds this watch: a circle


def _nothing() -> None:
    """In the place of a call-back that is not called any more."""
