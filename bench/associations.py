"""What associations cost as they grow in number: memory, streams, processor while idle, and the delay of a request.

One process is the web side and one the application side, as in a fleet where one of them has many peers: each holds N
associations on the loopback, with the protocol's core on each, in the measurement of ``bench/streams`` and over its
carriers (userspace SCTP and TCP; kernel SCTP in the lab guest). So both columns are for one process with N peers, and
a real fleet has these costs once on each side. Per turn: bring N up, rest, ask 300 times on one after the other, then
have 8 requests open on each, each with STDERR and a channel of its own: three streams a request.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from bench.streams.alternatives import Alternative
from bench.streams.ends import ALERT, CHANNEL, PORT, make_carrier, memory
from fcgi_core.hosting.driver import Driver
from fcgi_core.protocol.application import ApplicationConnection
from fcgi_core.protocol.events import Event, InputClosed, OutputReceived, PeerReady, RequestEnded, RequestReceived
from fcgi_core.protocol.records import encode_pairs
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.web import WebConnection
from fcgi_core.sctp.carrier import Address

__all__ = ["COUNTS", "KINDS", "turn"]

COUNTS = (1, 10, 100, 300, 1000)
KINDS = ("userspace", "tcp")
HELD = 8
"""Requests open at once on each association."""
AT_ONCE = 50
"""Associations that are being set up at once."""
ASKED = 300
REST = 3.0
"""Seconds of doing nothing, over which the processor's time is taken."""
LIMIT = 120.0
PARAMS = encode_pairs({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/bench", "SERVER_NAME": "bench.example"})


@dataclass
class Side:
    """The associations of one process."""

    loop: asyncio.AbstractEventLoop
    drivers: list[Driver[Any]] = field(default_factory=list)
    ready: int = 0
    received: int = 0
    ended: int = 0
    down: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def driver(self, connection: Any) -> Driver[Any]:
        driver: Driver[Any] = Driver(
            connection, self.loop, on_events=lambda events: self.on_events(driver, events), on_down=self.down.append
        )
        self.drivers.append(driver)
        return driver

    def on_events(self, driver: Driver[Any], events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case PeerReady():
                    self.ready += 1
                case RequestReceived(request):
                    self.received += 1
                    # STDERR and a channel make the request hold all the streams that it can
                    driver.connection.send_stderr(request, b"held\n")
                    driver.connection.send_feedback(CHANNEL, b"held", request, urgency=1)
                case InputClosed(request):
                    driver.connection.send_output(request, b"Content-Type: text/plain\r\n\r\nhello world\n")
                    driver.connection.end_request(request)
                case OutputReceived(request, data):
                    driver.connection.consumed(request, len(data))
                case RequestEnded():
                    self.ended += 1
        driver.wake()
        self.news.set()

    async def until(self, done: Any) -> None:
        while not done():
            if self.down:
                raise OSError(self.down[0])
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), LIMIT)

    def look(self) -> dict[str, Any]:
        streams = sum(driver.connection.pool.in_use() for driver in self.drivers)
        return {"memory": memory(), "processor": time.process_time(), "streams": streams}


async def applications(kind: str, pipe: Pipe) -> None:
    """Accepts what comes; tells how it is when asked."""
    loop = asyncio.get_running_loop()
    side = Side(loop)
    carrier = make_carrier(Alternative(kind, kind))
    address = Address(("127.0.0.1",), PORT, 0) if kind == "userspace" else Address(("127.0.0.1",), PORT)
    listener = carrier.listen(
        address, lambda peer: side.driver(ApplicationConnection(Settings(max_requests=100), channels=[ALERT]))
    )
    over = asyncio.Event()

    def asked() -> None:
        if pipe.recv() == "end":
            over.set()
        else:
            pipe.send(side.look())

    loop.add_reader(pipe.fileno(), asked)
    pipe.send(listener.address.udp_port if kind == "userspace" else 0)
    await over.wait()
    carrier.close()


async def web(kind: str, count: int, udp_port: int, pipe: Pipe) -> dict[str, Any]:
    """One turn, seen from the web side."""
    side = Side(asyncio.get_running_loop())
    carrier = make_carrier(Alternative(kind, kind))
    address = Address(("127.0.0.1",), PORT, udp_port) if udp_port else Address(("127.0.0.1",), PORT)

    def look() -> tuple[dict[str, Any], dict[str, Any]]:
        pipe.send("look")
        return side.look(), pipe.recv()

    def grown(after: dict[str, Any], before: dict[str, Any]) -> float:
        return float((after["memory"] - before["memory"]) / count)

    begin = time.perf_counter()
    at_first, kernel = look(), slab()
    for number in range(count):
        connection = WebConnection(Settings(), channels=[ALERT])
        carrier.connect(address, side.driver(connection))
        if number % AT_ONCE == AT_ONCE - 1:
            await side.until(lambda number=number: side.ready > number)
    await side.until(lambda: side.ready == count)
    result: dict[str, Any] = {"set_up": time.perf_counter() - begin}
    await asyncio.sleep(0.5)

    result["kernel_bytes"] = (slab() - kernel) / count
    idle = look()
    await asyncio.sleep(REST)
    rested = look()
    result["idle_bytes"] = {end: grown(idle[at], at_first[at]) for at, end in enumerate(("web", "application"))}
    result["idle_processor"] = {
        end: (rested[at]["processor"] - idle[at]["processor"]) / REST for at, end in enumerate(("web", "application"))
    }

    delays = []
    some = random.Random(1)
    for _ in range(ASKED):
        driver = some.choice(side.drivers)
        asked = time.perf_counter()
        driver.connection.begin_request(PARAMS, body=b"")
        driver.wake()
        wanted = side.ended + 1
        await side.until(lambda wanted=wanted: side.ended == wanted)
        delays.append(time.perf_counter() - asked)
    delays.sort()
    result["request"] = {"p50": delays[ASKED // 2], "p99": delays[ASKED * 99 // 100]}

    held = []
    for driver in side.drivers:
        for _ in range(HELD):
            held.append((driver, driver.connection.begin_request(PARAMS)))
        driver.wake()
        await asyncio.sleep(0)
    await asyncio.sleep(0.5 + count / 500)
    busy = look()
    result["busy_bytes"] = {end: grown(busy[at], at_first[at]) for at, end in enumerate(("web", "application"))}
    result["streams"] = {end: busy[at]["streams"] for at, end in enumerate(("web", "application"))}
    wanted = side.ended + len(held)
    for driver, request in held:
        driver.connection.end_input(request)
        driver.wake()
    await side.until(lambda: side.ended == wanted)
    for driver in side.drivers:
        if driver.association is not None:
            driver.association.abort("the end of the measurement")
    await asyncio.sleep(0.3)
    carrier.close()
    return result


def slab() -> int:
    """Bytes of the machine's kernel in its own caches: sockets and what SCTP and TCP know of each peer among them."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Slab:"))
    return int(line.split()[1]) * 1024


def _applications(kind: str, pipe: Pipe) -> None:
    asyncio.run(applications(kind, pipe))


def _web(kind: str, count: int, udp_port: int, pipe: Pipe, answer: Pipe) -> None:
    answer.send(asyncio.run(web(kind, count, udp_port, pipe)))


def turn(kind: str, count: int) -> dict[str, Any] | None:
    """One turn with two fresh processes; None if it failed (they have said why)."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    result, answer = spawn.Pipe(duplex=False)
    application = spawn.Process(target=_applications, args=(kind, theirs), daemon=True)
    application.start()
    try:
        udp_port = ours.recv()
        client = spawn.Process(target=_web, args=(kind, count, udp_port, ours, answer), daemon=True)
        client.start()
        answer.close()
        try:
            return result.recv()
        except EOFError:
            return None
        finally:
            client.join(LIMIT)
            client.kill()
    finally:
        ours.send("end")
        application.join(10)
        application.kill()


def main() -> None:
    """In the guest: FILE KIND COUNT...; the turns of kernel SCTP go to the file."""
    file, rounds, counts = Path(sys.argv[1]), int(sys.argv[2]), [int(word) for word in sys.argv[3:]]
    subprocess.run(("ip", "link", "set", "lo", "up"), check=False)
    Path("/proc/sys/net/sctp/intl_enable").write_text("1")
    Path("/proc/sys/net/sctp/reconf_enable").write_text("1")
    found = []
    for _ in range(rounds):
        for count in counts:
            for kind in ("kernel", "tcp"):
                if (result := turn(kind, count)) is not None:
                    found.append({"kind": kind, "count": count, **result})
    file.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
