"""Storm control: no virtual host sends more lines than its rate; how many were suppressed is told."""

from __future__ import annotations

import threading

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
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}
        self.suppressed = 0
        """Lines in all."""

    def allows(self, server_name: str, rate: int, burst: int, now: float) -> bool:
        """Whether a line may go at `now`, seconds of any clock; counted if not."""
        with self._lock:
            bucket = self._buckets.get(server_name)
            if bucket is None:
                if len(self._buckets) >= MOST_HOSTS:
                    server_name = OTHERS
                bucket = self._buckets.setdefault(server_name, _Bucket(burst, now))
            bucket.level = min(burst, bucket.level + max(0.0, now - bucket.filled) * rate)
            bucket.filled = now
            if bucket.level < 1:
                bucket.suppressed += 1
                self.suppressed += 1
                return False
            bucket.level -= 1
            return True

    def take_suppressed(self) -> list[tuple[str, int]]:
        """By host, what was suppressed since the last call."""
        with self._lock:
            told = [(name, bucket.suppressed) for name, bucket in self._buckets.items() if bucket.suppressed]
            for name, _ in told:
                self._buckets[name].suppressed = 0
        return told
