"""The web side of a measurement: begins requests, takes answers and alerts, and keeps when each came."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from fcgi_core.errors import RequestRefused
from fcgi_core.hosting.driver import Driver
from fcgi_core.protocol.events import Event, FeedbackReceived, OutputReceived, PeerReady, RequestEnded, RequestFailed
from fcgi_core.protocol.records import encode_pairs
from fcgi_core.protocol.request import Request
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.web import WebConnection

from .asking import Asked, Asking, request_params
from .ends import Held, alert_channel, app_address, make_carrier
from .measurement import Cell
from .policies import POLICIES

__all__ = ["ask"]

SYSLOG_PORT = 514


class Web(Asking):
    """All associations of the web side."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self.drivers: list[Driver[Any]] = []
        self.ready = 0
        self.all_ready = asyncio.Event()
        self.unread: deque[tuple[Driver[Any], Request, int]] = deque()
        self.held = 0
        """Bytes that a slow reader has not taken yet."""

    def connect(self, carrier: Any, count: int) -> None:
        address = app_address(self.cell.lane)
        for _ in range(count):
            connection = WebConnection(Settings(window=self.cell.window), channels=[alert_channel(self.cell)])
            connection.pool.policy = POLICIES[self.cell.alternative.plan]
            driver = self.driver(connection)
            self.drivers.append(driver)
            carrier.connect(address, driver)

    def driver(self, connection: WebConnection) -> Driver[Any]:
        driver: Driver[Any] = Driver(
            connection, self.loop, on_events=lambda events: self.on_events(driver, events), on_down=self.down.append
        )
        return driver

    def on_events(self, driver: Driver[Any], events: Sequence[Event]) -> None:
        now = time.monotonic()
        for event in events:
            match event:
                case OutputReceived(request, data):
                    asked = request.context
                    self.received(asked, len(data), now)
                    if asked.slow:
                        self.unread.append((driver, request, len(data)))
                        self.held += len(data)
                        self.most_held = max(self.most_held, self.held)
                    else:
                        driver.connection.consumed(request, len(data))
                case FeedbackReceived(_, _, item):
                    self.arrived[Held.unpack_from(item)[0]] = now
                case RequestEnded(request) | RequestFailed(request):
                    self.over(request.context, now)
                case PeerReady():
                    self.ready += 1
                    if self.ready == len(self.drivers):
                        self.all_ready.set()

    def is_free(self, number: int) -> bool:
        """Return False for a connection of a pool that is busy: it carries one request at a time."""
        at = number % self.cell.alternative.connections
        return at == 0 or not self.drivers[at].connection.requests

    def begin(self, number: int, kind: str, body: bytes = b"", **params: object) -> Asked | None:
        at = number if number < 0 else number % self.cell.alternative.connections
        driver = self.drivers[at]
        try:
            request = driver.connection.begin_request(encode_pairs(request_params(params)), body=body)
        except RequestRefused:
            return None
        request.context = asked = self.asks(kind)
        driver.wake()
        return asked

    def take_slowly(self, rate: float) -> None:
        """The slow reader takes what 50 ms of its `rate` (bytes a second) allow."""
        allowed = rate / 20
        while self.unread and allowed > 0:
            driver, request, length = self.unread.popleft()
            allowed -= length
            self.held -= length
            driver.connection.consumed(request, length)
            driver.wake()
        # a piece longer than the allowance is paid for by waiting
        self.loop.call_later(0.05 - min(0.0, allowed) / rate, self.take_slowly, rate)

    def listen_for_datagrams(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("0.0.0.0", SYSLOG_PORT))

        def readable() -> None:
            while True:
                try:
                    item = sock.recv(2048)
                except BlockingIOError:
                    return
                self.arrived[Held.unpack_from(item)[0]] = time.monotonic()

        self.loop.add_reader(sock.fileno(), readable)
        self.syslog = sock

    def alert_request(self) -> None:
        way = self.cell.alternative.alerts
        if way == "udp":
            self.begin(0, "alerts", ALERTS="udp", PORT=SYSLOG_PORT)
        else:
            self.begin(-1 if way == "connection" else 0, "alerts", ALERTS="channel")


async def ask(cell: Cell, load: Any) -> dict[str, Any]:
    """Connect, put the load on, and tell when what came."""
    web = Web(cell)
    alternative = cell.alternative
    carrier = make_carrier(alternative)
    if alternative.alerts == "udp":
        web.listen_for_datagrams()
    web.connect(carrier, alternative.connections + (alternative.alerts == "connection"))
    try:
        async with asyncio.timeout(cell.limit):
            await web.all_ready.wait()
            await load(web)
    except TimeoutError:
        web.down.append("time is over")
    result = web.result()
    for driver in web.drivers:
        if driver.association is not None:
            driver.association.abort("the end of the measurement")
    await asyncio.sleep(0.3)
    carrier.close()
    return result
