"""Which of several applications gets a request: the back end with the fewest under way for its weight.

Idle back ends take turns, each as often as its weight says (smooth weighted round robin, as nginx has it), and so do
back ends with the same load: by load alone, requests that come one at a time would all go to the first, or to the
heaviest. A back end that has just come up again gets its share little by little (slow start), so that a cold cache does
not meet the whole load. A back end that failed several times in a row is avoided for a while as long as there is
another, and a back end that fails its probes gets nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

__all__ = ["BackEnd", "Health", "choose"]

MAX_FAILURES = 3
"""Failed requests in a row after which a back end is avoided; nginx's max_fails is 1, HAProxy's observe limit 10."""
AVOID_FOR = 10.0
"""Seconds that a back end is avoided; nginx's fail_timeout."""
AVOIDED = 1e9
"""Added to the load of a back end that is avoided: more than any load."""
LEAST_SHARE = 0.1
"""Share of its weight that a back end begins with after it came up."""


@dataclass(slots=True)
class Health:
    """How a back end does, by its requests and probes. Times are seconds of one clock."""

    slow_start: float
    """Seconds until a back end that came up has its whole weight."""
    up_since: float | None = None
    failures: int = 0
    avoid_until: float = 0.0
    out: bool = False
    """It failed its probes: it gets no requests."""
    credit: float = 0.0
    """Turns that it is owed: weight that others had in its place, less the weight that it had in theirs."""

    def came_up(self, now: float, *, first: bool) -> None:
        """Forget its failures: it answers again. Its share grows slowly, unless it is up for the `first` time."""
        self.up_since = None if first else now
        self.failures = 0
        self.avoid_until = 0.0
        self.out = False

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self, now: float) -> bool:
        """Count a request that failed by its fault; return True if it is avoided from now on."""
        self.failures += 1
        if self.failures < MAX_FAILURES:
            return False
        self.failures = 0
        self.avoid_until = now + AVOID_FOR
        return True

    def share(self, now: float) -> float:
        """Return the part of its weight that counts now: LEAST_SHARE to 1."""
        if self.up_since is None or self.slow_start <= 0:
            return 1.0
        passed = (now - self.up_since) / self.slow_start
        if passed >= 1:
            self.up_since = None
            return 1.0
        return max(LEAST_SHARE, passed)


class BackEnd(Protocol):
    weight: float
    health: Health

    @property
    def capacity(self) -> int:
        """How many requests it would accept now."""

    @property
    def outstanding(self) -> int:
        """How many requests it handles."""


B = TypeVar("B", bound=BackEnd)


def choose(back_ends: Iterable[B], now: float, avoid: Collection[B] = ()) -> B | None:
    """Return the back end for the next request, None if none accepts one. Back ends in `avoid` are not chosen."""
    best: B | None = None
    least = 0.0
    equal: list[B] = []
    """Back ends with as many requests under way for their weight as the best."""
    idle: list[B] = []
    for back_end in back_ends:
        if back_end.capacity <= 0 or back_end in avoid:
            continue
        health = back_end.health
        load = (back_end.outstanding + 1) / (back_end.weight * health.share(now))
        if health.avoid_until > now:
            load += AVOIDED  # after all others
        elif not back_end.outstanding:
            idle.append(back_end)
        if best is None or load < least:
            best, least, equal = back_end, load, [back_end]
        elif load == least:
            equal.append(back_end)
    if best is None:
        return None
    if not best.outstanding and least < AVOIDED:
        equal = idle
    return best if len(equal) == 1 else _in_turn(equal, now)


def _in_turn(back_ends: Collection[B], now: float) -> B:
    """Return the back end that is owed most: each is owed its weight for this turn, and the chosen one pays for all."""
    total = 0.0
    for back_end in back_ends:
        part = back_end.weight * back_end.health.share(now)
        back_end.health.credit += part
        total += part
    chosen = max(back_ends, key=lambda one: one.health.credit)
    chosen.health.credit -= total
    return chosen
