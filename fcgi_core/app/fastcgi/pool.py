"""The connections to one FastCGI server, and the requests that wait for one.

A FastCGI server has a fixed number of children, and each connection occupies a child, even while it is idle. The number
of children is not known here, and other clients may need them: another bridge, a web server. So

* there are never more than `limit` connections. More requests wait here, where their clients can still leave; requests
  for which the server has no child wait at its socket, on new connections;
* a connection is kept for KEEP seconds, which saves nearly all connecting under load. Then it is closed at the end of
  its request, and its child accepts the next connection;
* no connection is idle while a new connection waits for a child, unless the server is known to have more children.

Over TCP no connection is kept: it does not show whether the server still works on the last request, and the output of a
script after its answer would get into the next answer.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from collections import deque
from math import inf
from typing import Any, Protocol

from .client import FastcgiConnection

__all__ = ["FastcgiPool", "Waiter", "parse_address"]

log = logging.getLogger("fcgi_sctp.app")

MAX_PATH = 107
"""Bytes of a unix socket's path (unix(7))."""
MAX_QUEUED = 1000
"""Requests that wait for a connection; php-fpm's own backlog is 511."""
CONNECT_TIMEOUT = 5.0
"""Seconds for one attempt to connect."""
PATIENCE = 10.0
"""Seconds that requests wait for a server that is down, before 502: as long as for an application that is down
(`web.queue_timeout`)."""
FIRST_RETRY = 0.05
"""Seconds from the first failed attempt to the next; doubled each time, up to LAST_RETRY."""
LAST_RETRY = 0.5
KEEP = 0.05
"""Seconds for which a connection is kept after it was made, and another client of the server waits for an idle child at
most. To make one takes as many instructions as half a request and 15 system calls, and a child has to accept it: with
0.02 a request costs an eighth more here under load."""


class Waiter(Protocol):
    """A request that waits for a connection."""

    @property
    def repeatable(self) -> bool:
        """Whether the request can be sent again if its connection turns out to be closed. If not it gets a new
        connection: servers close kept connections at any time, and it is not known whether the server began a request
        that was sent just then."""

    def connected(self, connection: FastcgiConnection) -> None:
        """Called with the connection; return it with `release`."""

    def unreachable(self, why: str) -> None:
        """Called when the server has been down for PATIENCE."""


def parse_address(text: str) -> str | tuple[str, int]:
    """Return the path of ``unix:/PATH``, or host and port of ``HOST:PORT``. ValueError."""
    if text.startswith("unix:"):
        path = text[5:]
        if not path or "\0" in path:
            raise ValueError("write unix:/PATH")
        if len(os.fsencode(path)) > MAX_PATH:
            raise ValueError(f"write unix:/PATH with a path of at most {MAX_PATH} bytes, not {len(os.fsencode(path))}")
        return path
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or "/" in text:
        raise ValueError(f"{text!r}: write unix:/PATH or HOST:PORT")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"{text!r}: write unix:/PATH or HOST:PORT; no host has this name: {error}") from None
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


class FastcgiPool:
    """At most `limit` connections to the server at `address`, with `keep` for more than one request if possible."""

    def __init__(self, address: str, limit: int, *, keep: bool = True) -> None:
        self.address = address
        self.limit = limit
        self.queue: deque[Waiter] = deque()
        self.returns = 0
        """How often the server was reached again after it could not be reached."""
        self._target = parse_address(address)
        self._found: tuple[str, int] | None = None
        """Address of the last connection. The host's name is looked up again when a connection fails."""
        self.keeps = keep and isinstance(self._target, str)
        """Whether the server is asked to keep connections."""
        self._loop = asyncio.get_running_loop()
        self._idle: list[_PooledConnection] = []
        """In the order in which they became idle."""
        self._connections: set[_PooledConnection] = set()
        self._unanswered: dict[_PooledConnection, None] = {}
        """Connections on which nothing has come yet, the oldest first: perhaps no child has accepted them."""
        self._children = 0
        """Largest number of connections that were answered and open at once: the known number of children for us."""
        self._connecting: set[asyncio.Task[None]] = set()
        self._attempts = 0
        self._down_since: float | None = None
        self._refused = 0
        """Requests that got 502 since then."""
        self._retry = FIRST_RETRY
        self._retry_handle: asyncio.TimerHandle | None = None
        self._idle_handle: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open(self) -> int:
        """Number of connections, including those that are being made."""
        return len(self._connections) + self._attempts

    @property
    def idle(self) -> int:
        """Number of connections that are kept without a request."""
        return len(self._idle)

    @property
    def full(self) -> bool:
        """Whether the queue is full."""
        return len(self.queue) >= MAX_QUEUED

    def acquire(self, waiter: Waiter, *, first: bool = False) -> None:
        """Request a connection; `waiter` is called now or later. `first`: before all others that wait."""
        if first:
            self.queue.appendleft(waiter)
        else:
            self.queue.append(waiter)
        self._serve()

    def forget(self, waiter: Waiter) -> None:
        """Remove a request from the queue."""
        try:
            self.queue.remove(waiter)
        except ValueError:
            pass  # it has a connection already

    def release(self, connection: FastcgiConnection) -> None:
        """Keep a connection whose request is over, if it can be used again and its child is not needed elsewhere."""
        assert isinstance(connection, _PooledConnection)
        if connection.closed:
            return
        if self._closed or not connection.reusable or connection.made <= self._loop.time() - KEEP:
            connection.close()
            return
        self._idle.append(connection)
        if self._idle_handle is None:
            self._idle_handle = self._loop.call_at(connection.made + KEEP, self._close_old)
        if self.queue:
            # later, so that the server's close after this request, if any, is seen first
            self._loop.call_soon(self._serve)
        else:
            self._serve()

    def close(self) -> None:
        """Close all connections and stop connecting, without a call to the requests that wait."""
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
        self._unanswered[connection] = None

    def answer_begins(self, connection: _PooledConnection) -> None:
        """A child has it."""
        if connection in self._unanswered:
            del self._unanswered[connection]
            self._children = max(self._children, len(self._connections) - len(self._unanswered))

    def connection_gone(self, connection: _PooledConnection) -> None:
        self._connections.discard(connection)
        self._unanswered.pop(connection, None)
        if connection in self._idle:
            self._idle.remove(connection)
        if self.queue:
            self._serve()

    # ---- who gets what

    def _serve(self) -> None:
        while self.queue and self._idle:
            connection = self._idle.pop()
            # in any case for one more request: else two connections would never be open at once, which shows children
            usable = connection.requests == 1 or self._has_child_for_all()
            if usable and self.queue[0].repeatable and connection.is_ready():
                self.queue.popleft().connected(connection)
            else:
                connection.close()  # its child may be the one that accepts the new connection
        if self._idle and not self._has_child_for_all():
            self._close_idle()
        if self._retry_handle is None:
            while self._attempts < len(self.queue) and self.open < self.limit and not self._closed:
                self._attempts += 1
                task = self._loop.create_task(self._connect())
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)

    def _has_child_for_all(self) -> bool:
        """Return whether, as far as is known, no new connection waits for a child that another one of ours occupies."""
        if not self._unanswered:
            return True
        if next(iter(self._unanswered)).made <= self._loop.time() - KEEP:
            self._children = len(self._connections) - len(self._unanswered)  # other clients seem to have the rest
            return False
        return self.open <= self._children

    def _close_idle(self, made_until: float = inf) -> None:
        for connection in [one for one in self._idle if one.made <= made_until]:
            self._idle.remove(connection)
            connection.close()

    def _close_old(self) -> None:
        self._idle_handle = None
        self._close_idle(self._loop.time() - KEEP)
        if self._idle:
            self._idle_handle = self._loop.call_at(min(one.made for one in self._idle) + KEEP, self._close_old)

    # ---- connecting

    async def _connect(self) -> None:
        try:
            if isinstance(self._target, str):
                connection = await self._open_unix_connection(self._target)  # which waits for nothing
            else:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    connection = await self._open_tcp_connection(self._target)
        except (OSError, TimeoutError) as error:
            self._connect_failed(error)
            return
        finally:
            self._attempts -= 1
        if self._closed:
            connection.close()
            return
        self._reached()
        self._retry = FIRST_RETRY
        if self.queue:
            self.queue.popleft().connected(connection)
            if connection.closed:
                connection.connection_lost(None)  # again: the server closed it before it carried a request
            self._serve()
        else:
            connection.close()  # the request has left the queue; the child is free for other clients

    async def _open_unix_connection(self, path: str) -> _PooledConnection:
        # connected here: loops treat the EAGAIN of a full backlog as a connection under way, or as an error
        connection: _PooledConnection
        with_path = socket.socket(socket.AF_UNIX)
        try:
            with_path.setblocking(False)
            with_path.connect(path)
            _, connection = await self._loop.create_unix_connection(self._make, sock=with_path)
        except BaseException:
            with_path.close()
            raise
        return connection

    async def _open_tcp_connection(self, target: tuple[str, int]) -> _PooledConnection:
        connection: _PooledConnection
        try:
            transport, connection = await self._loop.create_connection(self._make, *(self._found or target))
        except BaseException:
            self._found = None
            raise
        peer = transport.get_extra_info("peername")  # None if the connection has ended already
        if peer is not None and (len(peer) == 2 or not peer[3]):  # not an address with a zone
            self._found = peer[:2]
        return connection

    def _make(self) -> Any:
        # a compiled class cannot inherit from `asyncio.Protocol`
        return _PooledConnection(self)

    def _reached(self) -> None:
        if self._down_since is not None:
            lost = f"; {self._refused} requests got 502" if self._refused else ""
            log.info("the FastCGI server at %s is up again%s", self.address, lost)
            self._down_since = None
            self._refused = 0
            self.returns += 1

    def _connect_failed(self, error: OSError) -> None:
        now = self._loop.time()
        if error.errno == errno.EAGAIN:
            self._reached()  # a server with a full backlog runs
        else:
            if self._down_since is None:
                self._down_since = now
                log.warning("the FastCGI server at %s cannot be reached: %s", self.address, _reason(error))
            if now - self._down_since >= PATIENCE:
                if not self._refused:
                    log.warning(
                        "the FastCGI server at %s has been down for %.0f s; requests get 502 until it is up",
                        *(self.address, now - self._down_since),
                    )
                self._refused += len(self.queue)
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
        self.made = 0.0
        """When, by the loop's clock."""
        self._pool = pool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._pool.keeps and (made := transport.get_extra_info("socket")).family != socket.AF_UNIX:
            # each request has a connection: without TIME_WAIT, in which each would hold a port for a minute
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.made = asyncio.get_running_loop().time()
        self._pool.connection_made(self)

    def answer_begins(self) -> None:
        self._pool.answer_begins(self)

    def gone(self) -> None:
        self._pool.connection_gone(self)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or f"no answer within {CONNECT_TIMEOUT:g} s"
