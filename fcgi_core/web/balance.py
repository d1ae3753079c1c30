"""Which of several applications gets a request: the one with the fewest under way for its weight.

Those that have nothing to do take turns, each as often as its weight says (smooth weighted round robin, as nginx has
it), and so do those with the same load: by load alone, requests that come one at a time would all go to the first, or
to the heaviest. A back end that has just come up again gets its share little by little (slow start), so that a cold
cache does not meet the whole load; one that failed several times in a row is avoided for a while as long as there is
another; one that probes have found to be ill gets nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

__all__ = ["BackEnd", "Health", "choose"]

MAX_FAILURES = 3
"""Failed requests in a row after which a back end is avoided; nginx's max_fails is 1, HAProxy's observe limit 10."""
AVOID_FOR = 10.0
"""Seconds that it is avoided; nginx's fail_timeout."""
AVOIDED = 1e9
"""Added to the load of one that is avoided: more than any load."""
LEAST_SHARE = 0.1
"""Share of its weight that a back end begins with after it came up."""


@dataclass(slots=True)
class Health:
    """How a back end fares, as its requests and probes tell."""

    slow_start: float = 10.0
    """Seconds until a back end that came up has its whole weight."""
    up_since: float | None = None
    failures: int = 0
    avoid_until: float = 0.0
    out: bool = False
    """Probes say that it answers nothing: it takes no requests."""
    credit: float = 0.0
    """What it is owed of turns: weight that others had in its place, less what it had in theirs."""

    def came_up(self, now: float, *, first: bool) -> None:
        """It answers again; the first time there is nothing to be careful about."""
        self.up_since = None if first else now
        self.failures = 0
        self.avoid_until = 0.0
        self.out = False

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self, now: float) -> bool:
        """A request failed by its fault; True if it is avoided from now on."""
        self.failures += 1
        if self.failures < MAX_FAILURES:
            return False
        self.failures = 0
        self.avoid_until = now + AVOID_FOR
        return True

    def share(self, now: float) -> float:
        """The part of its weight that counts now: LEAST_SHARE to 1."""
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
        """Requests that it would take now."""

    @property
    def outstanding(self) -> int:
        """Requests that it works on."""


B = TypeVar("B", bound=BackEnd)


def choose(back_ends: Iterable[B], now: float, avoid: Collection[B] = ()) -> B | None:
    """The back end for the next request, None if none takes one. Those in `avoid` are not chosen at all."""
    best: B | None = None
    least = 0.0
    equal: list[B] = []
    """Those with as much under way for their weight as the best."""
    idle: list[B] = []
    for back_end in back_ends:
        if back_end.capacity <= 0 or back_end in avoid:
            continue
        health = back_end.health
        load = (back_end.outstanding + 1) / (back_end.weight * health.share(now))
        if health.avoid_until > now:
            load += AVOIDED  # after all that are not avoided
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
    """The one that is owed most, when each is owed its weight for this turn, and whose turn it is pays for all."""
    total = 0.0
    for back_end in back_ends:
        part = back_end.weight * back_end.health.share(now)
        back_end.health.credit += part
        total += part
    chosen = max(back_ends, key=lambda one: one.health.credit)
    chosen.health.credit -= total
    return chosen
