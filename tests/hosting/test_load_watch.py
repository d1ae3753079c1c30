"""What is reported of content that waits for the congestion window, and which round trip counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fcgi_core.hosting.load_watch import LONG_ROUND_TRIP, REMEMBERED, REST, LoadWatch
from fcgi_core.sctp.memory import MemoryAssociation
from fcgi_core.sctp.statistics import AssociationStatistics

from .processes import Processes

WINDOW = 15_000
SIZE = 5_000_000


class Watched:
    """The application's side of an association of which SCTP tells what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, round_trip: float | None) -> None:
        self.processes = Processes(1, window=1 << 16)
        self.figures = AssociationStatistics(round_trip=round_trip, congestion_window=WINDOW)
        monkeypatch.setattr(MemoryAssociation, "statistics", lambda association: self.figures)
        self.reports: list[tuple[int, int, float]] = []
        self.driver = self.processes.app.links[1].driver
        self.watch: LoadWatch = self.driver.watch_load(lambda *figures: self.reports.append(figures))

    def shows(self, round_trip: float | None) -> None:
        self.figures = replace(self.figures, round_trip=round_trip)

    def send(self) -> None:
        """Send more than the association has room for."""
        self.processes.web.begin(1)
        self.processes.run()
        self.driver.connection.send_output(self.processes.app.requests[-1].request, bytes(SIZE))
        self.driver.wake()
        self.processes.run(0.001)


def test_what_waits_is_reported_after_a_round_trip_and_when_nothing_waits_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch, 0.1)
    watched.send()
    assert watched.reports == []
    watched.processes.run(0.1)
    ((waiting, window, round_trip),) = watched.reports
    assert 0 < waiting < SIZE
    assert (window, round_trip) == (WINDOW, 0.1)
    watched.processes.run(60)
    assert watched.reports[-1] == (0, WINDOW, 0.1)


def test_nothing_is_reported_where_the_round_trip_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, LONG_ROUND_TRIP * 0.9)
    watched.send()
    watched.processes.run(60)
    assert watched.reports == []


@pytest.mark.parametrize("unknown", [None, 0.0])
def test_a_round_trip_that_is_not_known_yet_is_no_short_one(
    unknown: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells 0 until a message has been acknowledged."""
    watched = Watched(monkeypatch, unknown)
    assert watched.watch.round_trip is None
    watched.send()
    watched.processes.run(0.05)
    watched.shows(0.1)
    watched.processes.run(REST)
    assert watched.watch.round_trip == 0.1
    assert watched.reports


def test_the_shortest_round_trip_of_late_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, 0.001)
    for seconds, shown, shortest in (
        (1, 0.2, 0.001),  # a queue
        (REMEMBERED, 0.1, 0.001),
        (REMEMBERED / 2, 0.3, 0.001),
        (REMEMBERED, 0.3, 0.1),
        (3 * REMEMBERED, 0.25, 0.25),  # nothing waited for long
        (1, 0.0, 0.25),
    ):
        watched.processes.run(seconds)
        watched.shows(shown)
        watched.watch.measure()
        assert watched.watch.round_trip == shortest
