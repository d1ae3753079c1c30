"""The files of a WSGI environ: wsgi.input and wsgi.errors (PEP 3333), and how a thread waits for what is on the loop.

Not among the compiled modules (setup.py): mypyc makes classes that inherit from the interpreter's own without a proper
place for weak references to them.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
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
    """Lets one thread wait until the loop says that it may go on. A lock is made only if it really has to wait."""

    __slots__ = ("_lock", "_pool")

    def __init__(self, pool: ThreadPool) -> None:
        self._pool = pool
        self._lock: threading.Lock | None = None

    def until(self, ready: Callable[[], bool]) -> None:
        """On the request's thread: wait until `ready()`; whoever makes it true calls `check` then."""
        while not ready():
            lock = threading.Lock()
            lock.acquire()
            self._lock = lock
            if ready():  # it came true before the lock could be seen
                self._lock = None
                return
            self._pool.begin_waiting()
            lock.acquire()
            self._pool.end_waiting()

    def check(self) -> None:
        """On the loop's thread: what is waited for may have come."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()


class Body(io.RawIOBase):
    """STDIN as a file that waits for what has not come yet; used through a BufferedReader.

    It ends after `length` bytes, and what comes beyond them is left out. RequestCut where STDIN ends before.
    """

    def __init__(self, pool: ThreadPool, exchange: AppExchange, length: int, data: bytes = b"") -> None:
        """`data` is what has come already and was taken."""
        super().__init__()
        self._wait = Wait(pool)
        self._exchange = exchange
        self._length = length
        self._left = length
        self._data = memoryview(b"")
        self._ended = False
        self._missing = 0
        """Bytes that were announced and never came, once it has ended."""
        self._aborted = False
        self._asked = False
        self._keep(data)

    # ---- on the loop's thread

    def arrived(self) -> None:
        """More has come: pass it on if the thread waits for it, else leave it where the window counts it."""
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
        self._data = memoryview(data)  # before the end is told, which the thread takes for all
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
    """wsgi.errors: to the plugins, and as FCGI_STDERR where none takes it."""

    def __init__(self, exchange: AppExchange) -> None:
        self._exchange = exchange

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        exchange = self._exchange
        data = text.encode("utf-8", "backslashreplace")
        if data and not exchange.shared.supervisor.stderr(exchange, data):
            if in_child():
                sys.stderr.write(text)  # the loop is the parent's
                return len(text)
            try:
                exchange.shared.queue_stderr(exchange, data)
            except RuntimeError:
                sys.stderr.write(text)  # the loop is closed: the program ends
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        self.write("".join(lines))
