"""What an outsider would choose: HTTP to the back end, HAProxy before hypercorn, with the path between them.

HAProxy, for Debian's nginx (1.22) speaks HTTP/2 to browsers only: its proxy_pass has HTTP/1 alone. Requests come to
HAProxy over HTTP/1.1 on the loopback, which no path slows, and go on over one connection (HTTP/2) or as many as the
alternative has (HTTP/1.1). CUBIC, as for the other TCP alternatives.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.install import PYTHON, ROOT, which

from .ends import app_address
from .measurement import Cell, rounds_of

__all__ = ["ask_over_http", "serve_http"]

HAPROXY = """\
global
    nbthread 1
    maxconn 1000
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
frontend here
    bind 127.0.0.1:8080
    default_backend there
backend there
    http-reuse always
    server application {address} {protocol}
"""
READY = 10.0
"""Seconds that a program may take to listen."""
PIECE = 65536


async def serve_http(cell: Cell, ready: Any) -> dict[str, Any]:
    """Serve until the web side says that it is over."""
    address = app_address(cell.lane)
    command = (str(PYTHON), "-m", "bench.streams.answers", address.hosts[0], str(address.port))
    with _program(*command) as program:
        await _listening(program, *_name(address))
        ready()
        try:
            await asyncio.wait_for(asyncio.to_thread(program.wait), cell.limit)
        except TimeoutError:
            pass
    return {"sent": [], "refused": 0, "late": 0.0, "queued": [], "cwnd": [], "memory": 0, "cpu": time.process_time()}


class _Clients:
    """As many connections to HAProxy as there are requests at once."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.bytes_: list[tuple[float, int]] = []
        self.requests: list[tuple[str, float, float, float, int]] = []
        self.down: list[str] = []

    async def fetch(self, pair: Any, kind: str, path: str) -> None:
        reader, writer = pair
        began = time.monotonic()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: bench.example\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        status, _, rest = head.partition(b"\r\n")
        if b" 200" not in status:
            raise OSError(f"{path}: {status.decode()}")
        fields = dict(line.lower().split(b": ", 1) for line in rest.strip().split(b"\r\n"))
        left = size = int(fields[b"content-length"])
        first = 0.0
        while left:
            data = await reader.read(min(left, PIECE))
            if not data:
                raise OSError(f"{path}: cut short")
            now = time.monotonic()
            first = first or now
            left -= len(data)
            self.bytes_.append((now, len(data)))
        self.requests.append((kind, began, first, time.monotonic(), size))

    async def rounds(self, random: Any) -> None:
        load = self.cell.load
        pairs = [
            await asyncio.open_connection("127.0.0.1", 8080, limit=PIECE) for _ in range(load["long"] + load["short"])
        ]
        for kinds in rounds_of(self.cell, random):
            paths = [f"/{load[f'{kind}_bytes']}" for kind in kinds]
            await asyncio.gather(*map(self.fetch, pairs, kinds, paths))
        await self.fetch(pairs[0], "end", "/end")
        self.requests.pop()
        for _, writer in pairs:
            writer.close()


async def ask_over_http(cell: Cell, random: Any) -> dict[str, Any]:
    """The requests' scenario through HAProxy; the same result as web.ask()."""
    alternative = cell.alternative
    host, port = _name(app_address(cell.lane))
    protocol = "proto h2" if alternative.carrier == "http/2" else f"maxconn {alternative.connections}"
    clients = _Clients(cell)
    program_name = which("haproxy")
    if program_name is None:
        raise FileNotFoundError("haproxy is not installed")
    with tempfile.TemporaryDirectory(prefix="fcgi-bench-") as folder:
        file = Path(folder, "haproxy.cfg")
        file.write_text(HAPROXY.format(address=f"{host}:{port}", protocol=protocol))
        with _program(program_name, "-db", "-q", "-f", str(file)) as program:
            await _listening(program, "127.0.0.1", 8080)
            try:
                async with asyncio.timeout(cell.limit):
                    await clients.rounds(random)
            except TimeoutError:
                clients.down.append("time is over")
    return {
        "arrived": {},
        "bytes": clients.bytes_,
        "requests": clients.requests,
        "down": clients.down,
        "memory": 0,
        "held": 0,
        "cpu": time.process_time(),
    }


def _name(address: Any) -> tuple[str, int]:
    return address.hosts[0], address.port


@contextmanager
def _program(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    program = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        yield program
    finally:
        program.kill()
        program.wait()


async def _listening(program: subprocess.Popen[bytes], host: str, port: int) -> None:
    end = time.monotonic() + READY
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        except OSError:
            if program.poll() is not None or time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)
