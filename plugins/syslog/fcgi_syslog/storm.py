"""Storm control: limits the lines of each virtual host to its rate and counts the lines that it suppresses.

There is no lock: the interpreter may collect garbage here, and a destructor of the application may then log on the same
thread. Between reading a bucket's figure and writing it back there is no call, so the interpreter neither switches
threads nor collects garbage in between.
"""

from __future__ import annotations

from .rules import Rules
from .severity import CRIT

__all__ = ["StormControl"]

MOST_HOSTS = 1000
"""Virtual hosts with a bucket each; all further ones share one."""
OTHERS = ""


class _Bucket:
    __slots__ = ("filled", "level", "suppressed")

    def __init__(self, level: float, now: float) -> None:
        self.level = level
        self.filled = now
        self.suppressed = 0


class StormControl:
    """Token buckets by SERVER_NAME. Any thread."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def allows(self, server_name: str, severity: int, rules: Rules, now: float) -> bool:
        """Whether a line may go at `now`, seconds of any clock. A suppressed line is counted; `crit` and more severe
        lines always go."""
        if not rules.rate or severity <= CRIT:
            return True
        burst = rules.burst
        bucket = self._buckets.get(server_name)
        if bucket is None:
            if len(self._buckets) >= MOST_HOSTS:
                server_name = OTHERS
            bucket = self._buckets.setdefault(server_name, _Bucket(burst, now))
        level = bucket.level
        if now > bucket.filled:
            level += (now - bucket.filled) * rules.rate
        if level > burst:
            level = burst
        bucket.filled = now
        if level < 1:
            bucket.level = level
            bucket.suppressed += 1
            return False
        bucket.level = level - 1
        return True

    def take_suppressed(self) -> list[tuple[str, int]]:
        """Return, by host, how many lines were suppressed since the last call."""
        taken = []
        for name in list(self._buckets):  # other threads may add hosts meanwhile
            bucket = self._buckets[name]
            count, bucket.suppressed = bucket.suppressed, 0
            if count:
                taken.append((name, count))
        return taken
