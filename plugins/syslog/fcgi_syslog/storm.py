"""Storm control: no virtual host sends more lines than its rate; how many were suppressed is reported.

No lock: a destructor of the application, which the interpreter runs wherever it collects garbage, may log while its
thread is in here. No call stands between a read of a bucket's figure and the write that follows from it, so the
interpreter neither switches threads nor collects garbage there.
"""

from __future__ import annotations

__all__ = ["StormControl"]

MOST_HOSTS = 1000
"""Virtual hosts that are counted each for itself; all further ones share one rate."""
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
        self.suppressed = 0
        """Lines in all."""

    def allows(self, server_name: str, rate: int, burst: int, now: float) -> bool:
        """Whether a line may go at `now`, seconds of any clock; counted if not."""
        bucket = self._buckets.get(server_name)
        if bucket is None:
            if len(self._buckets) >= MOST_HOSTS:
                server_name = OTHERS
            bucket = self._buckets.setdefault(server_name, _Bucket(burst, now))
        level = bucket.level
        if now > bucket.filled:
            level += (now - bucket.filled) * rate
        if level > burst:
            level = burst
        bucket.filled = now
        if level < 1:
            bucket.level = level
            bucket.suppressed += 1
            self.suppressed += 1
            return False
        bucket.level = level - 1
        return True

    def take_suppressed(self) -> list[tuple[str, int]]:
        """By host, what was suppressed since the last call."""
        taken = []
        for name in list(self._buckets):  # others may add hosts meanwhile; none goes
            bucket = self._buckets[name]
            count, bucket.suppressed = bucket.suppressed, 0
            if count:
                taken.append((name, count))
        return taken
