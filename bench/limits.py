"""What misbehaving clients cost: memory and CPU of web and app, behind real nginx. `python -m bench.limits [--json]`.

Four cases, each with its bound; the exit status is 1 if one is broken. docs/limits.md has the results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.processes import cpu_seconds
from fcgi_core.records import KEEP_CONN, RecordReader, RecordType, Role, begin_request, encode_pairs, record
from fcgi_core.settings import Settings
from tests.system.stack import Stack

MIB = 1 << 20
WINDOW = Settings().window
IDLE = 10_000
LARGE = 100 * MIB
HEADER = 1_000_000
SLOW = 24


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

    def ask() -> None:
        with fastcgi(stack) as client:
            client.sendall(begin_request(1, Role.RESPONDER, KEEP_CONN))
            for start in range(0, len(params), 65528):
                client.sendall(record(RecordType.PARAMS, 1, params[start : start + 65528]))
            client.sendall(record(RecordType.PARAMS, 1) + record(RecordType.STDIN, 1))
            said[0] = answer(client)

    web, app = measured(stack, lambda: [ask() for _ in range(20)] and None)
    first = said[0].partition(b"\r\n")[0]
    kept = expected in first and max(web, app) < 16 * MIB
    note = f"answered: {first.decode('latin-1')}"
    return row(f"20 requests with a header of {size:,} bytes", web, app, "16 MiB", kept, note)


def share(stack: Stack, seconds: float = 4.0) -> float:
    """The part of a core that web and app use now."""
    before = cpu_seconds(stack.web.pid) + cpu_seconds(stack.app.pid)
    time.sleep(seconds)
    return (cpu_seconds(stack.web.pid) + cpu_seconds(stack.app.pid) - before) / seconds


def slow_bodies(stack: Stack) -> Row:
    """More of them than the application has threads (16)."""
    clients: list[socket.socket] = []
    idle = share(stack)
    ended = threading.Event()

    def drip() -> None:
        while not ended.wait(1):
            for client in clients:
                client.sendall(b"b")

    def begin() -> None:
        for _ in range(SLOW):
            client = socket.create_connection(("127.0.0.1", stack.port))
            client.sendall(b"POST /upload HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1000\r\n\r\n")
            clients.append(client)

    web, app = measured(stack, begin)
    thread = threading.Thread(target=drip)
    thread.start()
    try:
        busy = share(stack)
        with_them = [timed(lambda: stack.ask("/hello")) for _ in range(300)]
    finally:
        ended.set()
        thread.join()
        for client in clients:
            client.close()
    cpu = f"{idle:.1%} of a core before, {busy:.1%} with them"
    note = f"{cpu}; of 300 requests beside the slowest {max(with_them) * 1e3:.0f} ms"
    kept = busy - idle < 0.05 and max(with_them) < 2
    return row(f"{SLOW} bodies of one byte a second", web, app, "5% of a core, no request over 2 s", kept, note)


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
