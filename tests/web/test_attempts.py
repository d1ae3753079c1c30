"""One back-off for an application and its workers, on a clock that moves when told to."""

from __future__ import annotations

import random

import pytest

from fcgi_core.web.attempts import AT_ONCE, FIRST_RETRY, LAST_RETRY, MOST_A_SECOND, Attempts, Away
from tests.clock import Clock


class Upstream:
    """Cannot be reached until `there`."""

    def __init__(self, attempts: Attempts, clock: Clock) -> None:
        self.tried: list[float] = []
        self.there = False
        self._attempts = attempts
        self._clock = clock

    def start(self) -> None:
        self.tried.append(self._clock.now)
        if self.there:
            self._attempts.hurry()
        else:
            self._attempts.later(self)


def some(count: int) -> tuple[Clock, Attempts, list[Upstream]]:
    clock = Clock()
    attempts = Attempts(clock.loop, Away())
    return clock, attempts, [Upstream(attempts, clock) for _ in range(count)]


def test_one_alone_is_tried_soon_at_first_and_then_within_half_a_second() -> None:
    clock, attempts, (one,) = some(1)
    attempts.later(one)
    clock.run_until(10)
    pauses = [after - before for before, after in zip([0.0, *one.tried], one.tried, strict=False)]
    assert pauses[0] < 0.06
    assert all(0.7 * LAST_RETRY - 1e-6 <= pause <= LAST_RETRY + 1e-6 for pause in pauses[4:])


def test_workers_that_cannot_be_reached_share_the_attempts() -> None:
    clock, attempts, workers = some(64)
    for one in workers:
        attempts.soon(one)
    clock.run_until(10)
    tried = sum(len(one.tried) for one in workers)
    assert tried <= 10 * AT_ONCE / (0.7 * LAST_RETRY) + 10
    assert all(one.tried for one in workers)


def test_when_one_is_there_the_others_are_tried_at_once() -> None:
    clock, attempts, workers = some(64)
    for one in workers:
        attempts.later(one)
    clock.run_until(20)
    for one in workers:
        one.there = True
        one.tried.clear()
    clock.run_until(20 + LAST_RETRY)
    assert all(len(one.tried) == 1 for one in workers)


def test_one_that_is_given_up_is_not_tried() -> None:
    clock, attempts, (one, other) = some(2)
    attempts.later(one)
    attempts.later(other)
    attempts.forget(one)
    clock.run_until(1)
    assert not one.tried
    assert other.tried
    attempts.forget(other)
    other.tried.clear()
    clock.run_until(5)
    assert not other.tried


# ---- many applications


def many(clock: Clock, away: Away, applications: int, workers: int = 1) -> list[Upstream]:
    """Applications that are all away from now on."""
    made = []
    for _ in range(applications):
        attempts = Attempts(clock.loop, away)
        made += [Upstream(attempts, clock) for _ in range(workers)]
        for one in made[-workers:]:
            attempts.later(one)
    return made


@pytest.mark.parametrize(("applications", "workers"), [(1000, 1), (250, 4), (15, 64)])
def test_many_applications_that_are_away_share_a_rate(applications: int, workers: int) -> None:
    clock, away = Clock(), Away()
    everyone = many(clock, away, applications, workers)
    clock.run_until(500)
    for one in everyone:
        one.tried.clear()
    clock.run_until(1000)
    tried = [len(one.tried) for one in everyone]
    assert sum(tried) <= 500 * MOST_A_SECOND
    assert min(tried) >= 0.5 * 500 * MOST_A_SECOND / len(everyone), "each has its share"


@pytest.mark.parametrize("back", [1000, 300])
def test_when_many_are_back_they_are_found_soon(back: int) -> None:
    clock, away = Clock(), Away()
    everyone = many(clock, away, 1000)
    clock.run_until(500)
    for one in everyone:
        one.tried.clear()
        one.there = False
    for one in random.Random(1).sample(everyone, back):
        one.there = True
    clock.run_until(501 if back == 1000 else 520)
    found = sum(one.there and bool(one.tried) for one in everyone)
    assert found >= 0.99 * back
    assert sum(len(one.tried) for one in everyone) <= 2.5 * len(everyone)


def test_one_that_has_just_gone_is_tried_soon_however_many_are_away() -> None:
    clock, away = Clock(), Away()
    many(clock, away, 1000)
    clock.run_until(100)
    (fresh,) = many(clock, away, 1)
    clock.run_until(101)
    assert fresh.tried[0] <= 100 + FIRST_RETRY
    assert len(fresh.tried) >= 4


def test_few_are_tried_as_often_as_one() -> None:
    clock, away = Clock(), Away()
    few = many(clock, away, 5)
    clock.run_until(100)
    assert all(len(one.tried) >= 100 / LAST_RETRY for one in few)


def test_those_that_are_not_away_any_more_do_not_count() -> None:
    clock, away = Clock(), Away()
    everyone = many(clock, away, 100)
    clock.run_until(10)
    for one in everyone[:60]:
        one.there = True
    for one in everyone[60:]:
        one._attempts.forget(one)
    clock.run_until(20)
    assert away.count == 0
    assert away.longest == LAST_RETRY
