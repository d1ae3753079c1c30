"""What went through this process, by virtual host: counters and latency histograms, cumulative since the start.

Kept once, for whoever wants it: the metrics plugin, the admin socket. A request costs two dictionary look-ups and a few
additions. Names of hosts come from clients where a web server passes them on (nginx's ``$host``), so the table is
bounded: what comes after `MAX_HOSTS` names is counted together, under `OTHER`.

Everything is written on the loop's thread. Reading on another thread gives figures that are each right, though not all
of the same instant.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .views import Outcome, RequestInfo

__all__ = ["BOUNDS", "MAX_HOSTS", "OTHER", "STATUS_CLASSES", "Histogram", "HostTraffic", "Traffic", "clean_host"]

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms' buckets, seconds: Prometheus' own defaults, and 1, 2.5 ms below and 30 s above."""
_BOUNDS = list(BOUNDS)
MAX_HOSTS = 1000
"""Virtual hosts that are counted each for itself; one takes some 2 KiB."""
MAX_NAME = 253
"""Characters of a host name (RFC 1035 section 2.3.4, in text)."""
OTHER = "other"
STATUS_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
"""By the status' first digit; `none`: there was no response."""
_UNSAFE = re.compile(r"[^a-z0-9._:\[\]*-]")


def clean_host(name: str) -> str:
    """A host name in lower case, what no host name has replaced by ``_``; ``-`` for none. Never ``*`` alone."""
    cleaned = _UNSAFE.sub("_", name[:MAX_NAME].lower())
    if cleaned == "*":
        return "_"
    return cleaned or "-"


def _bucket(seconds: float) -> int:
    """The place of a duration's bucket. Compiled, this takes 0.03 to 0.06 us, a call of `bisect` 0.17 to 0.26."""
    place = 0
    for bound in _BOUNDS:
        if seconds <= bound:
            break
        place += 1
    return place


class Histogram:
    """Durations, counted by bucket."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """Of each bucket alone: up to each of BOUNDS, and what is longer."""
        self.total = 0.0
        """Seconds, all together."""

    def add(self, seconds: float) -> None:
        self.counts[_bucket(seconds)] += 1
        self.total += seconds

    def merge(self, other: Histogram) -> None:
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class HostTraffic:
    """The requests of one virtual host that have ended."""

    __slots__ = (
        "aborted",
        "application",
        "bytes_in",
        "bytes_out",
        "duration",
        "failed",
        "first_byte",
        "queue",
        "statuses",
    )

    def __init__(self) -> None:
        self.statuses = [0] * len(STATUS_CLASSES)
        self.aborted = 0
        """The client went away."""
        self.failed = 0
        """Ended by an error of the application or on the way to it."""
        self.bytes_in = 0
        """Bytes of request bodies."""
        self.bytes_out = 0
        """Bytes of responses, heads included."""
        self.queue = Histogram()
        """Until work on it began: a thread of the application took it, or the web side sent it on."""
        self.application = Histogram()
        """From then to the end."""
        self.first_byte = Histogram()
        """From the request's first record to the first byte of the response."""
        self.duration = Histogram()
        """From the request's first record to its end."""

    @property
    def requests(self) -> int:
        return sum(self.statuses)

    def add(self, outcome: Outcome) -> None:
        """A request has ended."""
        status, duration, first_byte, bytes_in, bytes_out, aborted, error, queued = outcome
        kind = status // 100
        self.statuses[kind if 0 <= kind <= 5 else 5] += 1
        if aborted:
            self.aborted += 1
        elif error:
            self.failed += 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self.duration.add(duration)
        if first_byte is not None:
            self.first_byte.add(first_byte)
        if queued is not None:
            self.queue.add(queued)
            self.application.add(duration - queued)

    def merge(self, other: HostTraffic) -> None:
        """Count the other's requests here too."""
        self.statuses = [ours + theirs for ours, theirs in zip(self.statuses, other.statuses, strict=True)]
        self.aborted += other.aborted
        self.failed += other.failed
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        for name in ("queue", "application", "first_byte", "duration"):
            getattr(self, name).merge(getattr(other, name))


class Traffic:
    """All virtual hosts of a process."""

    def __init__(self, max_hosts: int = MAX_HOSTS) -> None:
        self.folded = 0
        """Requests counted under OTHER because the table was full."""
        self._max_hosts = max_hosts
        self._hosts: dict[str, HostTraffic] = {}
        self._by_raw_name: dict[str, tuple[str, HostTraffic]] = {}
        self._running: dict[RequestInfo, tuple[str, HostTraffic]] = {}

    def begin(self, request: RequestInfo) -> None:
        """A request has come; saying so again changes nothing."""
        raw = request.server_name
        self._running[request] = self._by_raw_name.get(raw) or self._find(raw)

    def end(self, request: RequestInfo, outcome: Outcome) -> None:
        """A request is over; one that was not begun is counted too."""
        found = self._running.pop(request, None)
        if found is None:
            raw = request.server_name
            found = self._by_raw_name.get(raw) or self._find(raw)
        found[1].add(outcome)

    def hosts(self) -> dict[str, HostTraffic]:
        """Each virtual host with its figures, in the order in which they came."""
        return dict(self._hosts)

    def in_flight(self) -> dict[str, int]:
        """Requests under way, by virtual host; those that have none are left out."""
        counts: dict[str, int] = {}
        for name, _ in list(self._running.values()):
            counts[name] = counts.get(name, 0) + 1
        return counts

    def _find(self, raw: str) -> tuple[str, HostTraffic]:
        name = clean_host(raw)
        figures = self._hosts.get(name)
        if figures is None:
            if len(self._hosts) >= self._max_hosts:
                self.folded += 1
                return self._fold()
            figures = self._hosts[name] = HostTraffic()
        found = name, figures
        if len(self._by_raw_name) < 2 * self._max_hosts and len(raw) <= MAX_NAME:
            self._by_raw_name[raw] = found
        return found

    def _fold(self) -> tuple[str, HostTraffic]:
        return OTHER, self._hosts.setdefault(OTHER, HostTraffic())
