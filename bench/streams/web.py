"""The web side of a measurement: begins requests, takes answers and alerts, and keeps when each came."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from fcgi_core.errors import RequestRefused
from fcgi_core.hosting.driver import Driver
from fcgi_core.protocol.connection import Request
from fcgi_core.protocol.events import Event, FeedbackReceived, OutputReceived, PeerReady, RequestEnded, RequestFailed
from fcgi_core.protocol.records import encode_pairs
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.web import WebConnection

from .ends import ALERT, Held, app_address, make_carrier, memory
from .measurement import Cell
from .policies import POLICIES

__all__ = ["ask"]

SYSLOG_PORT = 514


class Asked:
    """A request, and when what happened to it."""

    __slots__ = ("began", "ended", "first", "kind", "received", "slow")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.began = time.monotonic()
        self.first = 0.0
        self.ended = 0.0
        self.received = 0
        self.slow = False


class Web:
    """All associations of the web side."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.loop = asyncio.get_running_loop()
        self.random = random.Random(cell.seed * 1000 + cell.run)
        self.drivers: list[Driver[Any]] = []
        self.ready = 0
        self.all_ready = asyncio.Event()
        self.idle = asyncio.Event()
        self.asked: list[Asked] = []
        self.open = 0
        self.arrived: dict[int, float] = {}
        self.bytes_: list[tuple[float, int]] = []
        self.down: list[str] = []
        self.lowest = memory()
        self.unread: deque[tuple[Driver[Any], Request, int]] = deque()
        self.held = self.most_held = 0
        """Bytes that a slow reader has not taken yet."""

    def connect(self, carrier: Any, count: int) -> None:
        address = app_address(self.cell.lane)
        for _ in range(count):
            connection = WebConnection(
                Settings(window=self.cell.window), channels=[ALERT], policy=POLICIES[self.cell.alternative.plan]
            )
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
                    asked.first = asked.first or now
                    asked.received += len(data)
                    self.bytes_.append((now, len(data)))
                    if asked.slow:
                        self.unread.append((driver, request, len(data)))
                        self.held += len(data)
                        self.most_held = max(self.most_held, self.held)
                    else:
                        driver.connection.consumed(request, len(data))
                case FeedbackReceived(_, _, item):
                    self.arrived[Held.unpack_from(item)[0]] = now
                case RequestEnded(request) | RequestFailed(request):
                    request.context.ended = now
                    self.open -= 1
                    if self.open == 0:
                        self.idle.set()
                case PeerReady():
                    self.ready += 1
                    if self.ready == len(self.drivers):
                        self.all_ready.set()

    def begin(self, driver: Driver[Any], kind: str, body: bytes = b"", **params: object) -> Asked | None:
        """Begin a request; None if the application takes no more."""
        asked = Asked(kind)
        try:
            pairs = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/bench", "SERVER_NAME": "bench.example"}
            pairs |= {name: str(value) for name, value in params.items()}
            request = driver.connection.begin_request(encode_pairs(pairs), body=body)
        except RequestRefused:
            return None
        request.context = asked
        self.asked.append(asked)
        self.open += 1
        self.idle.clear()
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
        """Have the alerts begin, on whatever this alternative sends them."""
        way = self.cell.alternative.alerts
        if way == "udp":
            self.begin(self.drivers[0], "alerts", ALERTS="udp", PORT=SYSLOG_PORT)
        else:
            self.begin(self.drivers[-1 if way == "connection" else 0], "alerts", ALERTS="channel")


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
    result = {
        "arrived": web.arrived,
        "bytes": web.bytes_,
        "requests": [(a.kind, a.began, a.first, a.ended, a.received) for a in web.asked if a.kind != "alerts"],
        "down": list(web.down),
        "memory": memory() - web.lowest,
        "held": web.most_held,
        "cpu": time.process_time(),
    }
    for driver in web.drivers:
        if driver.association is not None:
            driver.association.abort("the end of the measurement")
    await asyncio.sleep(0.3)
    carrier.close()
    return result
