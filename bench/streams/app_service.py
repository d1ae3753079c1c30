"""The application side with the real `AppService`: answers of any length, and alerts by a plugin beside them.

What a request wants stands in its PARAMS, as for `application.py`; ALERTS is `plugin` (alerts of the process) or
`request` (alerts of the requests that have it, in turn).
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from fcgi_core.app.exchange import AppExchange
from fcgi_core.app.service import AppService
from fcgi_core.protocol.settings import Settings

from .alerting import AlertClock
from .ends import app_address, make_carrier, memory
from .measurement import Cell
from .plugin import AlertPlugin

__all__ = ["serve_with_service"]

HEAD = b"Content-Type: application/octet-stream\r\n\r\n"
PIECE = random.Random(1).randbytes(32768)
LOOK_EVERY = 0.1


class Answer:
    """What is left to be sent of one request's answer."""

    __slots__ = ("exchange", "left")

    def __init__(self, exchange: AppExchange, size: float) -> None:
        self.exchange = exchange
        self.left = size
        exchange.on_writable = self.pump

    def begin(self) -> None:
        if not self.exchange.ended:
            self.left -= len(HEAD)
            self.exchange.send(HEAD)
            self.pump()

    def pump(self) -> None:
        exchange = self.exchange
        while exchange.writable and self.left > 0 and not exchange.ended:
            length = int(min(self.left, len(PIECE)))
            self.left -= length
            exchange.send(PIECE[:length])
        if self.left <= 0 and not exchange.ended:
            exchange.end()


class Bulk:
    """The application: an `Application` of `AppService`."""

    def __init__(self, cell: Cell, plugin: AlertPlugin) -> None:
        self.cell = cell
        self.plugin = plugin
        self.loop = asyncio.get_running_loop()
        self.clock = AlertClock(cell)
        self.dealt: Counter[int] = Counter()
        """Requests by association."""
        self.holders: list[AppExchange] = []
        self.work: deque[tuple[Answer, float]] = deque()
        self.done = asyncio.Event()
        self.queued: list[int] = []
        self.cwnd: list[int] = []
        self.lowest = self.highest = memory()

    async def start(self, service: AppService) -> None:
        pass

    async def stop(self) -> None:
        pass

    def request(self, exchange: AppExchange) -> None:
        self.dealt[exchange.link.info.identity] += 1
        params = exchange.params
        exchange.on_abort = self._ends(exchange)
        exchange.on_input = self._takes(exchange)
        exchange.take_body()
        alerts = params.get("ALERTS", "")
        if alerts:
            if alerts == "request":
                self.holders.append(exchange)
            self.clock.begun.set()
        if "SIZE" not in params:
            if alerts != "request":
                exchange.send(HEAD)
                exchange.end()
            return
        answer = Answer(exchange, float(params["SIZE"]) or float("inf"))
        if "SERVICE" not in params:
            answer.begin()
            return
        self.work.append((answer, float(params["SERVICE"]) / 1000))
        if len(self.work) == 1:
            self.loop.call_later(self.work[0][1], self._worked)

    def _ends(self, exchange: AppExchange) -> Callable[[], None]:
        def end() -> None:
            self.holders = [one for one in self.holders if one is not exchange]
            exchange.end()

        return end

    def _takes(self, exchange: AppExchange) -> Callable[[], None]:
        def take() -> None:
            exchange.take_body()

        return take

    def _worked(self) -> None:
        """One request's work is done; the next begins."""
        answer, _ = self.work.popleft()
        answer.begin()
        if self.work:
            self.loop.call_later(self.work[0][1], self._worked)

    def alert(self, number: int, item: bytes) -> None:
        self.plugin.send(item, self.holders[number % len(self.holders)] if self.holders else None)

    async def watch(self) -> None:
        """Look now and then how much memory there is, and what SCTP holds."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.highest = max(self.highest, memory())
            known = [one.statistics for one in self.plugin.transport().associations]
            if self.dealt and known:
                self.queued.append(sum(one.queued for one in known))
                self.cwnd.append(sum(one.congestion_window or 0 for one in known))

    def changed(self) -> None:
        """End when the web side has gone."""
        if not self.plugin.associations:
            self.done.set()


async def serve_with_service(cell: Cell, ready: Any, orderly: bool = False) -> dict[str, Any]:
    """Serve until the web side has gone; what this side knows, as `application.serve` returns it. `orderly`: as for
    `web_service.ask_service`."""
    plugin = AlertPlugin()
    bulk = Bulk(cell, plugin)
    plugin.on_change = bulk.changed
    bulk.loop.add_signal_handler(signal.SIGTERM, bulk.done.set)
    carrier = make_carrier(cell.alternative)
    settings = Settings(max_requests=cell.max_requests, window=cell.window)
    service = AppService(bulk, carrier, [app_address(cell.lane)], plugins=plugin.enabled(), settings=settings)
    await service.start()
    ready()
    tasks = [asyncio.ensure_future(one) for one in (bulk.clock.run(bulk.alert, lambda: None), bulk.watch())]
    try:
        await asyncio.wait_for(bulk.done.wait(), cell.limit)
    except TimeoutError:
        pass
    for task in tasks:
        task.cancel()
    if orderly:
        await service.stop(0.0)
    carrier.close()
    return {
        "sent": bulk.clock.sent,
        "refused": 0,
        "late": bulk.clock.late_p99(),
        "queued": bulk.queued,
        "cwnd": bulk.cwnd,
        "memory": bulk.highest - bulk.lowest,
        "cpu": time.process_time(),
        "dealt": sorted(bulk.dealt.values(), reverse=True),
    }
