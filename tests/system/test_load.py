"""What must hold under load: memory does not grow, nothing fails, slow clients stand in nobody's way."""

from __future__ import annotations

import json
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.system.applications import BLOCK
from tests.system.stack import HERE, Stack

Start = Callable[..., Stack]
MEBIBYTE = 1 << 20
KEPT = 700.0
"""Bytes that a request may leave behind on average, as the allocator still settles: less than what stands for one."""
SLOW = 200
SLOW_BYTES = 10 * MEBIBYTE
SLOW_RATE = 64 * 1024
"""Bytes a second that a slow client takes: its download would last almost three minutes."""


def wrk(stack: Stack, path: str, seconds: int) -> int:
    """Requests that were answered; none must have failed."""
    done = subprocess.run(
        ["wrk", "-t1", "-c32", f"-d{seconds}s", "-H", "Host: shop.example", f"http://127.0.0.1:{stack.port}{path}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Non-2xx" not in done.stdout, done.stdout
    assert "Socket errors" not in done.stdout, done.stdout
    found = re.search(r"(\d+) requests in", done.stdout)
    assert found, done.stdout
    return int(found[1])


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (script/setup test)")
@pytest.mark.parametrize("path", ["/hello", "/big?size=30000"])
def test_memory_does_not_grow(start: Start, path: str) -> None:
    """Once all threads, streams and buffers are there, a round of thousands of requests keeps nothing of them."""
    stack = start("applications:plain")
    wrk(stack, path, 3)
    growth = []
    for _ in range(6):
        before = stack.web.resident(), stack.app.resident()
        count = wrk(stack, path, 2)
        growth.append(max(stack.web.resident() - before[0], stack.app.resident() - before[1]) / count)
        if growth[-1] < KEPT:
            return
    pytest.fail(f"bytes kept of each request, round by round: {growth}")


def test_memory_does_not_grow_with_requests_that_are_given_up(start: Start) -> None:
    stack = start("applications:plain")

    def give_up(times: int) -> None:
        for _ in range(times):
            with socket.create_connection(("127.0.0.1", stack.port), 10) as client:
                client.sendall(b"GET /cheap?size=1048576 HTTP/1.1\r\nHost: shop.example\r\n\r\n")
                client.recv(1000)

    def many(times: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(give_up, [times] * 8))
        assert stack.ask("/hello").body == b"hello"

    many(50)
    before = stack.web.resident(), stack.app.resident()
    many(100)
    grown = stack.web.resident() - before[0], stack.app.resident() - before[1]
    assert max(grown) < 8 * MEBIBYTE, f"web {grown[0]} and app {grown[1]} bytes more"


class SlowDownloads:
    """So many clients that take `SLOW_RATE`, in a process of their own. `taken` is what each got, in the end."""

    def __init__(self, port: int, count: int) -> None:
        path = f"/cheap?size={SLOW_BYTES}"
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "slow_clients.py"), str(port), path, str(count), str(SLOW_RATE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.taken: list[int] = []

    def __enter__(self) -> SlowDownloads:
        return self

    def __exit__(self, *exception: object) -> None:
        output, _ = self._process.communicate(timeout=30)
        self.taken = json.loads(output)


def latency(stack: Stack) -> float:
    """The median of small requests, seconds."""
    connection = stack.connect()
    times = []
    for _ in range(150):
        began = time.perf_counter()
        assert stack.ask("/hello", connection=connection).body == b"hello"
        times.append(time.perf_counter() - began)
        time.sleep(0.005)
    connection.close()
    return statistics.median(times)


def test_slow_downloads_do_not_slow_a_small_request(start: Start) -> None:
    """200 of them no more, by far, than one."""
    stack = start("applications:plain")
    latency(stack)
    with SlowDownloads(stack.port, 1) as one:
        time.sleep(1)
        beside_one = latency(stack)
    with SlowDownloads(stack.port, SLOW) as many:
        time.sleep(4)  # all buffers on the way are full: they really are slow
        beside_many = latency(stack)
    assert one.taken[0] > 0
    assert min(many.taken) > 0, f"{many.taken.count(0)} of {SLOW} got nothing"
    assert max(many.taken) < SLOW_BYTES, "they lasted to the end"
    assert beside_many < 5 * beside_one + 0.02, f"{beside_many * 1e3:.1f} ms, beside one {beside_one * 1e3:.1f} ms"


def test_slow_clients_are_served_to_the_end(start: Start) -> None:
    """Windows open again and again, for all at once."""
    stack = start("applications:plain")
    size = 2 * MEBIBYTE
    block = bytes(range(256)) * (BLOCK // 256)

    def download(number: int) -> bool:
        chance = random.Random(number)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            client.settimeout(30)
            client.connect(("127.0.0.1", stack.port))
            client.sendall(b"GET /cheap?size=%d HTTP/1.0\r\nHost: shop.example\r\n\r\n" % size)
            answer = b""
            while piece := client.recv(100_000):
                answer += piece
                if chance.random() < 0.02:
                    time.sleep(0.1)
        return answer.partition(b"\r\n\r\n")[2] == block * (size // BLOCK)

    with ThreadPoolExecutor(40) as pool:
        assert all(pool.map(download, range(40)))
