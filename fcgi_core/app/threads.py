"""Threads that run blocking applications.

`running` threads work at once. A thread that waits for a slow client (the window of its response is full, or its
request body has not come) does not count while it waits: another thread replaces it, so that two hundred slow downloads
do not keep out the next request. The number of all threads is bounded, too.

Jobs go through `queue.SimpleQueue`, which is written in C: a condition variable costs more than a short request.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import count
from queue import Empty, SimpleQueue

__all__ = ["ThreadPool"]

log = logging.getLogger("fcgi_sctp.app")

Job = Callable[[], None]


class ThreadPool:
    """Runs jobs on threads, in the order in which they were submitted. Threads are started when needed and kept."""

    def __init__(self, running: int, most: int, name: str = "request") -> None:
        """`running` jobs run at once, not counting jobs that wait; there are at most `most` threads."""
        self.running = running
        self.most = max(most, running)
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._parked: SimpleQueue[bool] = SimpleQueue()
        """Parks threads that are too many after another thread came back from waiting. True: work again."""
        self._lock = threading.Lock()
        """Guards the counts below. No function is called while it is held: foreign code might run (see `turns`)."""
        self._made = 0
        """Threads that exist or are being started."""
        self._active = 0
        """Threads that neither wait nor are parked."""
        self._spare = 0
        """Threads that are parked."""
        self._reported = 0
        """Number of threads when the log last reported that no more can be started."""
        self._closed = False
        self._threads: set[threading.Thread] = set()
        self._serial = count(1)

    def submit(self, job: Job) -> None:
        """Run `job` on a thread; its exceptions are logged. RuntimeError, without running it, if there is no thread and
        none can be started."""
        if self._active < self.running:
            self._employ()
        self._jobs.put(job)

    def begin_waiting(self) -> None:
        """Announce that a thread waits for a client, or may hang: another thread may replace it."""
        with self._lock:
            self._active -= 1
        self._employ()  # raises nothing, since there is that thread

    def end_waiting(self) -> None:
        """Announce that it works again; for a moment one thread more than `running` may work."""
        with self._lock:
            self._active += 1

    def take_back(self) -> list[Job]:
        """Remove and return the jobs that no thread has begun."""
        jobs: list[Job] = []
        try:
            while (job := self._jobs.get_nowait()) is not None:
                jobs.append(job)
        except Empty:
            pass
        return jobs

    def close(self) -> list[threading.Thread]:
        """End idle threads, and start no more. Return all threads; a thread that works ends after its job."""
        self._closed = True
        threads = list(self._threads)
        for _ in threads:
            self._jobs.put(None)
            self._parked.put(False)
        return threads

    def _employ(self) -> None:
        """Make one more thread look for jobs, unless `running` threads do or `most` threads exist."""
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
        except RuntimeError:  # the limit of threads or of memory is reached; the next request tries again
            self._threads.discard(thread)
            with self._lock:
                self._made -= 1
                self._active -= 1
            if not self._threads:
                raise
            if self._reported != len(self._threads):
                self._reported = len(self._threads)
                log.warning("no more than %d threads can be started", self._reported)
            return
        if self._closed:  # `close` may have looked before the thread was there
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException:
                log.exception("internal error on the thread of a request; the thread goes on")
            del job  # frees its objects while this thread waits for the next job
            if self._active > self.running and not self._park():
                break
        self._threads.discard(threading.current_thread())

    def _park(self) -> bool:
        """Wait until this thread is needed again. Return False when the pool is closed."""
        with self._lock:
            if self._active <= self.running or self._closed:
                return not self._closed
            self._active -= 1
            self._spare += 1
        return self._parked.get()
