"""Calls that are made one after the other, on any thread, without a lock that a thread waits for without end.

Foreign code can run nearly anywhere: the interpreter collects garbage when it likes, and a destructor of the
application may then log on the very thread that is inside our code, or wait for a lock of the application's whose
holder logs and waits for ours. So no lock of ours is held while that can happen. Where calls must not mix, each is put
into a queue, and the thread that finds no other at work makes those in the queue, its own and all that come meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """Makes calls in the order in which they were added. Any thread; a call may add others. A call must not raise."""

    __slots__ = ("_busy", "_calls", "_maker", "_process")

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._calls: deque[Callable[[], object]] = deque()
        self._maker = 0
        """The thread that makes calls now."""
        self._process = os.getpid()

    def add(self, call: Callable[[], object], patience: float = 0.0) -> None:
        """Make `call`. If another thread makes calls now, wait `patience` seconds for it at most; if it has not come to
        `call` by then, or if it is this thread, it makes `call` later."""
        self._calls.append(call)
        while self._calls:  # the thread that was at work may have looked before `call` was there
            if self.mine:
                return
            if not (self._busy.acquire(timeout=patience) if patience else self._busy.acquire(blocking=False)):
                if self._process == os.getpid():
                    return
                # a forked child: the thread that was at work is its parent's, and makes what is its parent's there
                self._process, self._maker, self._busy, self._calls = os.getpid(), 0, threading.Lock(), deque((call,))
                continue
            try:
                self._maker = threading.get_ident()
                while self._calls:
                    self._calls.popleft()()
            finally:
                self._maker = 0
                self._busy.release()

    @property
    def mine(self) -> bool:
        """Whether this thread is the one that makes calls now."""
        return self._maker == threading.get_ident()

    def __len__(self) -> int:
        """How many calls wait."""
        return len(self._calls)
