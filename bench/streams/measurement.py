"""One measurement: an alternative on a route, with some load; as it is asked for, and as it is kept."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from .alternatives import Alternative
from .network import Route

__all__ = ["WARM_UP", "Cell", "describe", "quantiles", "rounds_of"]

WARM_UP = "warm_up"
"""The kind of requests that do not count."""


@dataclass
class Cell:
    """What is to be measured. Times are seconds."""

    scenario: str
    alternative: Alternative
    route: Route = field(default_factory=Route)
    run: int = 0
    lane: int = 0
    seconds: float = 10.0
    warm_up: float = 3.0
    interval: float = 0.010
    """Between two alerts."""
    requests: int = 8
    window: int = 262144
    max_requests: int = 1000
    load: dict[str, Any] = field(default_factory=dict)
    """More of the scenario's own."""
    seed: int = 1

    @property
    def limit(self) -> float:
        """When a measurement that does not end is given up."""
        return self.warm_up + self.seconds + 40


def rounds_of(cell: Cell, order: random.Random) -> Iterator[list[str]]:
    """Yield the kinds of the requests of each round until the time is over, at least one. Those that begin while it
    warms up are all of the kind WARM_UP: the same number, all short."""
    load = cell.load
    kinds = ["long"] * load["long"] + ["short"] * load["short"]
    begin = time.monotonic()
    while time.monotonic() - begin < cell.warm_up:
        yield [WARM_UP] * len(kinds)
    begin = time.monotonic()
    while True:
        order.shuffle(kinds)
        yield kinds
        if time.monotonic() - begin >= cell.seconds:
            return


def describe(cell: Cell) -> dict[str, Any]:
    """The cell as JSON has it."""
    alternative = asdict(cell.alternative)
    alternative["scheduler"] = cell.alternative.scheduler.value
    return {
        "scenario": cell.scenario,
        "alternative": alternative,
        "route": asdict(cell.route),
        "run": cell.run,
        "seconds": cell.seconds,
        "seed": cell.seed,
        "load": cell.load,
    }


def quantiles(values: list[float]) -> dict[str, Any]:
    """How many there are, the median, p90, p99 and the largest, and `curve`: the 0th to the 100th percentile."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1

    def at(share: float) -> float:
        return round(ordered[min(last, int(share * len(ordered)))], 5)

    named = {"count": len(ordered), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": round(ordered[-1], 5)}
    return {**named, "curve": [at(number / 100) for number in range(101)]}
