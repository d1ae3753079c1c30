"""The connections to one FastCGI server, and who waits for one.

A FastCGI server has a fixed number of children, and each connection, also one that is kept and idle, holds a child. So
there are never more connections than children, requests beyond wait here, where their clients can still leave, and what
is idle is closed after a while.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque
from typing import Protocol

from .fastcgi_client import FastcgiConnection

__all__ = ["FastcgiPool", "Waiter", "parse_address"]

log = logging.getLogger("fcgi_sctp.app")

MAX_QUEUED = 1000
"""Requests that wait for a connection at most; php-fpm's own backlog is 511."""
CONNECT_TIMEOUT = 5.0
"""Seconds for one attempt to connect."""
PATIENCE = 2.0
"""Seconds that requests wait for a server that is down before they are told; what a restart of php-fpm takes."""
FIRST_RETRY = 0.05
"""Seconds after the first failed attempt until the next; doubled with each, up to LAST_RETRY."""
LAST_RETRY = 0.5
SETTLED = 0.1
"""Seconds after an answer in which servers that do not keep the connection any more will have closed it. uwsgi never
keeps one, php-fpm's children end after pm.max_requests: the request that goes out just then is lost, and nobody can
tell whether it was begun. So one that cannot be repeated gets a connection that has settled, or a new one."""
KEEP_IDLE = 10.0
"""Seconds that a connection is kept without a request, at least; its child serves nobody else in that time."""


class Waiter(Protocol):
    """Who wants a connection."""

    @property
    def repeatable(self) -> bool:
        """Whether it can use another connection if this one turns out to be closed."""

    def connected(self, connection: FastcgiConnection) -> None:
        """Here it is; give it back with `release`."""

    def unreachable(self, why: str) -> None:
        """The server is down, and has been for a while."""


def parse_address(text: str) -> str | tuple[str, int]:
    """The path of ``unix:/PATH``, or (host, port) of ``HOST:PORT``; ValueError."""
    if text.startswith("unix:"):
        if len(text) < 6:
            raise ValueError("write unix:/PATH")
        return text[5:]
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or "/" in text:
        raise ValueError(f"{text!r}: write unix:/PATH or HOST:PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


class FastcgiPool:
    """At most `limit` connections to the server at `address`."""

    def __init__(self, address: str, limit: int) -> None:
        self.address = address
        self.limit = limit
        self.queue: deque[Waiter] = deque()
        self._target = parse_address(address)
        self._loop = asyncio.get_running_loop()
        self._idle: list[tuple[float, _PooledConnection]] = []
        self._connections: set[_PooledConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._attempts = 0
        self._down_since: float | None = None
        self._retry = FIRST_RETRY
        self._retry_handle: asyncio.TimerHandle | None = None
        self._idle_handle: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open(self) -> int:
        """Connections there are, those that are being made included."""
        return len(self._connections) + self._attempts

    @property
    def idle(self) -> int:
        """Connections that are kept without a request."""
        return len(self._idle)

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return len(self.queue) >= MAX_QUEUED

    def acquire(self, waiter: Waiter, *, fresh: bool = False) -> None:
        """Ask for a connection; `waiter` is called now or later. `fresh`: first in turn, and none that was kept."""
        if fresh:
            self._close_idle(len(self._idle))
            self.queue.appendleft(waiter)
        else:
            self.queue.append(waiter)
        self._serve()

    def forget(self, waiter: Waiter) -> None:
        """It does not want one any more."""
        try:
            self.queue.remove(waiter)
        except ValueError:
            pass  # it has got one already

    def release(self, connection: FastcgiConnection) -> None:
        """Its request is over. It is kept if it can be used again."""
        assert isinstance(connection, _PooledConnection)
        if connection.closed:
            return
        if connection.reusable and not self._closed:
            self._idle.append((self._loop.time(), connection))
            if self._idle_handle is None:
                self._idle_handle = self._loop.call_later(KEEP_IDLE, self._close_old)
            if self.queue:
                # not before the server's close, if it closes after this request, had a chance to be seen
                self._loop.call_soon(self._serve)
        else:
            connection.close()

    def close(self) -> None:
        """Close everything; nobody hears of it."""
        self._closed = True
        self.queue.clear()
        for handle in (self._retry_handle, self._idle_handle):
            if handle is not None:
                handle.cancel()
        for task in self._connecting:
            task.cancel()
        for connection in tuple(self._connections):
            connection.close()

    def connection_made(self, connection: _PooledConnection) -> None:
        self._connections.add(connection)

    def connection_gone(self, connection: _PooledConnection) -> None:
        self._connections.discard(connection)
        self._idle = [entry for entry in self._idle if entry[1] is not connection]
        if self.queue:
            self._serve()

    # ---- who gets what

    def _serve(self) -> None:
        while self.queue and self._idle:
            last = -1
            if not self.queue[0].repeatable:
                last = 0
                if self._idle[0][0] > self._loop.time() - SETTLED:
                    if self.open < self.limit:
                        break  # a new one
                    self._close_idle(1)  # to make place for a new one
                    return  # until it is gone
            _, connection = self._idle.pop(last)
            if connection.is_stale():
                connection.close()
            else:
                self.queue.popleft().connected(connection)
        if self._retry_handle is None:
            while self._attempts < len(self.queue) and self.open < self.limit and not self._closed:
                self._attempts += 1
                task = self._loop.create_task(self._connect())
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)

    def _close_idle(self, count: int) -> None:
        idle, self._idle = self._idle[:count], self._idle[count:]
        for _, connection in idle:
            connection.close()

    def _close_old(self) -> None:
        self._idle_handle = None
        limit = self._loop.time() - KEEP_IDLE
        self._close_idle(sum(since <= limit for since, _ in self._idle))  # the list is in order of time
        if self._idle:
            self._idle_handle = self._loop.call_later(KEEP_IDLE, self._close_old)

    # ---- connecting

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = await self._open_connection()
        except (OSError, TimeoutError) as error:
            self._connect_failed(error)
            return
        finally:
            self._attempts -= 1
        if self._closed:
            connection.close()
            return
        if self._down_since is not None:
            log.info("the FastCGI server at %s is back", self.address)
            self._down_since = None
        self._retry = FIRST_RETRY
        if self.queue:
            self.queue.popleft().connected(connection)
            self._serve()
        else:
            connection.close()  # the one that wanted it has left; the server may have better use for its child

    async def _open_connection(self) -> _PooledConnection:
        if isinstance(self._target, tuple):
            _, connection = await self._loop.create_connection(lambda: _PooledConnection(self), *self._target)
            return connection
        # connected here: loops take the EAGAIN of a full backlog for a connection under way, or for an error
        with_path = socket.socket(socket.AF_UNIX)
        try:
            with_path.setblocking(False)
            with_path.connect(self._target)
            _, connection = await self._loop.create_unix_connection(lambda: _PooledConnection(self), sock=with_path)
        except BaseException:
            with_path.close()
            raise
        return connection

    def _connect_failed(self, error: OSError) -> None:
        now = self._loop.time()
        if error.errno != errno.EAGAIN:  # a full backlog is a server that works
            if self._down_since is None:
                self._down_since = now
                log.warning("the FastCGI server at %s cannot be reached: %s", self.address, _reason(error))
            if now - self._down_since >= PATIENCE:
                waiting, self.queue = self.queue, deque()
                for waiter in waiting:
                    waiter.unreachable(_reason(error))
                return
        if self._retry_handle is None and not self._closed:
            self._retry_handle = self._loop.call_later(self._retry, self._try_again)
            self._retry = min(self._retry * 2, LAST_RETRY)

    def _try_again(self) -> None:
        self._retry_handle = None
        self._serve()


class _PooledConnection(FastcgiConnection):
    def __init__(self, pool: FastcgiPool) -> None:
        super().__init__()
        self._pool = pool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._pool.connection_made(self)

    def gone(self) -> None:
        self._pool.connection_gone(self)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or f"no answer within {CONNECT_TIMEOUT:g} s"
