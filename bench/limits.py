"""What misbehaving clients cost: memory and CPU of web and app, behind real nginx. `python -m bench.limits [--json]`.

Four cases, each with its bound; the exit status is 1 if one is broken. docs/performance.md has the results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.processes import cpu_seconds
from fcgi_core.hosting.byte_stream import KEEP_CONN, RecordReader
from fcgi_core.protocol.records import MAX_PARAMS, RecordType, Role, begin_request, encode_pairs, record
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.web import REMEMBERED_BYTES
from tests.system.stack import Stack

MIB = 1 << 20
WINDOW = Settings().window
IDLE = 10_000
LARGE = 100 * MIB
HEADER = 1_000_000
SLOW = 24
SLOW_ROUNDS = 5


class Row(NamedTuple):
    case: str
    web: float
    """MiB more than before."""
    app: float
    bound: str
    kept: bool
    note: str


def measured(stack: Stack, work: Callable[[], None]) -> tuple[int, int]:
    """Bytes by which web and app have grown when `work` has been done."""
    before = stack.web.resident(), stack.app.resident()
    work()
    return stack.web.resident() - before[0], stack.app.resident() - before[1]


def settled(value: Callable[[], int], patience: float = 20.0) -> int:
    """The value when it has stayed the same for a second."""
    deadline = time.monotonic() + patience
    last, since = value(), time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < 1.0:
        time.sleep(0.05)
        if (now := value()) != last:
            last, since = now, time.monotonic()
    return last


def fastcgi(stack: Stack) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(stack.listen.removeprefix("unix:"))  # waits while the backlog is full; with a timeout it would not
    client.settimeout(30)
    return client


def answer(client: socket.socket) -> bytes:
    """STDOUT up to END_REQUEST."""
    reader, output = RecordReader(), b""
    while data := client.recv(65536):
        for kind, _, content in reader.feed(data):
            if kind == RecordType.STDOUT:
                output += content
            elif kind == RecordType.END_REQUEST:
                return output
    raise AssertionError("the connection ended before the response")


def warm(stack: Stack) -> None:
    connection = stack.connect()
    for _ in range(300):
        assert stack.ask("/hello", connection=connection).status == 200
    connection.close()


def idle_connections(stack: Stack) -> Row:
    clients: list[socket.socket] = []

    def opened() -> None:
        for _ in range(IDLE):
            clients.append(fastcgi(stack))
        assert stack.ask("/hello").status == 200  # behind all of them: they have been accepted

    try:
        web, app = measured(stack, opened)
        spent = cpu_seconds(stack.web.pid)
        time.sleep(2)
        spent = (cpu_seconds(stack.web.pid) - spent) / 2
        took = min(timed(lambda: stack.ask("/hello")) for _ in range(50))
    finally:
        for client in clients:
            client.close()
    note = f"{web / IDLE / 1024:.1f} KiB each; {spent:.1%} of a core; a request beside {took * 1000:.1f} ms"
    return row(f"{IDLE:,} idle connections to web", web, app, "8 KiB each", max(web, app) < IDLE * 8192, note)


def stopped_reader(stack: Stack) -> Row:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        client.connect(("127.0.0.1", stack.port))

        def stop() -> None:
            client.sendall(f"GET /cheap?size={LARGE} HTTP/1.1\r\nHost: shop.example\r\n\r\n".encode())
            client.recv(1024)
            settled(lambda: stack.web.resident() + stack.app.resident())

        web, app = measured(stack, stop)
        assert stack.ask("/hello").status == 200
    bound = f"two windows ({WINDOW / MIB:g} MiB each) and 2 MiB"
    return row("a reader that stopped for good on 100 MiB", web, app, bound, max(web, app) < 2 * WINDOW + 2 * MIB, "")


def large_header(stack: Stack, size: int, expected: bytes) -> Row:
    pairs = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/hello", "SERVER_NAME": "shop.example"}
    pairs |= {"QUERY_STRING": "", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_URI": "/hello"}
    params = encode_pairs({**pairs, "HTTP_X_LARGE": "x" * size})
    said = [b""]
    # what is remembered of ended requests; and of the one on its way: PARAMS, the same while they grow or as records,
    # what of them waits for SCTP, and what SCTP holds; 2 MiB more for what allocators do
    bound = REMEMBERED_BYTES + 4 * size + 2 * MIB if expected == b"200" else 2 * MAX_PARAMS + 2 * MIB

    def ask() -> None:
        with fastcgi(stack) as client:
            client.sendall(begin_request(1, Role.RESPONDER, KEEP_CONN))
            for start in range(0, len(params), 65528):
                client.sendall(record(RecordType.PARAMS, 1, params[start : start + 65528]))
            client.sendall(record(RecordType.PARAMS, 1) + record(RecordType.STDIN, 1))
            said[0] = answer(client)

    def ask_often() -> None:
        for _ in range(20):
            ask()

    web, app = measured(stack, ask_often)
    first = said[0].partition(b"\r\n")[0]
    kept = expected in first and max(web, app) < bound
    note = f"answered: {first.decode('latin-1')}"
    return row(f"20 requests with a header of {size:,} bytes", web, app, f"{bound / MIB:.1f} MiB", kept, note)


class SlowBodies:
    """`count` uploads of which a byte comes each second, while it is entered; the bytes of all are spread over it."""

    def __init__(self, stack: Stack, count: int) -> None:
        self.stack = stack
        self.count = count
        self.clients: list[socket.socket] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drip)

    def __enter__(self) -> SlowBodies:
        begun = self.stack.seen("upload begun")
        for _ in range(self.count):
            client = socket.create_connection(("127.0.0.1", self.stack.port))
            client.sendall(b"POST /upload HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1000\r\n\r\n")
            self.clients.append(client)
        self.stack.saw("upload begun", begun + self.count)
        self._thread.start()
        return self

    def _drip(self) -> None:
        while True:
            for client in self.clients:
                if self._ended.wait(1 / self.count):
                    return
                client.sendall(b"b")

    def __exit__(self, *_: object) -> None:
        over = self.stack.seen("upload over")
        self._ended.set()
        self._thread.join()
        for client in self.clients:
            client.close()
        self.stack.saw("upload over", over + self.count)


def spent(stack: Stack) -> float:
    return cpu_seconds(stack.web.pid) + cpu_seconds(stack.app.pid)


def share(stack: Stack, seconds: float = 3.0) -> float:
    """The part of a core that web and app use now."""
    before = spent(stack)
    time.sleep(seconds)
    return (spent(stack) - before) / seconds


def under_load(stack: Stack, seconds: int = 3) -> tuple[int, float, float]:
    """Requests of wrk, CPU of web and app in us a request, and the slowest answer in ms."""
    before = spent(stack)
    done = subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{seconds}s", "-H", "Host: shop.example", f"http://127.0.0.1:{stack.port}/hello"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    used = spent(stack) - before
    found = re.search(r"(\d+) requests in", done)
    slowest = re.search(r"Latency +\S+ +\S+ +([\d.]+)(us|ms|s)", done)
    assert "Non-2xx" not in done, done
    assert "Socket errors" not in done, done
    assert found, done
    assert slowest, done
    count = int(found[1])
    return count, used / count * 1e6, float(slowest[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[slowest[2]]


def slow_bodies(stack: Stack) -> Row:
    """More of them than the application has threads (16), alone and beside load, in turns with nobody and with load
    alone: what a request costs more beside them, beyond what they cost by themselves."""
    cpu: dict[str, list[float]] = {"idle": [], "alone": [], "without": [], "beside": [], "extra": []}
    slowest = 0.0
    grown = (0, 0)
    for _ in range(SLOW_ROUNDS):
        cpu["idle"].append(share(stack))
        _, without, _ = under_load(stack)
        before = stack.web.resident(), stack.app.resident()
        with SlowBodies(stack, SLOW):
            now = stack.web.resident(), stack.app.resident()
            grown = max(grown[0], now[0] - before[0]), max(grown[1], now[1] - before[1])
            cpu["alone"].append(share(stack))
            count, beside, late = under_load(stack)
        slowest = max(slowest, late)
        cpu["without"].append(without)
        cpu["beside"].append(beside)
        own = (cpu["alone"][-1] - cpu["idle"][-1]) * 3 / count * 1e6
        cpu["extra"].append(beside - without - own)
    middle = {name: statistics.median(values) for name, values in cpu.items()}
    extra = sorted(cpu["extra"])
    note = (
        f"{middle['idle']:.1%} of a core with nobody, {middle['alone']:.1%} with them alone; "
        f"{middle['without']:.0f} us of CPU a request under load without them, {middle['beside']:.0f} beside them; "
        f"extra, their own bytes taken off: {middle['extra']:+.0f} us ({extra[0]:+.0f} to {extra[-1]:+.0f}); "
        f"slowest answer beside them {slowest:.0f} ms"
    )
    kept = middle["alone"] - middle["idle"] < 0.05 and middle["extra"] < 0.1 * middle["without"] and slowest < 2000
    bound = "alone 5% of a core; extra 10% of a request; no answer over 2 s"
    return row(f"{SLOW} bodies of one byte a second", *grown, bound, kept, note)


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def row(case: str, web: int, app: int, bound: str, kept: bool, note: str) -> Row:
    return Row(case, round(web / MIB, 1), round(app / MIB, 1), bound, kept, note)


def machine() -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line), "?")
    return (
        f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    )


def table(rows: list[Row]) -> str:
    lines = ["| Case | web grew by | app grew by | Bound | Kept | |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {one.case} | {one.web} MiB | {one.app} MiB | {one.bound} | {'yes' if one.kept else 'NO'} | {one.note} |"
        for one in rows
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.limits", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = IDLE + 1000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        print(f"{wanted} file descriptors are needed, {hard} are allowed", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))  # web inherits it
    rows = []
    with Stack("applications:plain") as stack:
        warm(stack)
        rows.append(stopped_reader(stack))
        rows.append(large_header(stack, HEADER, b"200"))
        rows.append(large_header(stack, 2 * HEADER, b"431"))
        rows.append(slow_bodies(stack))
        rows.append(idle_connections(stack))
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [one._asdict() for one in rows]}, indent=2))
    else:
        print(machine(), table(rows), sep="\n\n")
    return 0 if all(one.kept for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
