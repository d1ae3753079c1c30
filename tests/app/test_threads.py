"""Threads that run blocking applications."""

from __future__ import annotations

import threading

import pytest

from fcgi_core.app.threads import ThreadPool


def test_foreign_code_can_run_while_a_thread_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a thread runs much of Python's own code, where a destructor may run that reads a request's body."""
    pool = ThreadPool(2, 4)
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name.startswith("request"):
            pool.begin_waiting()
            pool.end_waiting()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    done = threading.Event()
    submitting = threading.Thread(target=pool.submit, args=(done.set,), daemon=True)
    submitting.start()
    submitting.join(10)
    assert not submitting.is_alive(), "dead-lock"
    assert done.wait(10)
    for thread in pool.close():
        thread.join(10)
        assert not thread.is_alive()
    assert len(pool._threads) == 0


def test_threads_are_as_many_as_they_may_be() -> None:
    pool = ThreadPool(2, 3)
    gate = threading.Event()
    running: list[threading.Semaphore] = [threading.Semaphore(0)]

    def job() -> None:
        running[0].release()
        assert gate.wait(10)

    for _ in range(5):
        pool.submit(job)
    for _ in range(2):
        assert running[0].acquire(timeout=10)
    assert (len(pool._threads), pool._jobs.qsize()) == (2, 3)
    pool.begin_waiting()  # one of them waits for a client: another takes its place
    assert running[0].acquire(timeout=10)
    pool.begin_waiting()  # and no more than three
    assert len(pool._threads) == 3
    gate.set()
    for _ in range(2):
        assert running[0].acquire(timeout=10)
    for thread in pool.close():
        thread.join(10)
        assert not thread.is_alive()
