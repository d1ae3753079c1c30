"""Which associations an application takes: bounds for all and for each address, and who gives way."""

from __future__ import annotations

import pytest

from fcgi_core.app.admission import SETTINGS_UNDER_PRESSURE, Admission, source_of


class Door:
    """An admission, and who was ended."""

    def __init__(self, most: int = 100, most_per_address: int = 8) -> None:
        self.ended: list[str] = []
        self.admission: Admission[str] = Admission(most, most_per_address, lambda one, why: self.ended.append(one))

    def enter(self, name: str, host: str = "192.0.2.1", now: float = 0.0, ready: bool = False) -> str:
        why = self.admission.enter(name, f"{host}:9899", now)
        if ready and not why:
            self.admission.ready(name)
        return why


def test_one_address_does_not_take_the_place_of_all_others() -> None:
    door = Door()
    refused = [bool(door.enter(f"a{number}", ready=True)) for number in range(200)]
    assert refused == [False] * 8 + [True] * 192
    assert door.enter("other", "192.0.2.2") == ""
    assert len(door.admission) == 9
    assert door.enter("a", ready=True) == "there are 8 associations with this address already"


def test_associations_without_settings_give_way_oldest_first() -> None:
    door = Door()
    for number in range(8):
        door.enter(f"a{number}", ready=number in (0, 3))
    assert [door.enter(f"b{number}", ready=True) for number in range(6)] == [""] * 6
    assert door.ended == ["a1", "a2", "a4", "a5", "a6", "a7"]
    assert door.enter("too many") != ""
    assert len(door.admission) == 8


def test_among_all_addresses_too() -> None:
    door = Door(most=3)
    for number in range(3):
        door.enter(f"a{number}", f"192.0.2.{number}", ready=number != 1)
    assert door.enter("new", "192.0.2.9", ready=True) == ""
    assert door.ended == ["a1"]
    assert door.enter("newer", "192.0.2.10") == "there are 3 associations already"


def test_deadlines_are_shorter_when_places_are_rare() -> None:
    door = Door()
    for number in range(5):
        door.enter(f"a{number}", ready=number == 4)
    assert door.enter("soon", now=SETTINGS_UNDER_PRESSURE / 2) == ""
    assert not door.ended
    assert door.enter("late", now=SETTINGS_UNDER_PRESSURE) == ""
    assert door.ended == ["a0", "a1", "a2", "a3"]
    assert len(door.admission) == 3


def test_an_association_that_left_frees_its_place_and_is_forgotten() -> None:
    door = Door(most_per_address=1)
    for _ in range(3):
        assert door.enter("a", ready=True) == ""
        door.admission.leave("a")
        door.admission.leave("a")
    assert len(door.admission) == 0
    assert not door.admission._by_source
    assert not door.admission._silent


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("192.0.2.7:9899", "192.0.2.7"),
        ("[2001:db8::1]:9899", "20010db800000000/64"),
        ("[2001:db8::ffff:1:2:3]:9899", "20010db800000000/64"),
        ("[fe80::1%eth0]:9899", "fe80000000000000/64"),
        ("memory:49152", "memory"),
    ],
)
def test_what_counts_as_one_address(peer: str, source: str) -> None:
    assert source_of(peer) == source
