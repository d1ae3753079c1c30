"""The web side with the real `WebService`: a small web server begins requests by FastCGI on its unix socket.

The web server lives in the same process, and keeps its connections: one request on each at a time, as nginx with
`fastcgi_keep_conn`.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from fcgi_core.hosting.byte_stream import KEEP_CONN, RecordReader
from fcgi_core.protocol.records import RecordType, Role, begin_request, encode_pairs, record
from fcgi_core.protocol.settings import Settings
from fcgi_core.web.service import BackEndOptions, WebOptions, WebService

from .asking import Asked, Asking, request_params
from .ends import app_address, make_carrier
from .measurement import Cell
from .plugin import AlertPlugin

__all__ = ["ask_service"]

UP_WITHIN = 10.0
"""Seconds that the first association may take."""
ALL_UP_WITHIN = 3.0
"""Seconds that the rest of a pool of a given number may take."""


class Words(logging.Handler):
    """Keeps what the product reports, a few lines: a flood's 503s are counted elsewhere."""

    MOST = 8

    def __init__(self, words: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.words = words

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.words) < self.MOST and not (record.args and record.args[0] == 503):  # type: ignore[index]
            self.words.append(record.getMessage())


class Connection(asyncio.Protocol):
    """A connection of the web server."""

    def __init__(self, web: ServiceWeb) -> None:
        self.web = web
        self.asked: Asked | None = None
        self.reader = RecordReader()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.web.connections.add(self)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        for kind, _, content in self.reader.feed(data):
            asked = self.asked
            if asked is None:
                continue
            if kind == RecordType.STDOUT and content:
                if not asked.first and content.startswith(b"Status: 5"):
                    self.web.refuse(asked)
                else:
                    self.web.received(asked, len(content), now)
            elif kind == RecordType.END_REQUEST:
                self.asked = None
                self.web.over(asked, now)
                self.web.free.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self.asked is not None:
            self.web.down.append(f"a {self.asked.kind} request was cut")
            self.web.over(self.asked, 0.0)
        self.web.connections.discard(self)
        if self in self.web.free:
            self.web.free.remove(self)

    def ask(self, asked: Asked, encoded: bytes) -> None:
        self.asked = asked
        self.transport.write(encoded)


class ServiceWeb(Asking):
    """The web server, its service, and the plugin's half in it."""

    def __init__(self, cell: Cell, path: Path) -> None:
        super().__init__(cell)
        self.path = str(path)
        self.free: list[Connection] = []
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.plugin = AlertPlugin()
        self.arrived = self.plugin.arrived
        self.changed = asyncio.Event()
        self.plugin.on_change = self.changed.set
        self.refused = 0

    def refuse(self, asked: Asked) -> None:
        """Leave out a request that was answered 503, as those are that other alternatives cannot begin."""
        self.refused += 1
        self.asked.remove(asked)

    def begin(self, number: int, kind: str, body: bytes = b"", **params: object) -> Asked:
        asked = self.asks(kind)
        pieces = [
            begin_request(1, Role.RESPONDER, KEEP_CONN),
            record(RecordType.PARAMS, 1, encode_pairs(request_params(params))),
            record(RecordType.PARAMS, 1),
            *([record(RecordType.STDIN, 1, body)] if body else []),
            record(RecordType.STDIN, 1),
        ]
        if self.free:
            self.free.pop().ask(asked, b"".join(pieces))
        else:
            task = self.loop.create_task(self._connect(asked, b"".join(pieces)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        return asked

    async def _connect(self, asked: Asked, encoded: bytes) -> None:
        _, connection = await self.loop.create_unix_connection(lambda: Connection(self), self.path)
        connection.ask(asked, encoded)

    def alert_request(self) -> None:
        self.begin(0, "alerts", ALERTS=self.cell.alternative.alerts)

    def close(self) -> None:
        for connection in tuple(self.connections):
            connection.transport.abort()

    async def until_up(self, count: int, seconds: float) -> bool:
        """Wait until there are as many associations; False if there are not within the time."""
        try:
            async with asyncio.timeout(seconds):
                while self.plugin.associations < count:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True


def back_end(cell: Cell) -> BackEndOptions:
    return BackEndOptions(app_address(cell.lane), associations=cell.alternative.associations or None)


async def ask_service(cell: Cell, load: Any, orderly: bool = False) -> dict[str, Any]:
    """Connect, put the load on, and tell when what came, as `web.ask` does. The service is stopped if `orderly`; else
    all ends at once, and the process with it."""
    with tempfile.TemporaryDirectory(prefix="fcgi-bench-") as folder:
        web = ServiceWeb(cell, Path(folder, "web.sock"))
        logger = logging.getLogger("fcgi_sctp")
        logger.propagate = False
        logger.addHandler(Words(web.down))
        carrier = make_carrier(cell.alternative)
        options = WebOptions(slow_start=0.0, queue_length=cell.load.get("queue", 10_000))
        service = WebService(
            carrier,
            [f"unix:{web.path}"],
            [back_end(cell)],
            plugins=web.plugin.enabled(),
            settings=Settings(window=cell.window),
            options=options,
        )
        await service.start()
        try:
            async with asyncio.timeout(cell.limit):
                if not await web.until_up(1, UP_WITHIN):
                    web.down.append("no association")
                else:
                    await web.until_up(max(1, cell.alternative.associations), ALL_UP_WITHIN)
                    await load(web)
        except TimeoutError:
            web.down.append("time is over")
        pool = web.plugin.pool(web.asked[0].began) if web.asked else {}
        result = {**web.result(), "refused": web.refused, "pool": pool}
        web.close()
        if orderly:
            await service.stop(0.0)
        carrier.close()
        await asyncio.sleep(0.1)
    return result
