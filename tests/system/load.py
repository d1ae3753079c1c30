"""Small requests while something else happens."""

from __future__ import annotations

import threading
from collections import Counter

from tests.system.stack import Stack, wait_until

__all__ = ["Load"]


class Load:
    """Requests from several threads until told to stop; what came of them."""

    def __init__(self, stack: Stack, threads: int = 8, *, keep: bool = False, posts: bool = False) -> None:
        """`keep`: the GETs of a thread have one connection. `posts`: every second thread sends POSTs."""
        self.seen: Counter[int] = Counter()
        self._stack = stack
        self._keep = keep
        self._posts = posts
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        connection = self._stack.connect() if self._keep else None
        while not self._stop.is_set():
            method, body = ("POST", b"x" * 100) if self._posts and number % 2 else ("GET", None)
            # nginx ends a client's connection after a POST whose body is not read
            answer = self._stack.ask("/hello", method, body, connection=None if body else connection)
            self.seen[answer.status] += 1
        if connection is not None:
            connection.close()

    def answers(self, more: int = 100) -> None:
        """Wait for so many answers more."""
        before = sum(self.seen.values())
        wait_until(lambda: sum(self.seen.values()) > before + more, "requests are answered")
