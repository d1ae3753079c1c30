"""The files of a WSGI environ, wsgi.input and wsgi.errors (PEP 3333), and how a thread waits for the loop.

Not compiled (setup.py): mypyc does not support weak references to classes that inherit from the interpreter's own.
"""

from __future__ import annotations

import io
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..common.forks import in_child
from ..errors import ClientGone, RequestCut
from .rules import NO_LENGTH
from .threads import ThreadPool

if TYPE_CHECKING:
    from .exchange import AppExchange

__all__ = ["Body", "Errors", "Wait"]

log = logging.getLogger("fcgi_sctp.app")


class Wait:
    """Lets one thread wait for the loop. A lock is made only if the thread really has to wait."""

    __slots__ = ("_exchange", "_lock", "_pool")

    def __init__(self, pool: ThreadPool, exchange: AppExchange) -> None:
        self._pool = pool
        self._exchange = exchange
        self._lock: threading.Lock | None = None

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready()`, on the request's thread. The loop calls `check` when it may have become true."""
        while not ready():
            lock = threading.Lock()
            lock.acquire()
            self._lock = lock
            if ready():  # it came true before the lock could be seen
                self._lock = None
                return
            self._exchange.busy_since = math.inf
            self._pool.begin_waiting()
            lock.acquire()
            self._pool.end_waiting()
            self._exchange.busy_since = time.monotonic()

    def check(self) -> None:
        """Wake the thread to look again, on the loop's thread."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()


class Body(io.RawIOBase):
    """STDIN as a file that waits for its bytes; used through a BufferedReader.

    It ends after `length` bytes and leaves out the rest. RequestCut if STDIN ends before.
    """

    def __init__(self, pool: ThreadPool, exchange: AppExchange, length: int, data: bytes = b"") -> None:
        """`data` is the part of the body that has been removed from the exchange already."""
        super().__init__()
        self._wait = Wait(pool, exchange)
        self._exchange = exchange
        self._length = length
        self._left = length
        self._data = memoryview(b"")
        self._ended = False
        self._missing = 0
        """Bytes by which STDIN was shorter than `length`, once it has ended."""
        self._aborted = False
        self._asked = False
        self._keep(data)

    # ---- on the loop's thread

    def arrived(self) -> None:
        """Pass the new bytes on if the thread waits for them; else they stay where the window counts them."""
        if self._asked:
            self._pass_on()

    def abort(self) -> None:
        self._aborted = True
        self._wait.check()

    def _pass_on(self) -> None:
        exchange = self._exchange
        if exchange.body or exchange.input_closed:
            self._asked = False
            self._keep(exchange.take_body())
            self._wait.check()

    def _keep(self, data: bytes) -> None:
        closed = self._exchange.input_closed
        if self._left != NO_LENGTH:
            if len(data) > self._left:
                log.warning("a request's body is longer than its CONTENT_LENGTH %d; the rest is left out", self._length)
                data = data[: self._left]
            self._left -= len(data)
            if self._left == 0:
                closed = True
            elif closed:
                self._missing = self._left
        self._data = memoryview(data)  # before `_ended`: the thread reads them in the other order
        self._ended = closed

    def _ask(self) -> None:
        self._asked = True
        self._pass_on()

    # ---- on the request's thread

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._data and not self._ended and not self._aborted:
            self._exchange.shared.loop.call_soon_threadsafe(self._ask)
            self._wait.until(lambda: bool(self._data) or self._ended or self._aborted)
        if self._aborted:
            raise ClientGone
        count = min(len(buffer), len(self._data))
        if count == 0 and self._missing:
            came = self._length - self._missing
            raise RequestCut(f"the request's body ended after {came} of the {self._length} bytes of its CONTENT_LENGTH")
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


class Errors(io.TextIOBase):
    """wsgi.errors: its text goes to the plugins, or is sent as FCGI_STDERR if no plugin accepts it."""

    def __init__(self, exchange: AppExchange) -> None:
        self._exchange = exchange

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        exchange = self._exchange
        data = text.encode("utf-8", "backslashreplace")
        if data and not exchange.shared.supervisor.stderr(exchange, data):
            if in_child():
                sys.stderr.write(text)  # the loop runs in the parent
                return len(text)
            try:
                exchange.shared.queue_stderr(exchange, data)
            except RuntimeError:
                sys.stderr.write(text)  # the loop is closed: the program ends
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        self.write("".join(lines))
