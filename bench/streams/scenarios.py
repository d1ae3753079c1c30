"""The scenarios: which alternatives are measured under which load, on which routes, and how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import alternatives as known
from .alternatives import Alternative
from .measurement import Cell
from .network import Route

__all__ = ["SCENARIOS"]


def _alerts(full: bool) -> list[Cell]:
    """Delay of an alert beside bulk: 8 answers without end, 100 bytes every 10 ms."""
    return _each("alerts", known.ALERTS, losses=(0.0, 1.0, 2.0, 5.0), runs=5 if full else 1, seconds=20 if full else 8)


def _queues(full: bool) -> list[Cell]:
    """The same, by how much SCTP may hold."""
    return _each("queues", known.QUEUES, losses=(0.0, 2.0), runs=5 if full else 1, seconds=20 if full else 8)


def _requests(full: bool) -> list[Cell]:
    """30 requests at once, 20 of 10 KiB and 10 of 100 KiB."""
    load = {"short": 20, "long": 10, "short_bytes": 10 << 10, "long_bytes": 100 << 10}
    return _each(
        "requests",
        known.REQUESTS,
        losses=(0.0, 1.0, 2.0, 5.0) if full else (0.0, 2.0),
        runs=3 if full else 1,
        seconds=30 if full else 8,
        load=load,
    )


def _slow_reader(full: bool) -> list[Cell]:
    """29 answers of 32 KiB again and again beside one of 4 MiB whose reader takes 20 kB/s; with windows or without."""
    load = {"slow_rate": 20_000, "slow_bytes": 4 << 20, "fast": 29, "fast_bytes": 32 << 10}
    cells = []
    for name, window in (("credit", 262144), ("no credit", 1 << 40)):
        for cell in _each(
            "slow-reader",
            known.SLOW_READER,
            losses=(0.0,),
            runs=3 if full else 1,
            seconds=20 if full else 10,
            load=load,
        ):
            cell.window = window
            cell.load = {**load, "window": name}
            cells.append(cell)
    return cells


def _flood(full: bool) -> list[Cell]:
    """500 requests a second with 500 bytes each, of which 50 can be served, with 4 KiB each."""
    load = {"rate": 500, "service": 20, "bytes": 4096, "body": 500}
    cells = _each("flood", known.FLOOD, losses=(0.0, 1.0), runs=3 if full else 1, seconds=20 if full else 8, load=load)
    for cell in cells:
        cell.max_requests = 100
    return cells


def _each(
    scenario: str,
    alternatives: list[Alternative],
    *,
    losses: tuple[float, ...],
    runs: int,
    seconds: float,
    load: dict[str, Any] | None = None,
) -> list[Cell]:
    return [
        Cell(scenario, alternative, Route(loss=loss), run=run, seconds=seconds, load=load or {})
        for run in range(runs)
        for loss in losses
        for alternative in alternatives
        # the guest is slow: one scenario and one loss there, unless there is time
        if alternative.carrier != "kernel" or runs > 1 or (scenario == "alerts" and loss == 2.0)
    ]


SCENARIOS: dict[str, Callable[[bool], list[Cell]]] = {
    "alerts": _alerts,
    "queues": _queues,
    "requests": _requests,
    "slow-reader": _slow_reader,
    "flood": _flood,
}
