"""One time, `dead_after`, and what follows from it; test_userspace_processes and the lab measure what comes of it."""

from __future__ import annotations

import pytest

from fcgi_core.sctp.silence import DEAD_AFTER_MAX, DEAD_AFTER_MIN, ENDLESS, LOOK_EVERY, RTO_MIN, Watch, silence
from tests.clock import Clock

TIMES = [DEAD_AFTER_MIN, 2.5, 3, 5, 7.7, 10, 15, 20, 30, 60, 100, DEAD_AFTER_MAX]


@pytest.mark.parametrize("dead_after", TIMES)
def test_a_peer_is_asked_often_enough_and_not_given_up_by_the_stack(dead_after: float) -> None:
    """The timers as RFC 9260 has them, on a fast path and on a slow one, jitter of a half at its worst."""
    chosen = silence(dead_after)
    for base in (RTO_MIN, chosen.rto_max):
        asked, at, rto = 0, 0.0, base
        while (at := at + chosen.heartbeat_interval + 1.5 * rto) < dead_after:
            asked += 1
            rto = min(2 * rto, chosen.rto_max)
        assert asked >= 3
    # data and heartbeats of 8 paths, each at its quickest
    strikes = 1.25 * dead_after * (1 / RTO_MIN + 8 / (chosen.heartbeat_interval + RTO_MIN / 2))
    assert strikes < ENDLESS


@pytest.mark.parametrize("dead_after", TIMES)
def test_an_idle_path_among_several_fails_at_about_the_time(dead_after: float) -> None:
    chosen = silence(dead_after)
    idle, rto, strikes, asked = 0.0, RTO_MIN, 0, False
    while strikes <= chosen.path_max_retransmissions:
        idle += chosen.heartbeat_interval + rto
        if asked:
            strikes += 1
            rto = min(2 * rto, chosen.rto_max)
        asked = True
    assert 0.8 * dead_after <= idle <= 1.15 * dead_after


@pytest.mark.parametrize("dead_after", TIMES)
def test_settings_are_within_the_carriers_bounds(dead_after: float) -> None:
    chosen = silence(dead_after)
    assert chosen.dead_after == dead_after
    assert chosen.heartbeat_interval >= 0.05
    assert 3 <= chosen.path_max_retransmissions <= 255
    assert RTO_MIN < chosen.rto_initial <= chosen.rto_max <= 3


class Peer:
    """Packets that come, and when the watch gave up."""

    def __init__(self, dead_after: float) -> None:
        self.clock = Clock()
        self.received = 0
        self.gone: list[float] = []
        self.quiet: list[float] = []
        self.watch = Watch(
            self.clock.loop,
            dead_after,
            lambda: self.received,
            lambda: self.gone.append(self.clock.now),
            lambda: self.quiet.append(self.clock.now),
        )


@pytest.mark.parametrize("last", [0.0, 0.3, 1.24, 1.26, 7.0, 33.3])
def test_not_before_the_time_and_not_long_after(last: float) -> None:
    peer = Peer(10)
    heard = 0.0
    while heard + 2 < last:
        heard += 2
        peer.clock.run_until(heard)
        peer.received += 1
    peer.clock.run_until(last)
    peer.received += last > 0
    peer.clock.run_until(last + 60)
    (gone,) = peer.gone
    assert 10 <= gone - last <= 12.5


def test_a_peer_that_speaks_once_in_a_while_lives() -> None:
    peer = Peer(10)
    for second in range(0, 1000, 9):
        peer.clock.run_until(second)
        peer.received += 1
    assert not peer.gone


def test_a_process_that_was_stopped_itself_reads_first() -> None:
    peer = Peer(10)
    peer.clock.run_until(1)
    peer.clock.stop_until(300)  # one look is made before anything is read
    peer.clock.run_until(302)
    peer.received += 1
    peer.clock.run_until(309)
    assert not peer.gone


def test_a_stopped_watch_calls_nothing() -> None:
    peer = Peer(10)
    peer.clock.run_until(9)
    peer.watch.stop()
    peer.clock.run_until(100)
    assert not peer.gone


@pytest.mark.parametrize("dead_after", TIMES)
def test_a_peer_that_falls_silent_is_noticed_within_three_seconds(dead_after: float) -> None:
    peer = Peer(dead_after)
    for tenth in range(50):
        peer.clock.run_until(tenth / 10)
        peer.received += 1
    assert not peer.quiet
    peer.clock.run_until(4.9 + 2 * LOOK_EVERY)
    assert peer.quiet
    assert not peer.gone or dead_after <= 2 * LOOK_EVERY
