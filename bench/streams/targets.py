"""What SCTP is held against: ratios to TCP of the same run and place, by the pooled requests or alerts of all runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .alternatives import EACH, SIX, SIX_IN_TURN, THIRTY

__all__ = ["TARGETS", "Target", "each", "pooled", "ratios"]

Runs = Sequence[dict[str, Any]]
Groups = dict[tuple[float, str], list[dict[str, Any]]]


@dataclass(frozen=True)
class Target:
    """A figure, what it is divided by, and the bound that is to be held."""

    name: str
    path: str
    rival: str
    """The alternative whose figure it is divided by; '': the figure itself."""
    bound: float
    at_least: bool = False

    def is_missed(self, value: float) -> bool:
        return value < self.bound if self.at_least else value > self.bound

    @property
    def wanted(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


_REQUESTS = (
    Target("short p50 ÷ TCP-6", "short/whole/p50", SIX.name, 1.0),
    Target("short p50 ÷ TCP-6, long ones not behind", "short/whole/p50", SIX_IN_TURN.name, 1.0),
    Target("long p50 ÷ TCP-30", "long/whole/p50", THIRTY.name, 1.0),
    Target("short p99 ÷ TCP-6", "short/whole/p99", SIX.name, 1.3),
    Target("long p99 ÷ TCP-30", "long/whole/p99", THIRTY.name, 1.3),
)
TARGETS: dict[str, tuple[Target, ...]] = {
    "requests": _REQUESTS,
    "cold": _REQUESTS,
    "alerts": (
        Target("alerts p50 ÷ syslog on TCP", "alerts/p50", EACH.name, 1.0),
        Target("alerts p99 ÷ syslog on TCP", "alerts/p99", EACH.name, 1.0),
        Target("content ÷ TCP-8", "goodput", EACH.name, 0.95, at_least=True),
    ),
    "flood": (
        Target("alerts within 100 ms", "alerts/within_100_ms", "", 0.95, at_least=True),
        Target("alerts lost", "alerts/lost", "", 0.0),
    ),
}


def each(runs: Runs, path: str) -> list[float]:
    """Return what stands at the path in each run that has it."""
    values = []
    for run in runs:
        value: Any = run
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            values.append(float(value))
    return values


def pooled(runs: Runs, path: str) -> float | None:
    """Return the figure of all runs together: a percentile of all their requests (by the curves that the runs keep),
    or the mean of a figure that has no percentiles; None if no run has the figure."""
    where, _, name = path.rpartition("/")
    share = {"p50": 0.5, "p90": 0.9, "p99": 0.99}.get(name)
    if share is None:
        values = each(runs, path)
        return sum(values) / len(values) if values else None
    weighted = []
    for run in runs:
        found: Any = run
        for part in where.split("/"):
            found = found.get(part, {})
        curve = found.get("curve", ())
        weighted += [(value, found.get("count", 1) / len(curve)) for value in curve]
    weighted.sort()
    left = share * sum(weight for _, weight in weighted)
    for value, weight in weighted:
        left -= weight
        if left < 0:
            return float(value)
    return None


def ratios(scenario: str, groups: Groups, loss: float, name: str) -> list[float | None]:
    """Return the value of each target for an alternative at a loss; None where something was not measured. What ran in
    the guest is divided by what ran in the guest."""
    runs = groups.get((loss, name), [])
    found: list[float | None] = []
    for target in TARGETS[scenario]:
        value = pooled(runs, target.path)
        if target.rival:
            rival = f"(guest) {target.rival}" if name.startswith("kernel") else target.rival
            against = pooled(groups.get((loss, rival), []), target.path)
            value = value / against if value is not None and against else None
        found.append(value)
    return found
