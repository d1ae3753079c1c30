"""Threads that run blocking applications.

`running` threads work at once. One that must wait for a slow client (the window of its response is full, or its request
body has not come) does not count while it waits: another takes its place, so that two hundred slow downloads do not
keep the next request out. The number of all threads is bounded too.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["ThreadPool"]


class ThreadPool:
    """Runs jobs on threads, in the order in which they came. Threads are made when needed and kept."""

    def __init__(self, running: int, most: int, name: str = "request") -> None:
        """`running` jobs at once, those that wait not counted; `most` threads in all."""
        self.running = running
        self.most = max(most, running)
        self._name = name
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._jobs: deque[Callable[[], None]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._waiting = 0
        self._serial = 0
        self._closed = False

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` on a thread; it must not raise."""
        with self._lock:
            self._jobs.append(job)
            self._employ()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The calling thread waits for a client while inside."""
        with self._lock:
            self._waiting += 1
            self._employ()
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def close(self) -> list[threading.Thread]:
        """Take no more jobs; idle threads end. Returns those that still work, which end when their job does."""
        with self._lock:
            self._closed = True
            self._jobs.clear()
            self._work.notify_all()
            return list(self._threads)

    def statistics(self) -> dict[str, int]:
        with self._lock:
            busy = len(self._threads) - self._idle - self._waiting
            return {"threads": len(self._threads), "busy": busy, "waiting": self._waiting, "queued": len(self._jobs)}

    def _employ(self) -> None:
        """With the lock held: see that a thread comes for the first job, if one may."""
        if not self._jobs or self._closed:
            return
        if self._idle:
            if len(self._threads) - self._idle - self._waiting < self.running:
                self._work.notify()
        elif len(self._threads) - self._waiting < self.running and len(self._threads) < self.most:
            self._serial += 1
            thread = threading.Thread(target=self._run, name=f"{self._name}-{self._serial}", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _run(self) -> None:
        lock, jobs = self._lock, self._jobs
        while True:
            with lock:
                self._idle += 1
                # a thread that came back from waiting may make one too many: it stands back
                while not self._closed and (
                    not jobs or len(self._threads) - self._idle - self._waiting >= self.running
                ):
                    self._work.wait()
                self._idle -= 1
                if self._closed:
                    self._threads.discard(threading.current_thread())
                    return
                job = jobs.popleft()
            job()
