"""The application side of a measurement: answers of any length, and an alert every 10 ms beside them.

What a request wants stands in its PARAMS: SIZE (bytes of the answer, 0: without end), SERVICE (milliseconds of work,
one request after another), ALERTS (`channel`: alerts go on this request; `udp`: to the port in PORT).
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from fcgi_core.hosting.driver import Driver
from fcgi_core.protocol.application import ApplicationConnection
from fcgi_core.protocol.events import Event, InputReceived, RequestAborted, RequestReceived, Writable
from fcgi_core.protocol.request import Request
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.states import Output

from .alerting import AlertClock
from .alternatives import Alternative
from .ends import CHANNEL, alert_channel, app_address, make_carrier, memory
from .measurement import Cell
from .policies import POLICIES

__all__ = ["serve"]

PIECE = random.Random(1).randbytes(32768)


class Application:
    """All associations of one application."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.loop = asyncio.get_running_loop()
        self.holders: list[tuple[Driver[Any], Request]] = []
        self.datagrams: tuple[socket.socket, tuple[str, int]] | None = None
        self.clock = AlertClock(cell)
        self.done = asyncio.Event()
        self.work: deque[tuple[Driver[Any], Request]] = deque()
        self.working = False
        self.drivers = 0
        self.refused = 0
        self.queued: list[int] = []
        self.cwnd: list[int] = []
        self.lowest = memory()
        self.highest = self.lowest

    def accept(self, peer: str) -> Driver[Any]:
        settings = Settings(max_requests=self.cell.max_requests, window=self.cell.window)
        connection = ApplicationConnection(settings, channels=[alert_channel(self.cell)])
        connection.pool.policy = POLICIES[self.cell.alternative.plan]
        driver: Driver[Any] = Driver(
            connection, self.loop, on_events=lambda events: self.on_events(driver, events), on_down=self.on_down
        )
        self.drivers += 1
        return driver

    def on_down(self, reason: str) -> None:
        self.drivers -= 1
        if self.drivers == 0:
            self.done.set()

    def on_events(self, driver: Driver[Any], events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case RequestReceived(request):
                    self.begin(driver, request)
                case Writable(request):
                    self.pump(driver, request)
                case InputReceived(request, data):
                    driver.connection.consumed(request, len(data))
                case RequestAborted(request):
                    driver.connection.end_request(request)
                    self.holders = [pair for pair in self.holders if pair[1] is not request]

    def begin(self, driver: Driver[Any], request: Request) -> None:
        params = request.params
        alerts = params.get("ALERTS", "")
        if alerts == "udp":
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            host = app_address(self.cell.lane).hosts[0].replace("10.8.", "10.7.")
            self.datagrams = (sock, (host, int(params["PORT"])))
        elif alerts:
            self.holders.append((driver, request))
        if alerts:
            self.clock.begun.set()
        if "SIZE" not in params:
            return
        size = int(params["SIZE"])
        request.context = size if size else float("inf")
        if "SERVICE" in params:
            self.work.append((driver, request))
            if not self.working:
                self.working = True
                self.loop.call_later(float(params["SERVICE"]) / 1000, self.worked)
        else:
            self.pump(driver, request)

    def worked(self) -> None:
        """One request's work is done; the next begins."""
        driver, request = self.work.popleft()
        self.pump(driver, request)
        driver.wake()
        self.working = bool(self.work)
        if self.work:
            self.loop.call_later(float(self.work[0][1].params["SERVICE"]) / 1000, self.worked)

    def pump(self, driver: Driver[Any], request: Request) -> None:
        connection = driver.connection
        if request.output is not Output.OPEN or request.context is None or request.aborted:
            return
        while request.writable and request.context > 0:
            length = int(min(request.context, len(PIECE)))
            request.context -= length
            connection.send_output(request, PIECE[:length])
            request.lane.is_long &= self.cell.alternative.long_behind
        if request.context <= 0 and request.writable:
            request.context = None
            connection.end_request(request)

    def alert(self, number: int, item: bytes) -> None:
        if self.datagrams is not None:
            sock, where = self.datagrams
            try:
                sock.sendto(item, where)
            except OSError:
                self.refused += 1
        elif self.holders:
            driver, request = self.holders[number % len(self.holders)]
            if not driver.connection.send_feedback(CHANNEL, item, request, urgency=1):
                self.refused += 1
            driver.wake()

    def look(self) -> None:
        self.highest = max(self.highest, memory())
        if self.holders and self.holders[0][0].association is not None:
            known = self.holders[0][0].association.statistics()
            if known.congestion_window is not None:
                self.queued.append(known.queued)
                self.cwnd.append(known.congestion_window)


async def serve(cell: Cell, ready: Any) -> dict[str, Any]:
    """Serve until the web side has gone; what this side knows."""
    application = Application(cell)
    alternatives: Alternative = cell.alternative
    carrier = make_carrier(alternatives)
    carrier.listen(app_address(cell.lane), application.accept)
    await asyncio.sleep(0.05)
    ready()
    application.loop.add_signal_handler(signal.SIGTERM, application.done.set)
    alerts = asyncio.ensure_future(application.clock.run(application.alert, application.look))
    try:
        await asyncio.wait_for(application.done.wait(), cell.limit)
    except TimeoutError:
        pass
    alerts.cancel()
    carrier.close()
    return {
        "sent": application.clock.sent,
        "refused": application.refused,
        "late": application.clock.late_p99(),
        "queued": application.queued,
        "cwnd": application.cwnd,
        "memory": application.highest - application.lowest,
        "cpu": time.process_time(),
    }
