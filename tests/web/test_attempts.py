"""One back-off for an application and its workers, on a clock that moves when told to."""

from __future__ import annotations

from fcgi_core.web.attempts import AT_ONCE, LAST_RETRY, Attempts
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
    attempts = Attempts(clock.loop)
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
