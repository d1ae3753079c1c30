from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.common.bounded_queue import BoundedQueue, Budget, WhenFull


def dropping(
    bound: int, budget: Budget | None = None, when_full: WhenFull = WhenFull.LEAST_URGENT
) -> tuple[BoundedQueue, list[tuple[int, int]]]:
    """A queue, and the (urgency, size) of what it drops."""
    dropped: list[tuple[int, int]] = []
    return BoundedQueue(bound, lambda urgency, item: dropped.append((urgency, len(item))), budget, when_full), dropped


def test_items_come_out_in_order_whatever_their_urgency() -> None:
    queue, _ = dropping(100)
    assert not queue
    assert all(queue.push(item, urgency) for item, urgency in [(b"a", 6), (b"b", 0), (b"c", 3)])
    assert queue
    assert [queue.pop(), queue.pop(), queue.pop(), queue.pop()] == [b"a", b"b", b"c", b""]
    assert not queue


def test_when_full_the_oldest_of_the_least_urgent_goes() -> None:
    queue, dropped = dropping(10)
    for item, urgency in [(b"aaaa", 6), (b"bb", 3), (b"cc", 6), (b"dd", 7)]:
        assert queue.push(item, urgency)
    assert queue.push(b"ee", 5)
    assert dropped == [(7, 2)]
    assert queue.push(b"ff", 5)
    assert dropped == [(7, 2), (6, 4)]
    assert [queue.pop() for _ in range(5)] == [b"bb", b"cc", b"ee", b"ff", b""]


def test_an_item_no_more_urgent_than_the_rest_is_itself_dropped() -> None:
    queue, dropped = dropping(4)
    assert queue.push(b"aaaa", 3)
    assert not queue.push(b"b", 3)
    assert not queue.push(b"b", 4)
    assert dropped == [(3, 1), (4, 1)]
    assert queue.pop() == b"aaaa"


def test_the_oldest_goes_if_that_is_wished() -> None:
    queue, dropped = dropping(10, when_full=WhenFull.OLDEST)
    for item, urgency in [(b"aaaa", 0), (b"bb", 7), (b"cccc", 3)]:
        assert queue.push(item, urgency)
    assert queue.push(b"ddddd", 7)
    assert dropped == [(0, 4), (7, 2)], "whatever their urgency"
    assert not queue.push(b"x" * 11, 0)
    assert [queue.pop(), queue.pop(), queue.pop()] == [b"cccc", b"ddddd", b""]


def test_the_newest_goes_if_that_is_wished() -> None:
    queue, dropped = dropping(4, when_full=WhenFull.NEWEST)
    assert queue.push(b"aaa", 7)
    assert not queue.push(b"bb", 0)
    assert queue.push(b"c", 7)
    assert dropped == [(0, 2)]
    assert [queue.pop(), queue.pop()] == [b"aaa", b"c"]


def test_nothing_is_dropped_in_vain() -> None:
    queue, dropped = dropping(10)
    assert queue.push(b"u" * 7, 0)
    assert queue.push(b"o", 6)
    assert not queue.push(b"x" * 11, 0)  # larger than the queue
    assert not queue.push(b"x" * 4, 3)  # the urgent one would not make room
    assert dropped == [(0, 11), (3, 4)]
    assert queue.push(b"x" * 3, 3)
    assert dropped[2:] == [(6, 1)]


def test_queues_share_a_budget() -> None:
    budget = Budget(10)
    (one, _), (other, dropped) = dropping(8, budget), dropping(8, budget)
    assert one.push(b"a" * 6, 6)
    assert not other.push(b"b" * 6, 0)  # what another queue holds is not dropped for it
    assert other.push(b"b" * 4, 6)
    assert budget.used == 10
    assert other.push(b"c" * 4, 0)
    assert dropped == [(0, 6), (6, 4)]
    one.pop()
    other.pop()
    assert budget.used == 0


def test_drop_all_counts_everything() -> None:
    budget = Budget(100)
    queue, dropped = dropping(100, budget)
    for urgency in (6, 0, 6):
        queue.push(b"ab", urgency)
    queue.drop_all()
    assert sorted(dropped) == [(0, 2), (6, 2), (6, 2)]
    assert (budget.used, queue.size, queue.pop()) == (0, 0, b"")


STEPS = st.lists(st.none() | st.tuples(st.integers(1, 12), st.integers(0, 7)), max_size=60)


@given(STEPS, st.integers(1, 30), st.sampled_from([WhenFull.OLDEST, WhenFull.NEWEST]))
def test_oldest_and_newest_drop_only_at_the_ends(
    steps: list[tuple[int, int] | None], bound: int, when_full: WhenFull
) -> None:
    """Of the oldest or the newest: what is dropped is at the ends, and all is counted."""
    budget = Budget(bound + 5)
    queue, dropped = dropping(bound, budget, when_full)
    expected: list[tuple[bytes, int]] = []
    for number, step in enumerate(steps):
        if step is None:
            assert queue.pop() == (expected.pop(0)[0] if expected else b"")
        else:
            size, urgency = step
            item = number.to_bytes(1, "big") * size
            before = len(dropped)
            taken = queue.push(item, urgency)
            gone = dropped[before:]
            if when_full is WhenFull.OLDEST and taken:
                assert gone == [(level, len(old)) for old, level in expected[: len(gone)]]
                del expected[: len(gone)]
            else:
                assert gone == ([] if taken else [(urgency, size)])
            if taken:
                expected.append((item, urgency))
            elif when_full is WhenFull.OLDEST:
                assert size > bound
        assert queue.size == budget.used == sum(len(item) for item, _ in expected) <= bound


@given(STEPS, st.integers(1, 30))
def test_each_item_comes_out_or_is_counted_as_dropped(steps: list[tuple[int, int] | None], bound: int) -> None:
    budget = Budget(bound + 5)
    queue, dropped = dropping(bound, budget)
    pushed = popped = 0
    expected: list[tuple[bytes, int]] = []
    for number, step in enumerate(steps):
        if step is None:
            item = queue.pop()
            popped += bool(item)
            assert item == (expected.pop(0)[0] if expected else b"")
        else:
            size, urgency = step
            item = number.to_bytes(1, "big") * size
            before = len(dropped)
            pushed += 1
            if queue.push(item, urgency):
                for level, _ in dropped[before:]:
                    assert level > urgency
                    assert level == max(other for _, other in expected)
                    expected.remove(next(one for one in expected if one[1] == level))
                expected.append((item, urgency))
            else:
                assert dropped[before:] == [(urgency, size)]
        assert queue.size == budget.used == sum(len(item) for item, _ in expected) <= bound
        assert bool(queue) is bool(expected)
    assert pushed == popped + len(dropped) + len(expected)
