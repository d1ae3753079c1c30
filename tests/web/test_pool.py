"""How many associations there are, and which of them a request takes: arithmetic."""

from __future__ import annotations

import pytest

from fcgi_core.hosting.load_watch import LONG_ROUND_TRIP
from fcgi_core.web.pool import (
    ANSWER,
    IDLE,
    LEAST_WINDOW,
    MOST_WINDOW,
    TRIPS,
    Answers,
    Load,
    fitting,
    pick,
    to_end,
    to_make,
)

WINDOW = LEAST_WINDOW
TRIP = 0.1


class One:
    def __init__(self, requests: int = 0, waiting: int = 0, window: int = WINDOW, trip: float = TRIP) -> None:
        self.requests = requests
        self.load = load(waiting, window, trip)


def load(waiting: int = 0, window: int = WINDOW, trip: float = TRIP) -> Load:
    made = Load()
    made.came(waiting, window, trip)
    return made


def place(*ones: One, answer: float = ANSWER) -> int:
    return ones.index(pick(ones, answer))


def test_what_fits_the_window_takes_a_round_trip() -> None:
    assert load().wait(0, 100) == TRIP
    assert load(waiting=2 * WINDOW).wait(0, WINDOW) == pytest.approx(3 * TRIP)


def test_a_request_goes_where_the_least_waits() -> None:
    assert place(One(waiting=90_000), One(waiting=10_000), One(waiting=50_000)) == 1


def test_a_long_answer_does_not_collect_short_ones() -> None:
    """One association has a long answer: the others get so many requests before it gets one that all wait alike."""
    ones = [One(requests=1, waiting=256 << 10), One(), One()]
    for _ in range(16):
        ones[place(*ones)].requests += 1
    assert ones[0].requests == 1
    assert abs(ones[1].requests - ones[2].requests) <= 1


def test_of_equal_associations_the_older_is_taken_so_that_the_others_come_to_rest() -> None:
    assert place(One(), One(), answer=100) == 0
    assert place(One(requests=3), One(trip=0.97 * TRIP), answer=100) == 0


def test_requests_beyond_the_window_are_spread() -> None:
    ones = [One() for _ in range(6)]
    for _ in range(30):
        ones[place(*ones)].requests += 1
    assert max(one.requests for one in ones) - min(one.requests for one in ones) <= 1


def test_one_whose_round_trip_is_not_known_does_not_collect_them() -> None:
    """The kernel's is known when a message of this side was acknowledged, which may be after the first requests."""
    for known in ([], [One()]):
        ones = [*known, *(One(trip=0.0) for _ in range(5))]
        for _ in range(30):
            ones[place(*ones)].requests += 1
        assert max(one.requests for one in ones) - min(one.requests for one in ones) <= 1


def test_a_window_that_is_small_after_a_loss_costs_and_a_large_one_does_not_take_all() -> None:
    assert place(One(requests=2, window=WINDOW), One(requests=2, window=2 * WINDOW)) == 1
    assert load(window=100).wait(5, ANSWER) == load(window=LEAST_WINDOW).wait(5, ANSWER)
    assert load(window=1 << 20).wait(5, ANSWER) == load(window=MOST_WINDOW).wait(5, ANSWER)


def test_a_slower_path_costs() -> None:
    assert place(One(trip=0.3), One(), answer=100) == 1


def test_uploads_that_wait_here_count() -> None:
    ones = [One(), One()]
    ones[0].load.here(10 * WINDOW, WINDOW, TRIP, TRIP)
    assert place(*ones) == 1
    assert to_make([ones[0].load], 1, 2, 100) >= 1


def test_none_is_made_on_a_short_path_whatever_waits() -> None:
    for trip in (0.0, 0.0002, LONG_ROUND_TRIP * 0.99):
        assert to_make([load(30 << 20, trip=trip)], 1, 1000, 1 << 20) == 0


def test_the_shortest_round_trip_counts_for_later_ones_have_waited_in_queues() -> None:
    one = load(trip=0.001)
    one.came(30 << 20, WINDOW, 0.5)
    assert to_make([one], 1, 1000, 1 << 20) == 0


def test_none_is_made_while_one_is_enough() -> None:
    assert to_make([load()], 1, 3, ANSWER) == 0
    assert to_make([load()], 1, fitting([load()], 1000) - 1, 1000) == 0


def test_one_long_answer_does_not_come_sooner_on_several() -> None:
    assert to_make([load(10 << 20)], 1, 1, ANSWER) == 0


def test_as_many_are_made_as_carry_what_waits() -> None:
    carried = TRIPS * WINDOW
    assert to_make([load(carried)], 1, 30, 1) == 0
    assert to_make([load(carried + 1)], 1, 30, 1) == 1
    assert to_make([load(4 * carried)], 1, 30, 1) == 3
    assert to_make([load(4 * carried)], 3, 30, 1) == 1  # two of them are being made
    assert to_make([load(4 * carried)], 1, 2, 1) == 1  # not more than requests


def test_a_burst_is_expected_to_wait_before_it_does() -> None:
    assert to_make([load()], 1, 30, ANSWER) > 5


def test_what_answers_bring_is_learned() -> None:
    answers = Answers()
    assert answers.size == ANSWER
    for _ in range(100):
        answers.came(500)
    assert answers.size < 600
    assert to_make([load()], 1, 90, answers.size) == 0


def test_those_without_a_request_for_long_are_ended_but_the_first() -> None:
    assert to_end([IDLE * 2, IDLE, IDLE - 1, IDLE + 1]) == [1, 3]
    assert to_end([IDLE * 2]) == []
