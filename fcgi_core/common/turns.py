"""Calls that are made one after the other, on any thread, without a lock that could deadlock.

Foreign code can run nearly anywhere: garbage is collected at any time, and a destructor of the application may then log
on the thread that is inside our code, or wait for a lock of the application whose holder logs and waits for ours. So we
hold no lock while that can happen. Calls that must not overlap are queued, and the thread that finds no other at work
makes all calls in the queue, including calls that are added meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """Makes calls in the order in which they were added, on any thread. A call may add others, and must not raise."""

    __slots__ = ("_busy", "_calls", "_maker", "_process")

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._calls: deque[Callable[[], object]] = deque()
        self._maker = 0
        """The thread that makes calls now; 0 if none does."""
        self._process = os.getpid()

    def add(self, call: Callable[[], object], patience: float = 0.0) -> None:
        """Make `call`. If another thread makes calls now, wait at most `patience` seconds for it to make this one, too;
        it makes it later if that is too short. If this thread makes calls now, it makes `call` next."""
        self._calls.append(call)
        while self._calls:  # the thread that was at work may have looked before `call` was there
            if self.mine:
                return
            if not (self._busy.acquire(timeout=patience) if patience else self._busy.acquire(blocking=False)):
                if self._process == os.getpid():
                    return
                # a forked child: the thread at work is the parent's, and makes the parent's calls there
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
        """Whether this thread makes calls now."""
        return self._maker == threading.get_ident()

    def __len__(self) -> int:
        """Returns the number of calls that wait."""
        return len(self._calls)
