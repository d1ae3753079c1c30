"""Repetitions are told from what is new."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.receipts import REMEMBERED_RANGES, REMEMBERED_SENDERS, Receipts


@given(st.lists(st.integers(1, 29)))
def test_each_number_is_new_once_in_any_order(order: list[int]) -> None:
    receipts = Receipts()
    seen: set[int] = set()
    for number in order:
        assert receipts.is_new("a", "c", number) is (number not in seen)
        seen.add(number)


def test_what_was_sent_first_may_come_last() -> None:
    """After a restart of this side, by another association: it is new, or it would be lost."""
    receipts = Receipts()
    assert receipts.is_new("a", "c", 5000)
    assert receipts.is_new("a", "c", 5001)
    assert receipts.is_new("a", "c", 4000)


def test_senders_and_channels_are_told_apart() -> None:
    receipts = Receipts()
    assert receipts.is_new("a", "c", 5)
    assert receipts.is_new("b", "c", 5)
    assert receipts.is_new("a", "d", 5)
    assert not receipts.is_new("a", "c", 5)


def test_memory_is_bounded() -> None:
    receipts = Receipts()
    for number in range(1, 2 * REMEMBERED_RANGES, 2):
        assert receipts.is_new("a", "c", number)
    for number in range(10_000, 200_000):
        assert receipts.is_new("a", "c", number)
    assert not receipts.is_new("a", "c", 150_000)
    assert receipts.is_new("a", "c", 1), "forgotten: passed on again rather than lost"
    for sender in range(2 * REMEMBERED_SENDERS):
        receipts.is_new(str(sender), "c", 1)
    assert len(receipts._seen) == REMEMBERED_SENDERS
