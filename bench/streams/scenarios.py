"""The scenarios: which alternatives are measured under which load, on which routes, and how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from . import alternatives as known
from .alternatives import Alternative
from .measurement import Cell
from .network import Route

__all__ = ["Extent", "SCENARIOS", "UnknownAlternative", "cells"]

GUEST_LOSSES = (0.0, 2.0)
"""What the guest measures of the losses, unless there is time for all: it is slow."""


class UnknownAlternative(ValueError):
    """An alternative was named that the scenario does not have."""


@dataclass(frozen=True)
class Extent:
    """How much of a scenario is measured."""

    full: bool = False
    """Five runs of twice the length, and everything in the guest too."""
    runs: int = 0
    """0: as many as the scenario has by itself."""
    guest_runs: int = 1
    losses: tuple[float, ...] = ()
    """Per cent; empty: those of the scenario."""
    names: tuple[str, ...] = ()
    """Patterns of alternatives' names; empty: those that are measured by themselves."""


@dataclass(frozen=True)
class Scenario:
    """One load, and what is compared under it."""

    what: str
    alternatives: Sequence[Alternative]
    runs: int = 3
    losses: tuple[float, ...] = (0.0, 2.0)
    seconds: float = 5.0
    warm_up: float = 2.0
    """Seconds before, which do not count."""
    named: Sequence[Alternative] = ()
    """Alternatives that are measured only when they are named."""
    max_requests: int = 1000
    loads: tuple[tuple[dict[str, Any], int], ...] = (({}, 262144),)
    """Each load with the window for each request, bytes."""


ALL_LOSSES = (0.0, 1.0, 2.0, 5.0)
ROUND = {"short": 20, "long": 10, "short_bytes": 10 << 10, "long_bytes": 100 << 10, "warm_up_bytes": 10 << 10}
SLOW = {"slow_rate": 20_000, "slow_bytes": 4 << 20, "fast": 29, "fast_bytes": 32 << 10}
SCENARIOS: dict[str, Scenario] = {
    "alerts": Scenario(
        "Delay of an alert beside bulk: 8 answers without end, one begun each half second, 100 bytes every 10 ms.",
        known.ALERTS,
        losses=ALL_LOSSES,
        warm_up=5.0,
        loads=(({"every": 0.5}, 262144),),
        named=known.OF_REQUESTS,
    ),
    "plans": Scenario(
        "The same with answers begun at once, of one association, by the plan for its streams, the scheduler, I-DATA.",
        known.PLANS,
        runs=2,
    ),
    "queues": Scenario("The same as plans, by how much SCTP may hold.", known.QUEUES, runs=2, losses=(0.0, 1.0, 2.0)),
    "requests": Scenario(
        "30 requests at once, 20 of 10 KiB and 10 of 100 KiB, and again when they are over.",
        known.REQUESTS,
        losses=(0.0, 2.0, 5.0),
        seconds=8.0,
        loads=((ROUND, 262144),),
    ),
    "cold": Scenario(
        "The same from the first request on, while a pool has not grown: what a burst after a rest meets.",
        known.COLD,
        runs=2,
        seconds=0.0,
        warm_up=0.0,
        loads=((ROUND, 262144),),
    ),
    "slow-reader": Scenario(
        "29 answers of 32 KiB again and again beside one of 4 MiB whose reader takes 20 kB/s; with windows or without.",
        known.SLOW_READER,
        runs=2,
        losses=(0.0,),
        seconds=10.0,
        loads=(({**SLOW, "window": "credit"}, 262144), ({**SLOW, "window": "no credit"}, 1 << 40)),
    ),
    "flood": Scenario(
        "500 requests a second with 500 bytes each, of which 50 can be served, with 4 KiB each. One waits in the "
        "services' own queue (`queue`); the rest are refused at once, as by the other alternatives.",
        known.FLOOD,
        seconds=8.0,
        max_requests=100,
        loads=(({"rate": 500, "service": 20, "bytes": 4096, "body": 500, "queue": 1}, 262144),),
        named=known.OF_REQUESTS,
    ),
}


def cells(name: str, extent: Extent) -> list[Cell]:
    """Every alternative at every loss. The guest measures one run unless there is time for more, two of the losses, and
    some TCP as well, to hold its figures beside those from here."""
    scenario = SCENARIOS[name]
    references = [replace(one, guest=True) for one in known.REFERENCES[name]]
    alternatives = _chosen([*scenario.alternatives, *references], scenario.named, extent.names)
    seconds = 2 * scenario.seconds if extent.full else scenario.seconds
    guest_losses = extent.losses or (scenario.losses if extent.full else GUEST_LOSSES)
    runs = 5 if extent.full else extent.runs or scenario.runs
    guest_runs = 5 if extent.full else extent.guest_runs
    return [
        Cell(
            name,
            alternative,
            Route(loss=loss),
            run=run,
            seconds=seconds,
            warm_up=scenario.warm_up,
            window=window,
            max_requests=scenario.max_requests,
            load=load,
        )
        for run in range(max(runs, guest_runs))
        for loss in extent.losses or scenario.losses
        for alternative in alternatives
        for load, window in scenario.loads
        if (run < guest_runs and loss in guest_losses if alternative.in_guest else run < runs)
    ]


def _chosen(
    alternatives: Sequence[Alternative], named: Sequence[Alternative], names: Sequence[str]
) -> Sequence[Alternative]:
    """Return the alternatives whose names match one of the patterns; UnknownAlternative if one matches none."""
    if not names:
        return alternatives
    everything = [*alternatives, *named]
    for pattern in names:
        if not any(fnmatchcase(one.name, pattern) for one in everything):
            known_names = "; ".join(dict.fromkeys(one.name for one in everything))
            raise UnknownAlternative(f"no alternative {pattern!r}: choose from {known_names}")
    return [one for one in everything if any(fnmatchcase(one.name, pattern) for pattern in names)]
