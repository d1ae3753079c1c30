"""SIGSTOP for a whole minute, under load through real nginx: of applications, and of a back end behind the bridge.

Takes more than a minute, so it runs by itself: `script/test -m minute` (with -rP it tells its figures). All that is
stopped is stopped in the same minute, each on a road of its own:

    alone    one application: while it is away requests get 502, 503 or 504, each in bounded time
    pair     two applications, one stopped: the other serves, and what the stopped one had is lost or made again
    bridges  two bridges, each with a php-fpm, one of which is stopped; probes find out

On the carrier userspace: a kernel goes on answering for a process that is stopped, which only probes tell then
(test_health).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.app.servers import php_fpm
from tests.system.applications import content, digest
from tests.system.stack import SLOWNESS, Answer, Stack, wait_until
from tests.system.test_health import states

STOPPED = 60.0
TIMEOUT = 10.0
"""Seconds: dead_after, queue_timeout and the bridge's timeout, all of them; request_timeout is not reached."""
BOUND = 1.25 * TIMEOUT + TIMEOUT + 3 * SLOWNESS
"""Longest that a request may take: dead_after, at its latest, and then the queue."""
WORKERS = 4
"""Requests at once on each road: so many may be inside."""
PAUSE = 0.02
"""Seconds between the requests of a worker: three roads share a small machine."""
REFUSALS = {502, 503, 504}
LIMITS: dict[str, Any] = {"request_timeout": 2 * TIMEOUT, "queue_timeout": TIMEOUT, "slow_start": 1}
SCTP: dict[str, Any] = {"carrier": "userspace", "dead_after": TIMEOUT}

PAGE = """<?php
$seed = $_GET['seed'] . file_get_contents('php://input');
echo getenv('POOL'), ' ', posix_getppid(), ' ', hash('sha256', $seed);
"""


class Done(NamedTuple):
    began: float
    took: float
    status: int
    method: str
    right: bool
    """The answer is the one to this very request."""


Ask = Callable[[Stack, str, str], tuple[Answer, bool]]


def of_python(stack: Stack, method: str, seed: str) -> tuple[Answer, bool]:
    if method == "GET":
        answer = stack.ask(f"/big?size=20000&seed={seed}")
        return answer, digest([answer.body]) == digest(content(20_000, seed))
    body = b"".join(content(5000, seed))
    answer = stack.ask("/upload", "POST", body)
    return answer, answer.status == 200 and answer.json() == {"size": 5000, "sha256": digest([body])}


def of_php(stack: Stack, method: str, seed: str) -> tuple[Answer, bool]:
    body = b"" if method == "GET" else seed[::-1].encode()
    answer = stack.ask(f"/page.php?seed={seed}", method, body or None)
    return answer, answer.body.endswith(hashlib.sha256(seed.encode() + body).hexdigest().encode())


class Road:
    """Load on a stack, and what came of each request."""

    def __init__(self, stack: Stack, ask: Ask) -> None:
        self.stack = stack
        self.done: list[Done] = []
        self._ask = ask
        self._ends = threading.Event()
        self._pool = ThreadPoolExecutor(WORKERS)
        self._workers = [self._pool.submit(self._work, number) for number in range(WORKERS)]

    def _work(self, worker: int) -> None:
        number = 0
        while not self._ends.wait(PAUSE):
            number += 1
            method = "POST" if number % 3 == 0 else "GET"
            began = time.monotonic()
            try:
                answer, right = self._ask(self.stack, method, f"{worker}.{number}")
            except (http.client.IncompleteRead, ConnectionError):
                status, right = 502, False  # cut in the middle, and seen to be
            else:
                status = answer.status
            self.done.append(Done(began, time.monotonic() - began, status, method, right))

    def end(self) -> None:
        """Stop the load; every request must have come to its end."""
        self._ends.set()
        for worker in self._workers:
            worker.result(2 * BOUND)
        self._pool.shutdown()

    def between(self, start: float, end: float) -> list[Done]:
        return [one for one in self.done if start <= one.began < end]


def refused(done: list[Done]) -> list[Done]:
    """Those that were not answered with 200; each was told so clearly and in time, and all others had the right
    answer."""
    bad = [one for one in done if one.status != 200]
    assert {one.status for one in bad} <= REFUSALS, bad
    assert [one for one in done if one.took > BOUND] == []
    assert [one for one in done if one.status == 200 and not one.right] == []
    return bad


def bridges(folder: Path, start: Callable[..., Stack], servers: ExitStack) -> Stack:
    """Two bridges, each to a php-fpm of its own that tells its name."""
    (folder / "page.php").write_text(PAGE)
    sockets = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        sockets.append(servers.enter_context(php_fpm(folder / name, children=4, lines=f"env[POOL] = {name}")))

    class Bridges(Stack):
        def start_app(self, number: int = 0) -> Any:
            self._application["fastcgi"] = {
                "address": f"unix:{sockets[number]}",
                "connections": 4,
                "timeout": TIMEOUT,
            }
            return super().start_app(number)

    return start(
        app={"application": None},
        sctp=SCTP,
        endpoints=2,
        web={
            **LIMITS,
            "health": {
                "uri": "/page.php?seed=probe",
                "interval": 1,
                "timeout": 1,
                "fall": 2,
                "params": {"SCRIPT_FILENAME": f"{folder}/page.php"},
            },
        },
        nginx=f"fastcgi_param SCRIPT_FILENAME {folder}$fastcgi_script_name;",
        kind=Bridges,
    )


@pytest.mark.minute
@pytest.mark.timeout(300)
def test_stopped_for_a_minute(start: Callable[..., Stack], tmp_path: Path) -> None:
    with ExitStack() as servers:
        php = bridges(tmp_path, start, servers)
        alone = start("applications:plain", web=LIMITS, sctp=SCTP)
        pair = start("applications:plain", endpoints=2, web=LIMITS, sctp=SCTP)
        name, master, _ = php.ask("/page.php?seed=x").body.split()
        roads = [Road(alone, of_python), Road(pair, of_python), Road(php, of_php)]
        for road in roads:
            wait_until(lambda road=road: len(road.done) >= 5 * WORKERS, "the load runs")  # type: ignore[misc]
        stopped = time.monotonic()
        os.kill(alone.app.pid, signal.SIGSTOP)
        os.kill(pair.apps[0].pid, signal.SIGSTOP)
        os.killpg(int(master), signal.SIGSTOP)
        try:
            wait_until(lambda: "out" in states(php), "probes find out")
            time.sleep(stopped + STOPPED - time.monotonic())
        finally:
            os.killpg(int(master), signal.SIGCONT)
            os.kill(alone.app.pid, signal.SIGCONT)
            os.kill(pair.apps[0].pid, signal.SIGCONT)
        continued = time.monotonic()
        # by itself: all are back, and are used
        for stack in (alone, pair, php):
            wait_until(lambda stack=stack: set(states(stack)) == {"up"}, "all are up again", 4 * TIMEOUT)  # type: ignore[misc]
        back = time.monotonic()
        wait_until(lambda: {len(road.between(back, back + 1e9)) >= 50 for road in roads} == {True}, "it goes on")
        wait_until(lambda: php.ask("/page.php?seed=x").body.split()[0] == name, "the one that was stopped serves")
        for road in roads:
            road.end()

    for what, road in zip(("alone", "pair", "bridges"), roads, strict=True):
        inside = [one for one in road.done if one.status != 200]
        seen = [f"{one.method} {one.status} at {one.began - stopped:.1f} s for {one.took:.1f} s" for one in inside[:8]]
        slowest = max(one.took for one in road.done)
        print(f"{what}: {len(road.done)} requests, slowest {slowest:.1f} s, refused {len(inside)}: {', '.join(seen)}")
    print(f"stopped for {continued - stopped:.1f} s, all back after {back - continued:.1f} s")
    settled = stopped + BOUND
    for road in roads:
        assert refused(road.between(0, stopped - 1)) == []
        assert refused(road.between(back, back + 1e9)) == [], "service returned"
    on_alone, on_pair, on_php = (refused(road.between(stopped - 1, back)) for road in roads)
    assert on_alone, "there was nobody else"
    # the pair and the bridges lose what was inside, and nothing of what came when that was known
    for road, lost in ((roads[1], on_pair), (roads[2], on_php)):
        assert len(lost) <= WORKERS, lost
        assert [one for one in lost if one.began > settled] == []
        assert len(road.between(settled, continued)) > 200, "the other one served meanwhile"
    assert {one.method for one in on_pair} <= {"POST"}, "what may be made twice was, by the other"
