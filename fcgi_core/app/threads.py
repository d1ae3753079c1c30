"""Threads that run blocking applications.

`running` threads work at once. One that must wait for a slow client (the window of its response is full, or its request
body has not come) does not count while it waits: another takes its place, so that two hundred slow downloads do not
keep the next request out. The number of all threads is bounded too.

The hand-over is `queue.SimpleQueue`, which is C: a condition variable of Python's own costs more than a short request.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import count
from queue import SimpleQueue

__all__ = ["ThreadPool"]

log = logging.getLogger("fcgi_sctp.app")

Job = Callable[[], None]


class ThreadPool:
    """Runs jobs on threads, in the order in which they came. Threads are made when needed and kept."""

    def __init__(self, running: int, most: int, name: str = "request") -> None:
        """`running` jobs at once, those that wait not counted; `most` threads in all."""
        self.running = running
        self.most = max(most, running)
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._parked: SimpleQueue[bool] = SimpleQueue()
        """Where threads stay that are too many since another came back from waiting; True: come and work."""
        self._lock = threading.Lock()
        """Guards what follows, and nothing is called while it is held: foreign code might run (see `turns`)."""
        self._made = 0
        """Threads that there are, and those that are about to be."""
        self._active = 0
        """Threads that neither wait nor are parked."""
        self._spare = 0
        """Threads that are parked."""
        self._told = 0
        """Threads that there were when it was last said that there can be no more."""
        self._closed = False
        self._threads: set[threading.Thread] = set()
        self._serial = count(1)

    def submit(self, job: Job) -> None:
        """Run `job` on a thread; what it raises is logged. RuntimeError if there is none and none can be made, and then
        it is not run."""
        if self._active < self.running:
            self._employ()
        self._jobs.put(job)

    def begin_waiting(self) -> None:
        """The calling thread will wait for a client: another may take its place."""
        with self._lock:
            self._active -= 1
        self._employ()  # which raises nothing: this thread is there

    def end_waiting(self) -> None:
        """The calling thread works on; for a moment there may be one more than `running`."""
        with self._lock:
            self._active += 1

    def close(self) -> list[threading.Thread]:
        """Take no more jobs; idle threads end. Returns all, of which those that still work end when their job does."""
        self._closed = True
        threads = list(self._threads)
        for _ in threads:
            self._jobs.put(None)
            self._parked.put(False)
        return threads

    def statistics(self) -> dict[str, int]:
        waiting = len(self._threads) - self._active - self._spare
        return {"threads": len(self._threads), "waiting": waiting, "queued": self._jobs.qsize()}

    def _employ(self) -> None:
        """See that `running` threads look for jobs, if so many may."""
        with self._lock:
            if self._closed or self._active >= self.running:
                return
            called = self._spare > 0
            if called:
                self._spare -= 1
            elif self._made >= self.most:
                return
            else:
                self._made += 1
            self._active += 1
        if called:
            self._parked.put(True)
            return
        thread = threading.Thread(target=self._run, name=f"{self._name}-{next(self._serial)}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # there are no more, or no memory; the next request tries again
            self._threads.discard(thread)
            with self._lock:
                self._made -= 1
                self._active -= 1
            if not self._threads:
                raise
            if self._told != len(self._threads):
                self._told = len(self._threads)
                log.warning("no more than %d threads can be started", self._told)
            return
        if self._closed:  # `close` may have looked before the thread was there
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException:
                log.exception("a request's thread goes on after an error of its own")
            del job  # what it holds is free while this thread waits for the next
            if self._active > self.running and not self._park():
                break
        self._threads.discard(threading.current_thread())

    def _park(self) -> bool:
        """Stand back until needed; False at the end of the program."""
        with self._lock:
            if self._active <= self.running or self._closed:
                return not self._closed
            self._active -= 1
            self._spare += 1
        return self._parked.get()
