"""One time, `dead_after`, and what follows from it; the lab measures what comes of it (tests/lab/test_silence.py)."""

from __future__ import annotations

import pytest

from fcgi_core.sctp.silence import DEAD_AFTER_MAX, DEAD_AFTER_MIN, RTO_MIN, silence

TIMES = [DEAD_AFTER_MIN, 2.5, 3, 5, 7.7, 10, 15, 20, 30, 60, 100, DEAD_AFTER_MAX]


@pytest.mark.parametrize("dead_after", TIMES)
@pytest.mark.parametrize("round_trip", [0.0, 0.2, 100.0])
def test_idle_and_busy_end_near_the_time(dead_after: float, round_trip: float) -> None:
    """The timers as RFC 9260 has them, step by step, without jitter."""
    chosen = silence(dead_after)
    base = min(max(RTO_MIN, round_trip), chosen.rto_max)
    busy, rto, strikes = 0.0, base, 0
    while strikes <= chosen.path_max_retransmissions:
        busy += rto
        rto = min(2 * rto, chosen.rto_max)
        strikes += 1
    idle, rto, strikes, asked = 0.0, base, 0, False
    while strikes <= chosen.path_max_retransmissions:
        idle += chosen.heartbeat_interval + rto
        if asked:
            strikes += 1
            rto = min(2 * rto, chosen.rto_max)
        asked = True
    assert 0.5 * dead_after <= busy <= 1.2 * dead_after
    assert 0.8 * dead_after <= idle <= 1.8 * dead_after if round_trip else idle <= 1.15 * dead_after


@pytest.mark.parametrize("dead_after", TIMES)
def test_settings_are_within_the_carriers_bounds(dead_after: float) -> None:
    chosen = silence(dead_after)
    assert chosen.heartbeat_interval >= 0.05
    assert 3 <= chosen.path_max_retransmissions <= 255
    assert RTO_MIN < chosen.rto_initial <= chosen.rto_max <= 3
    assert chosen.association_max_retransmissions == 255
