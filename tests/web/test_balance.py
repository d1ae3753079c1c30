"""Choosing a back end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.web.balance import AVOID_FOR, LEAST_SHARE, MAX_FAILURES, Health, choose


@dataclass(eq=False)
class BackEnd:
    weight: float = 1.0
    capacity: int = 100
    outstanding: int = 0
    health: Health = field(default_factory=lambda: Health(slow_start=10))


def give(back_ends: list[BackEnd], count: int, now: float = 0.0) -> Counter[int]:
    """Give requests that do not end; how many each got."""
    for _ in range(count):
        chosen = choose(back_ends, now)
        assert chosen is not None
        chosen.outstanding += 1
    return Counter({index: one.outstanding for index, one in enumerate(back_ends)})


def test_no_back_end_accepts_a_request() -> None:
    assert choose([], 0.0) is None
    assert choose([BackEnd(capacity=0)], 0.0) is None
    only = BackEnd()
    assert choose([only], 0.0, avoid=[only]) is None


@given(st.lists(st.integers(1, 8), min_size=1, max_size=6))
def test_requests_under_way_follow_the_weights(weights: list[int]) -> None:
    rounds = 12
    given_out = give([BackEnd(weight=weight) for weight in weights], rounds * sum(weights))
    for index, weight in enumerate(weights):
        assert given_out[index] == pytest.approx(rounds * weight, abs=2)


def one_at_a_time(back_ends: list[BackEnd], count: int, now: float = 0.0) -> list[int]:
    """Requests each of which ends before the next comes; who got them, by index."""
    given = []
    for _ in range(count):
        chosen = choose(back_ends, now)
        assert chosen is not None
        given.append(back_ends.index(chosen))
    return given


@given(st.lists(st.integers(1, 8), min_size=2, max_size=6))
def test_idle_back_ends_take_turns_by_their_weights(weights: list[int]) -> None:
    given_out = one_at_a_time([BackEnd(weight=weight) for weight in weights], 3 * sum(weights))
    assert Counter(given_out) == {index: 3 * weight for index, weight in enumerate(weights)}


def test_turns_are_spread() -> None:
    assert one_at_a_time([BackEnd(weight=5), BackEnd(), BackEnd()], 7) == [0, 0, 1, 0, 2, 0, 0]


def test_a_busy_back_end_leaves_its_turns_to_the_others() -> None:
    assert one_at_a_time([BackEnd(outstanding=1), BackEnd(), BackEnd()], 4) == [1, 2, 1, 2]


def test_an_avoided_back_end_has_no_turn() -> None:
    bad = BackEnd()
    bad.health.avoid_until = 10.0
    assert one_at_a_time([bad, BackEnd(), BackEnd()], 4, now=5.0) == [1, 2, 1, 2]
    assert one_at_a_time([bad, BackEnd(capacity=0)], 2, now=5.0) == [0, 0]


def test_slow_start_counts_in_turns() -> None:
    new, old = BackEnd(health=Health(slow_start=10)), BackEnd()
    new.health.came_up(100.0, first=False)
    assert one_at_a_time([new, old], 22, now=100.0).count(0) == 2


def test_slow_start_gives_little_at_first_and_all_in_time() -> None:
    new, old = BackEnd(health=Health(slow_start=10)), BackEnd()
    new.health.came_up(100.0, first=False)
    assert new.health.share(100.0) == LEAST_SHARE
    assert new.health.share(105.0) == 0.5
    few = give([new, old], 110, now=100.0)[0]
    assert 5 <= few <= 15
    assert new.health.share(110.0) == 1.0
    assert new.health.up_since is None


def test_the_first_start_is_not_slow() -> None:
    health = Health(slow_start=10)
    health.came_up(5.0, first=True)
    assert health.share(5.0) == 1.0


def test_failures_in_a_row_make_it_avoided_while_there_is_another() -> None:
    bad, good = BackEnd(), BackEnd(outstanding=90)
    for _ in range(MAX_FAILURES - 1):
        assert not bad.health.failed(0.0)
    bad.health.succeeded()
    for _ in range(MAX_FAILURES - 1):
        assert not bad.health.failed(0.0)
    assert bad.health.failed(0.0)
    assert choose([bad, good], 1.0) is good
    good.capacity = 0
    assert choose([bad, good], 1.0) is bad, "better than none"
    good.capacity = 1
    assert choose([bad, good], AVOID_FOR + 0.1) is bad
