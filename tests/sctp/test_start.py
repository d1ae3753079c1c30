"""When an association of the userspace carrier leaves slow start (usrsctp_start.c), without a network and a clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fcgi_core.sctp.userspace._usrsctp", reason="python setup.py build_ext --inplace")
from fcgi_core.sctp.userspace._usrsctp import ffi, lib

NO_BOUND = 0xFFFFFFFF
PACKET = 1372
HEADER = bytes(12)


class Path:
    """Sends packets and has them acknowledged, on a clock of its own; times in milliseconds."""

    def __init__(self, first: int = 0xFFFFFFF0) -> None:
        self.start = lib.start_begin()
        self.next = first
        self.now = 1000.0

    def chunk(self, kind: int, tsn: int) -> bytes:
        return bytes([kind, 3, 0, 20]) + (tsn & 0xFFFFFFFF).to_bytes(4) + bytes(12)

    def send(self, kind: int = 0, trip: float = 0.0) -> None:
        """Send a packet `trip` milliseconds before now."""
        packet = HEADER + self.chunk(kind, self.next)
        lib.start_sent(self.start, packet, len(packet), int((self.now - trip) * 1000))
        self.next += 1

    def round(self, *trips: float, kind: int = 0) -> None:
        """A packet for each of these round trips, then their acknowledgements one by one."""
        first = self.next
        self.now += 1000
        for trip in trips:
            self.send(kind, trip)
        for tsn in range(first, self.next):
            packet = HEADER + self.chunk(3, tsn)
            lib.start_received(self.start, packet, len(packet), int(self.now * 1000))

    def bound(self, window: int = 50_000) -> int:
        bound: int = lib.start_bound(self.start, window, PACKET)
        return bound


@pytest.fixture
def path() -> Iterator[Path]:
    path = Path()
    yield path
    lib.start_end(path.start)


def test_no_bound_while_the_round_trip_stays(path: Path) -> None:
    assert path.bound() == NO_BOUND
    for _ in range(20):
        path.round(*[100.0] * 30)
    assert path.bound() == NO_BOUND


@pytest.mark.parametrize("kind", [0, 0x40])
@pytest.mark.parametrize(("base", "rise"), [(1.0, 4.0), (80.0, 10.0), (400.0, 16.0)])
def test_eight_longer_round_trips_in_a_row_hold_the_window(path: Path, base: float, rise: float, kind: int) -> None:
    path.round(*[base] * 8, kind=kind)
    path.round(*[base + rise - 0.1] * 30, kind=kind)
    assert path.bound() == NO_BOUND, "below the threshold of RFC 9406"
    path.round(*[base + rise] * 7, base, *[base + rise] * 7, kind=kind)
    assert path.bound() == NO_BOUND, "seven in a row"
    path.round(base, *[base + rise] * 8, kind=kind)
    assert path.bound(60_000) == 60_000
    assert path.bound(70_000) == 60_000, "the library's window may still grow"


def test_a_small_window_is_not_held_below_sixteen_packets(path: Path) -> None:
    path.round(100.0)
    path.round(*[150.0] * 8)
    assert path.bound(4000) == 16 * PACKET


def test_a_queue_that_was_a_burst_ends_the_hold(path: Path) -> None:
    path.round(*[100.0] * 8)
    path.round(100.0, *[120.0] * 20)
    assert path.bound() != NO_BOUND
    path.round(*[130.0] * 10, 100.0, *[130.0] * 10)
    assert path.bound() != NO_BOUND, "the round is not over"
    path.round(*[130.0] * 7)
    assert path.bound() == NO_BOUND
    path.round(100.0, *[120.0] * 8)
    assert path.bound(80_000) == 80_000, "held again, at the window of now"


def test_a_queue_that_stays_ends_slow_start(path: Path) -> None:
    path.round(*[100.0] * 8)
    path.round(100.0, *[120.0] * 20)
    before = path.bound()
    path.round(*[120.0] * 20)
    path.round(*[120.0] * 20)
    path.round(*[100.0] * 20)  # which does not begin it again
    assert path.bound() == before + PACKET
    assert path.bound() == before + PACKET, "one packet a round"
    path.round(*[100.0] * 20)
    assert path.bound(before + PACKET) == before + 2 * PACKET
    for _ in range(10):
        path.round(*[100.0] * 20)
        assert path.bound(before) == before + 2 * PACKET, "what is not used is not raised"


def test_a_packet_that_is_sent_again_ends_the_start(path: Path) -> None:
    path.round(*[100.0] * 8)
    for _ in range(3):
        path.send()
    path.next -= 3
    path.send()
    assert path.bound() == 0


def test_more_packets_than_are_timed(path: Path) -> None:
    for _ in range(5):
        path.round(*[100.0] * 500)
    path.round(100.0, *[150.0] * 499)
    assert path.bound() != NO_BOUND


def test_chunks_before_the_one_that_counts(path: Path) -> None:
    sack = path.chunk(3, 7)
    packet = HEADER + sack + path.chunk(0, path.next)
    lib.start_sent(path.start, packet, len(packet), 1000)
    packet = HEADER + bytes([11, 0, 0, 4]) + path.chunk(3, path.next)  # COOKIE ACK before it
    for _ in range(2):  # the second acknowledges nothing new
        lib.start_received(path.start, packet, len(packet), 2000)
    path.next += 1
    path.round(*[100.0] * 8)
    assert path.bound() != NO_BOUND, "the first took 1 ms"


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60))))
def test_any_bytes(packets: list[tuple[bool, bytes]]) -> None:
    start = lib.start_begin()
    for out, packet in packets:
        data = ffi.from_buffer(packet)
        (lib.start_sent if out else lib.start_received)(start, data, len(packet), 1000)
        assert lib.start_bound(start, 50_000, PACKET) in (0, 50_000, NO_BOUND)
    lib.start_end(start)
