"""The scenarios: which alternatives are measured under which load, on which routes, and how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import alternatives as known
from .alternatives import Alternative
from .measurement import Cell
from .network import Route

__all__ = ["SCENARIOS"]

GUEST_LOSSES = (0.0, 2.0)
"""What the guest measures of the losses, unless there is time for all: it is slow."""


def _alerts(full: bool, runs: int) -> list[Cell]:
    """Delay of an alert beside bulk: 8 answers without end, 100 bytes every 10 ms."""
    return _each("alerts", known.ALERTS, full, runs or 3, losses=(0.0, 1.0, 2.0, 5.0))


def _queues(full: bool, runs: int) -> list[Cell]:
    """The same, by how much SCTP may hold."""
    return _each("queues", known.QUEUES, full, runs or 2, losses=(0.0, 1.0, 2.0))


def _requests(full: bool, runs: int) -> list[Cell]:
    """30 requests at once, 20 of 10 KiB and 10 of 100 KiB."""
    load = {"short": 20, "long": 10, "short_bytes": 10 << 10, "long_bytes": 100 << 10}
    losses = (0.0, 1.0, 2.0, 5.0) if full else (0.0, 2.0)
    return _each("requests", known.REQUESTS, full, runs or 2, losses=losses, seconds=8.0, load=load)


def _slow_reader(full: bool, runs: int) -> list[Cell]:
    """29 answers of 32 KiB again and again beside one of 4 MiB whose reader takes 20 kB/s; with windows or without."""
    load = {"slow_rate": 20_000, "slow_bytes": 4 << 20, "fast": 29, "fast_bytes": 32 << 10}
    cells = []
    for name, window in (("credit", 262144), ("no credit", 1 << 40)):
        for cell in _each("slow-reader", known.SLOW_READER, full, runs or 2, losses=(0.0,), seconds=10.0, load=load):
            cell.window = window
            cell.load = {**load, "window": name}
            cells.append(cell)
    return cells


def _flood(full: bool, runs: int) -> list[Cell]:
    """500 requests a second with 500 bytes each, of which 50 can be served, with 4 KiB each."""
    load = {"rate": 500, "service": 20, "bytes": 4096, "body": 500}
    cells = _each("flood", known.FLOOD, full, runs or 2, losses=(0.0, 2.0), seconds=8.0, load=load)
    for cell in cells:
        cell.max_requests = 100
    return cells


def _each(
    scenario: str,
    alternatives: list[Alternative],
    full: bool,
    runs: int,
    *,
    losses: tuple[float, ...],
    seconds: float = 5.0,
    load: dict[str, Any] | None = None,
) -> list[Cell]:
    """Every alternative at every loss: `runs` times, `full` five times of twice the length. The guest has time for one
    run, and for two of the losses; it measures some TCP as well, to hold its figures beside those from here."""
    found = []
    for run in range(5 if full else runs):
        for loss in losses:
            for alternative in (*alternatives, *(replace(one, guest=True) for one in known.REFERENCES[scenario])):
                if not alternative.in_guest or full or (run == 0 and loss in GUEST_LOSSES):
                    length = 2 * seconds if full else seconds
                    found.append(
                        Cell(
                            scenario,
                            alternative,
                            Route(loss=loss),
                            run=run,
                            seconds=length,
                            warm_up=3.0 if full else 2.0,
                            load=load or {},
                        )
                    )
    return found


SCENARIOS: dict[str, Callable[[bool, int], list[Cell]]] = {
    "alerts": _alerts,
    "queues": _queues,
    "requests": _requests,
    "slow-reader": _slow_reader,
    "flood": _flood,
}
