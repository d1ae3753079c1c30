"""What associations cost as they grow in number: memory, streams, processor while idle, and the delay of a request.

One process is the web side and one the application side, as in a fleet where one of them has many peers: each holds N
associations on the loopback, with the protocol's core on each, in the measurement of ``bench/streams`` and over its
carriers (userspace SCTP and TCP; kernel SCTP in the lab guest). So both columns are for one process with N peers, and
a real fleet has these costs once on each side. Per turn: bring N up, rest, ask 300 times on one after the other, then
have 8 requests open on each, each with STDERR and a channel of its own: three streams a request. At last one answer of
64 KiB on each at once, and rest again: what is held at most, and what stays.

    .venv/bin/python -m bench.associations [--kinds userspace,tcp] [--counts 1000] [--rounds 3] [--rest 10]
                                           [--against FOLDER] [--json FILE]

`--against` takes turns with another checkout, built as it may be, and tells the ratios by pairs: this one's figure by
the other's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median
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

__all__ = ["BYTES", "COUNTS", "KINDS", "turn"]

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
BULK = 64 << 10
"""Bytes of the answer on each, within a request's window."""
ANSWERS = {"": b"Content-Type: text/plain\r\n\r\nhello world\n", "bulk": bytes(BULK)}
PARAMS, BULK_PARAMS = (
    encode_pairs(
        {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/bench", "SERVER_NAME": "bench.example", "QUERY_STRING": query}
    )
    for query in ANSWERS
)


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
                    driver.connection.send_output(request, ANSWERS[request.params["QUERY_STRING"]])
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
        streams = sum(len(driver.connection.pool.holders) for driver in self.drivers)
        found = {
            "memory": memory(),
            "resident": status("VmRSS"),
            "peak": status("VmHWM"),
            "processor": time.process_time(),
            "streams": streams,
        }
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        return found


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


async def web(kind: str, count: int, udp_port: int, pipe: Pipe, rest: float) -> dict[str, Any]:
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
    await asyncio.sleep(rest)
    rested = look()
    result["idle_bytes"] = {end: grown(idle[at], at_first[at]) for at, end in enumerate(("web", "application"))}
    result["idle_processor"] = {
        end: (rested[at]["processor"] - idle[at]["processor"]) / rest for at, end in enumerate(("web", "application"))
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

    await asyncio.sleep(0.5)
    before = look()
    wanted = side.ended + count
    for driver in side.drivers:
        driver.connection.begin_request(BULK_PARAMS, body=b"")
        driver.wake()
    await side.until(lambda: side.ended == wanted)
    most = look()
    await asyncio.sleep(rest)
    after = look()
    ends = tuple(enumerate(("web", "application")))
    result["bulk_bytes"] = {end: (most[at]["peak"] - before[at]["resident"]) / count for at, end in ends}
    result["after_bytes"] = {end: grown(after[at], at_first[at]) for at, end in ends}
    result["after_processor"] = {end: (after[at]["processor"] - most[at]["processor"]) / rest for at, end in ends}
    for driver in side.drivers:
        if driver.association is not None:
            driver.association.abort("the end of the measurement")
    await asyncio.sleep(0.3)
    carrier.close()
    return result


def status(name: str) -> int:
    """Bytes that /proc/self/status says of this process: VmRSS, resident now; VmHWM, at most since the last look."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def slab() -> int:
    """Bytes of the machine's kernel in its own caches: sockets and what SCTP and TCP know of each peer among them."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Slab:"))
    return int(line.split()[1]) * 1024


def _applications(kind: str, pipe: Pipe) -> None:
    asyncio.run(applications(kind, pipe))


def _web(kind: str, count: int, udp_port: int, pipe: Pipe, answer: Pipe, rest: float) -> None:
    answer.send(asyncio.run(web(kind, count, udp_port, pipe, rest)))


def turn(kind: str, count: int, rest: float = REST) -> dict[str, Any] | None:
    """One turn with two fresh processes; None if it failed (they have said why)."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    result, answer = spawn.Pipe(duplex=False)
    application = spawn.Process(target=_applications, args=(kind, theirs), daemon=True)
    application.start()
    try:
        udp_port = ours.recv()
        client = spawn.Process(target=_web, args=(kind, count, udp_port, ours, answer, rest), daemon=True)
        client.start()
        answer.close()
        try:
            found: dict[str, Any] = result.recv()
            return found
        except EOFError:
            return None
        finally:
            client.join(LIMIT)
            client.kill()
    finally:
        ours.send("end")
        application.join(10)
        application.kill()


def turn_of(folder: Path, kind: str, count: int, rest: float) -> dict[str, Any] | None:
    """One turn of another checkout."""
    with tempfile.TemporaryDirectory() as kept:
        file = Path(kept, "turn.json")
        words = ("--kinds", kind, "--counts", str(count), "--rounds", "1", "--rest", str(rest), "--json", str(file))
        command = (str(folder / ".venv/bin/python"), "-m", "bench.associations", *words)
        subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=False)
        rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    return rows[0] if rows else None


BYTES = ("idle_bytes", "busy_bytes", "bulk_bytes", "after_bytes")
FIGURES = (
    *(f"{what}/{end}" for what in ("idle_processor", "after_processor") for end in ("application", "web")),
    *(f"{what}/{end}" for what in BYTES for end in ("application", "web")),
    *("request/p50", "request/p99"),
)


def value(row: dict[str, Any], path: str) -> float:
    what, _, name = path.partition("/")
    return float(row[what][name])


def text(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """The figures of each kind and number, a median each, and by pairs what they are to the other checkout's."""
    lines = []
    for kind, count in dict.fromkeys((row["kind"], row["count"]) for row in rows):
        mine = [row for row in rows if (row["kind"], row["count"]) == (kind, count)]
        lines.append(f"{count} associations, {kind}, {len(mine)} rounds")
        for path in FIGURES:
            values = [value(row, path) for row in mine]
            unit, scale = UNITS[path.partition("/")[0]]
            line = f"  {path:28} {median(values) * scale:9.2f} {unit}"
            pairs = [
                value(row, path) / value(other, path)
                for row in mine
                for other in others
                if (row["kind"], row["count"], row["round"]) == (other["kind"], other["count"], other["round"])
                and value(other, path) > 0
            ]
            if pairs:
                line += f"   by the other's: {median(pairs):.2f} ({min(pairs):.2f}-{max(pairs):.2f})"
            lines.append(line)
    return "".join(line + "\n" for line in lines)


UNITS = {
    **dict.fromkeys(("idle_processor", "after_processor"), ("% of a core", 100.0)),
    **dict.fromkeys(BYTES, ("KiB each", 1 / 1024)),
    "request": ("ms", 1e3),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.associations", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", default="userspace", help="userspace, kernel, tcp")
    parser.add_argument("--counts", default="1000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rest", type=float, default=REST, help="seconds over which the processor's time is taken")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout with its .venv")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    if "kernel" in kinds:  # in the guest, which has nothing yet
        subprocess.run(("ip", "link", "set", "lo", "up"), check=False)
        Path("/proc/sys/net/sctp/intl_enable").write_text("1")
        Path("/proc/sys/net/sctp/reconf_enable").write_text("1")
    rows: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for number in range(options.rounds):
        for count in map(int, options.counts.split(",")):
            for kind in kinds:
                head = {"kind": kind, "count": count, "round": number}
                if (found := turn(kind, count, options.rest)) is not None:
                    rows.append({**head, **found})
                if options.against is not None:
                    other = turn_of(options.against.resolve(), kind, count, options.rest)
                    if other is not None:
                        others.append({**other, **head})
    print(text(rows, others), end="")
    if options.json is not None:
        options.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
