"""What the web sides of all measurements have: the requests that were begun, and when what of them came."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from .ends import memory
from .measurement import Cell

__all__ = ["Asked", "Asking"]


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


class Asking:
    """Begins requests and keeps what came; how, its subclasses know."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.loop = asyncio.get_running_loop()
        self.random = random.Random(cell.seed * 1000 + cell.run)
        self.idle = asyncio.Event()
        self.asked: list[Asked] = []
        self.open = 0
        """Requests that have not ended."""
        self.arrived: dict[int, float] = {}
        """When each alert came, by its number."""
        self.bytes_: list[tuple[float, int]] = []
        """Content: when, and how much."""
        self.down: list[str] = []
        self.lowest = memory()
        self.most_held = 0
        """Bytes that a slow reader has not taken yet, at their most."""

    def is_free(self, number: int) -> bool:
        """Return whether the connection takes a request that is dealt to it by this number."""
        return True

    def begin(self, number: int, kind: str, body: bytes = b"", **params: object) -> Asked | None:
        """Begin a request; None if the application takes no more. `number` deals it to a connection, where there are
        several and the load chooses."""
        raise NotImplementedError

    def alert_request(self) -> None:
        """Have the alerts begin, on whatever this alternative sends them."""
        raise NotImplementedError

    def asks(self, kind: str) -> Asked:
        asked = Asked(kind)
        self.asked.append(asked)
        self.open += 1
        self.idle.clear()
        return asked

    def received(self, asked: Asked, length: int, now: float) -> None:
        asked.first = asked.first or now
        asked.received += length
        self.bytes_.append((now, length))

    def over(self, asked: Asked, now: float) -> None:
        asked.ended = now
        self.open -= 1
        if self.open == 0:
            self.idle.set()

    def result(self) -> dict[str, Any]:
        """What `loads.summary` needs."""
        return {
            "arrived": self.arrived,
            "bytes": self.bytes_,
            "requests": [(a.kind, a.began, a.first, a.ended, a.received) for a in self.asked if a.kind != "alerts"],
            "down": list(self.down),
            "memory": memory() - self.lowest,
            "held": self.most_held,
            "cpu": time.process_time(),
        }


def request_params(params: dict[str, object]) -> dict[str, str]:
    """The PARAMS of a request that wants `params`."""
    pairs = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/bench", "SERVER_NAME": "bench.example"}
    return pairs | {name: str(value) for name, value in params.items()}
