"""What a request costs as more come at once: 1 to 1,000 connections of wrk, hello world, some of the servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench import report
from bench.install import say
from bench.measure import CASES, Turn, TurnFailed, take_turn
from bench.servers import Server

__all__ = ["LEVELS", "SERVERS", "measure"]

LEVELS = (1, 8, 32, 64, 128, 512, 1000)
SERVERS = ("fcgi-sctp", "fcgi-sctp-asgi", "fcgisgi-asgi", "gevent-fastcgi", "uwsgi", "uvicorn")


def measure(servers: Sequence[Server], rounds: int, seconds: int, before: Callable[[], None]) -> list[dict[str, Any]]:
    """A row for each server and level, as in throughput's results."""
    turns: dict[tuple[str, int], list[Turn]] = {}
    failures: dict[tuple[str, int], list[str]] = {}
    for number in range(1, rounds + 1):
        for level in LEVELS:
            for server in servers:
                before()
                try:
                    turn = take_turn(server, CASES["hello"], seconds, level)
                except TurnFailed as error:
                    failures.setdefault((server.name, level), []).append(str(error))
                    say(f"round {number}/{rounds} {level:5} {server.name:21} FAILED: {error}")
                    continue
                turns.setdefault((server.name, level), []).append(turn)
                say(f"round {number}/{rounds} {level:5} {server.name:21} {turn.requests_per_second:9,.0f}/s")
    return [
        {
            "server": server.name,
            "connections": level,
            **report.summary(turns.get((server.name, level), []), failures.get((server.name, level), [])),
        }
        for server in servers
        for level in LEVELS
    ]
