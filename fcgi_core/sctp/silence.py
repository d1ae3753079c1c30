"""When a peer that has fallen silent is given up: one time, from which SCTP's five settings follow."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEAD_AFTER_MAX", "DEAD_AFTER_MIN", "Silence", "silence"]

DEAD_AFTER_MIN, DEAD_AFTER_MAX = 2.0, 300.0
RTO_INITIAL, RTO_MIN, RTO_MAX = 0.5, 0.1, 3.0
"""RTO_MIN is what RFC 9260 has as 1 s: loss inside a data centre should not cost that."""


class Silence(NamedTuple):
    """Settings of RFC 9260 section 16, by the names that CarrierOptions has for them."""

    heartbeat_interval: float
    path_max_retransmissions: int
    association_max_retransmissions: int
    rto_initial: float
    rto_max: float


def silence(dead_after: float) -> Silence:
    """Settings with which an association whose peer is silent for about `dead_after` seconds is given up, idle or busy.

    A time-out of the retransmission timer (busy) or of the heartbeat timer (idle) is a strike; strike number
    ``retransmissions + 1`` without a sign of life between ends the path, and with its last path the association (RFC
    9260 sections 8.1 to 8.3). Both timers begin with the RTO, at best `RTO_MIN`, and double it with each strike up to
    `rto_max`; the heartbeat timer adds `heartbeat_interval`, and its first time-out only sends what is then not
    answered. So, with r(k) = min(RTO_MIN * 2**k, rto_max) and n retransmissions,

        idle    heartbeat_interval + r(0), then the sum of heartbeat_interval + r(k), k = 0 ... n
        busy    the sum of r(k), k = 0 ... n; it begins with the path's own RTO where that is more than RTO_MIN

    `rto_max` is a seventh of the time and not above 3 s, so that a path is looked at often enough to be found when it
    returns and several losses in a row mean nothing; a third of that between heartbeats keeps idle and busy near each
    other; and n is that with which *idle* is nearest to `dead_after`. Each r(k) of the heartbeat timer has a jitter of
    a half, which in the sum remains as a tenth or two. With the default, 10 s, busy ends after 5.8 s on a fast path and
    after 10 s on a slow one; Linux sends heartbeats while it is busy too and counts both, which may end it after a
    third of the time. A round trip must stay below `rto_max`, or what is on its way counts as lost.
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
    retransmissions = max(1, strikes - 1)
    # an association may fail on each of its paths as often as a path may: carriers bound it by the sum of the paths
    return Silence(heartbeat, retransmissions, 255, min(RTO_INITIAL, rto_max), rto_max)
