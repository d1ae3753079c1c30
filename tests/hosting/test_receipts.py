"""Repetitions are told from what is new."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.hosting.receipts import (
    REMEMBERED_MEMBERS,
    REMEMBERED_RANGES,
    REMEMBERED_RANGES_OF_MEMBER,
    REMEMBERED_SENDERS,
    Receipts,
)

A, B = ("m", "a"), ("m", "b")


@given(st.lists(st.integers(1, 29)))
def test_each_number_is_new_once_in_any_order(order: list[int]) -> None:
    receipts = Receipts()
    seen: set[int] = set()
    for number in order:
        assert receipts.is_new(A, "c", number) is (number not in seen)
        seen.add(number)


def test_lower_numbers_that_were_not_seen_are_new() -> None:
    """After a restart of this side, by another association: it is new, or it would be lost."""
    receipts = Receipts()
    assert receipts.is_new(A, "c", 5000)
    assert receipts.is_new(A, "c", 5001)
    assert receipts.is_new(A, "c", 4000)


def test_senders_and_channels_are_distinguished() -> None:
    receipts = Receipts()
    assert receipts.is_new(A, "c", 5)
    assert receipts.is_new(B, "c", 5)
    assert receipts.is_new(A, "d", 5)
    assert not receipts.is_new(A, "c", 5)


def test_memory_is_bounded() -> None:
    receipts = Receipts()
    for number in range(1, 2 * REMEMBERED_RANGES, 2):
        assert receipts.is_new(A, "c", number)
    for number in range(10_000, 200_000):
        assert receipts.is_new(A, "c", number)
    assert not receipts.is_new(A, "c", 150_000)
    assert receipts.is_new(A, "c", 1), "forgotten: passed on again rather than lost"
    for sender in range(2 * REMEMBERED_SENDERS):
        receipts.is_new(("m", str(sender)), "c", 1)
    assert len(receipts._members["m"].seen) == REMEMBERED_SENDERS


def test_another_member_with_the_same_process_name_changes_nothing() -> None:
    """It took the other's instance, and what the other sent was taken for a repetition."""
    receipts = Receipts()
    for number in range(1, 1000):
        assert receipts.is_new(("hostile", "a"), "c", number)
    assert receipts.is_new(A, "c", 5)
    assert not receipts.is_new(A, "c", 5)


def test_a_member_of_many_processes_forgets_its_own_alone() -> None:
    receipts = Receipts()
    assert receipts.is_new(A, "c", 5)
    for process in range(2 * REMEMBERED_RANGES_OF_MEMBER // REMEMBERED_RANGES):
        for number in range(1, 2 * REMEMBERED_RANGES, 2):
            assert receipts.is_new(("hostile", str(process)), "c", number)
    for process in range(2 * REMEMBERED_SENDERS):
        receipts.is_new(("hostile", str(process)), "d", 1)
    hostile = receipts._members["hostile"]
    assert hostile.ranges == sum(map(len, hostile.seen.values())) <= REMEMBERED_RANGES_OF_MEMBER
    assert not receipts.is_new(A, "c", 5)
    for member in range(2 * REMEMBERED_MEMBERS):
        receipts.is_new((str(member), "a"), "c", 1)
    assert len(receipts._members) == REMEMBERED_MEMBERS
