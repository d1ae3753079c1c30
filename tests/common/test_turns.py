"""Calls one after the other: in order, never two at once, and no thread waits for itself or without end."""

from __future__ import annotations

import os
import threading

import pytest

from fcgi_core.common.turns import Turns


def test_a_call_that_adds_others_is_not_interrupted_by_them() -> None:
    turns = Turns()
    seen: list[str] = []

    def outer() -> None:
        assert turns.mine
        turns.add(lambda: seen.append("inner"), patience=60)
        seen.append("outer")

    turns.add(outer)
    assert seen == ["outer", "inner"]
    assert not turns.mine
    assert len(turns) == 0


def test_a_thread_that_does_not_get_its_turn_leaves_its_call_to_the_other() -> None:
    turns = Turns()
    seen: list[str] = []
    entered, left = threading.Event(), threading.Event()

    def long() -> None:
        entered.set()
        assert left.wait(10)
        seen.append("long")

    other = threading.Thread(target=turns.add, args=(long,))
    other.start()
    assert entered.wait(10)
    turns.add(lambda: seen.append("at once"))
    turns.add(lambda: seen.append("after a while"), patience=0.01)
    assert seen == []
    assert len(turns) == 2
    left.set()
    other.join(10)
    assert seen == ["long", "at once", "after a while"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    turns = Turns()
    seen: list[str] = []
    entered, left = threading.Event(), threading.Event()

    def long() -> None:
        entered.set()
        assert left.wait(10)

    other = threading.Thread(target=turns.add, args=(long,))
    other.start()
    assert entered.wait(10)
    turns.add(lambda: seen.append("the parent's"))
    child = os.fork()
    if not child:
        turns.add(lambda: seen.append("the child's"))
        turns.add(lambda: seen.append("and another"))
        os._exit(0 if seen == ["the child's", "and another"] else 1)
    left.set()
    other.join(10)
    assert seen == ["the parent's"]
    assert os.waitpid(child, 0)[1] == 0


def test_many_threads_lose_no_call_and_never_overlap() -> None:
    turns = Turns()
    inside = 0
    most = 0
    made: list[tuple[int, int]] = []

    def call(thread: int, number: int) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        made.append((thread, number))
        inside -= 1

    def work(thread: int) -> None:
        for number in range(500):
            turns.add(lambda: call(thread, number), patience=10)  # noqa: B023  # made before the next, or while waiting

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1
    assert len(made) == 2000
    assert [number for thread, number in made if thread == 2] == list(range(500))
