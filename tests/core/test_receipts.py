"""Repetitions are told from what is new."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.receipts import REMEMBERED_NUMBERS, REMEMBERED_SENDERS, Receipts


@given(st.permutations(list(range(1, 30))), st.lists(st.integers(1, 29)))
def test_each_number_is_new_once_in_any_order(order: list[int], repeated: list[int]) -> None:
    receipts = Receipts()
    receipts.is_new("a", "c", 0)
    seen = set()
    for number in order[:15]:
        assert receipts.is_new("a", "c", number)
        seen.add(number)
    for number in repeated:
        assert receipts.is_new("a", "c", number) is (number not in seen)
        seen.add(number)


def test_senders_and_channels_are_told_apart() -> None:
    receipts = Receipts()
    assert receipts.is_new("a", "c", 5)
    assert receipts.is_new("b", "c", 5)
    assert receipts.is_new("a", "d", 5)
    assert not receipts.is_new("a", "c", 5)


def test_memory_is_bounded() -> None:
    receipts = Receipts()
    receipts.is_new("a", "c", 1)
    for number in range(3, REMEMBERED_NUMBERS + 100):
        assert receipts.is_new("a", "c", number)
    assert not receipts.is_new("a", "c", REMEMBERED_NUMBERS)
    assert len(receipts._seen["a", "c"].above) <= REMEMBERED_NUMBERS
    for sender in range(2 * REMEMBERED_SENDERS):
        receipts.is_new(str(sender), "c", 1)
    assert len(receipts._seen) == REMEMBERED_SENDERS
