"""A small HTTP server on the event loop for the page that Prometheus fetches, bounded in every respect.

It answers GET and HEAD of ``/metrics``, one request for each connection. `Render` makes the page off the loop; clients
that ask while a page is being made share it. ``/healthz`` is answered 200 by every process that lives, ``/ready`` 200
by one that takes requests, else 503 with the reason.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine
from typing import Any, cast

from fcgi_core.plugin import UnixSocket, accept, listen_tcp

from .options import host_and_port

__all__ = ["Endpoint", "Render"]

MAX_CONNECTIONS = 32
"""Connections at once. Each Prometheus has one. A further client replaces the oldest one that has not asked yet, or
else the oldest one that does not read its answer; if all wait for their page, the new connection is closed."""
MAX_HEAD = 8 * 1024
"""Bytes of a request's head, as in nginx's large_client_header_buffers."""
PATIENCE = 10.0
"""Seconds to receive a request and deliver its answer, as in Prometheus' scrape_timeout."""
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PLAIN = "text/plain; version=0.0.4"

Render = Callable[[str, bool], Coroutine[Any, Any, tuple[bytes, str]]]
"""Takes the accepted type and whether to gzip; returns the page and its content type."""


class Endpoint:
    """Listens at HOST:PORT or unix:/PATH; OSError if that fails."""

    def __init__(
        self, where: str, render: Render | None, obstacle: Callable[[], str] = lambda: "", *, shared: bool = False
    ) -> None:
        """Start listening; the event loop must run.

        `render`: None if there is no page. `obstacle`: returns why no requests are taken; '' if they are. `shared`:
        other processes of the same user may listen at the same HOST:PORT, and one of them gets each connection."""
        self._loop = asyncio.get_running_loop()
        self._render = render
        self.obstacle = obstacle
        self._pages: dict[tuple[str, bool], asyncio.Task[tuple[bytes, str]]] = {}
        self._connections: dict[_Client, None] = {}
        """Oldest first."""
        self._unix: UnixSocket | None = None
        if where.startswith("unix:"):
            self._unix = UnixSocket(where.removeprefix("unix:"), mode=0o660)
            self._socket = self._unix.socket
        else:
            self._socket = _listen(*host_and_port(where), shared=shared)
        self._server: asyncio.Server | None = None
        self._starting: asyncio.Task[None] | None = self._loop.create_task(self._start())

    @property
    def port(self) -> int:
        """The port of a TCP endpoint."""
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        if self._server is not None:
            self._server.close()
            self._server = None  # its protocol factory holds this endpoint: a cycle
        if self._unix is not None:
            self._unix.close()
        self._socket.close()
        for client in tuple(self._connections):
            client.abort()
        for task in self._pages.values():
            task.cancel()

    async def _start(self) -> None:
        if self._unix is not None:
            self._server = await self._unix.serve(lambda: _Client(self))
        else:
            self._server = await self._loop.create_server(lambda: _Client(self), sock=self._socket, start_serving=False)
            await accept(self._server)
        self._starting = None

    def admit(self, client: _Client) -> bool:
        if len(self._connections) >= MAX_CONNECTIONS:
            silent = next((one for one in self._connections if not one.asked), None)
            slow = next((one for one in self._connections if one.answered), None)
            if (oldest := silent or slow) is None:
                return False
            del self._connections[oldest]
            oldest.abort()
        self._connections[client] = None
        return True

    def dismiss(self, client: _Client) -> None:
        self._connections.pop(client, None)

    @property
    def has_page(self) -> bool:
        return self._render is not None

    def page(self, accept: str, zipped: bool) -> asyncio.Task[tuple[bytes, str]]:
        """Return the page that is being made, after starting it if need be."""
        assert self._render is not None
        key = accept, zipped
        task = self._pages.get(key)
        if task is None:
            task = self._pages[key] = self._loop.create_task(self._render(accept, zipped))
            task.add_done_callback(lambda _: self._pages.pop(key, None))
        return task

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback)


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
    try:
        first, *others = listen_tcp(host, port, shared=shared)
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"host {host!r} cannot be found: {error.strerror}") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot listen at {host}:{port}: {error.strerror}") from None
    for other in others:
        other.close()
    return first


class _Client(asyncio.Protocol):
    """A connection and its only request."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self.asked = False
        """The whole request has arrived."""
        self.answered = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._endpoint.admit(self):
            self._deadline = self._endpoint.call_later(PATIENCE, self.abort)
        else:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._endpoint.dismiss(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        if self.asked:
            return  # a second request is not answered, as `Connection: close` says
        self._head += data
        if len(self._head) > MAX_HEAD:
            self.asked = True
            self._answer(431, "Request Header Fields Too Large")
        elif b"\r\n\r\n" in self._head:
            self.asked = True
            self._request(self._head.partition(b"\r\n\r\n")[0].decode("latin-1"))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _request(self, head: str) -> None:
        request, *lines = head.split("\r\n")
        words = request.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self._answer(400, "Bad Request")
            return
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            self._answer(405, "Method Not Allowed", extra="Allow: GET, HEAD\r\n")
            return
        head_only = method == "HEAD"
        path = target.partition("?")[0]
        if path == "/healthz":
            self._answer(200, "OK", b"alive\n", head_only=head_only)
            return
        if path == "/ready":
            if obstacle := self._endpoint.obstacle():
                self._answer(503, "Service Unavailable", f"not ready: {obstacle}\n".encode(), head_only=head_only)
            else:
                self._answer(200, "OK", b"ready\n", head_only=head_only)
            return
        if path != "/metrics" or not self._endpoint.has_page:
            pages = "/metrics, /healthz and /ready" if self._endpoint.has_page else "/healthz and /ready"
            self._answer(404, "Not Found", f"Here are {pages}.\n".encode(), head_only=head_only)
            return
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip().lower()
        accept = OPENMETRICS if "application/openmetrics-text" in fields.get("accept", "") else PLAIN
        encodings = [one.partition(";")[0].strip() for one in fields.get("accept-encoding", "").split(",")]
        zipped = "gzip" in encodings
        page = self._endpoint.page(accept, zipped)
        page.add_done_callback(lambda task: self._made(task, zipped, head_only))

    def _made(self, page: asyncio.Task[tuple[bytes, str]], zipped: bool, head_only: bool) -> None:
        if page.cancelled():
            self.abort()
        elif page.exception() is not None:  # `Render` has reported it
            self._answer(500, "Internal Server Error")
        else:
            content, kind = page.result()
            extra = "Vary: Accept, Accept-Encoding\r\n" + ("Content-Encoding: gzip\r\n" if zipped else "")
            self._answer(200, "OK", content, kind, extra, head_only)

    def _answer(
        self,
        status: int,
        reason: str,
        content: bytes | None = None,
        kind: str = "text/plain; charset=utf-8",
        extra: str = "",
        head_only: bool = False,
    ) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self.answered = True
        if content is None:
            content = f"{status} {reason}\n".encode()
        head = (
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
            f"X-Content-Type-Options: nosniff\r\nConnection: close\r\n{extra}\r\n"
        )
        self._transport.write(head.encode("latin-1") + (b"" if head_only else content))
        self._transport.close()
