"""Figures of requests by virtual host: counters and latency histograms, cumulative since the start.

They are kept once, for the metrics plugin and the admin socket. Names of hosts come from clients where a web server
passes them on (nginx's ``$host``), so the table is bounded: further hosts than `MAX_HOSTS` are counted under `OTHER`.

Everything is written on the loop's thread. Another thread reads figures that are each right, though not all of the same
instant.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

from .params import values_of

if TYPE_CHECKING:
    from .views import Outcome, RequestInfo

__all__ = [
    "BOUNDS",
    "MAX_HOSTS",
    "OTHER",
    "SLOW",
    "STATUS_CLASSES",
    "Exemplar",
    "Histogram",
    "HostTraffic",
    "Traffic",
    "clean_host",
]

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms' buckets, seconds: Prometheus' own defaults, and 1, 2.5 ms below and 30 s above."""
_BOUNDS = list(BOUNDS)
MAX_HOSTS = 1000
"""Virtual hosts that are counted separately; each takes some 2 KiB."""
MAX_NAME = 253
"""Characters of a host name (RFC 1035 section 2.3.4, in text)."""
OTHER = "other"
STATUS_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
"""By the first digit of the status; `none` if there was no response."""
SLOW = 0.1
"""Seconds beyond which a request may be an exemplar. Nobody looks for the trace of a quick one, so it costs nothing."""
_TRACE = re.compile("[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-")
"""The beginning of `traceparent` (W3C Trace Context, section 3.2.2); an id of zeros is invalid."""
_UNSAFE = re.compile(r"[^a-z0-9._:\[\]*-]")


def clean_host(name: str) -> str:
    """Returns a host name in lower case, ``_`` for characters that no host name has, ``-`` for no name. Never ``*``."""
    cleaned = _UNSAFE.sub("_", name[:MAX_NAME].lower())
    if cleaned == "*":
        return "_"
    return cleaned or "-"


def _bucket(seconds: float) -> int:
    """Returns the index of a duration's bucket. A loop, because `bisect` takes longer than this does when compiled."""
    place = 0
    for bound in _BOUNDS:
        if seconds <= bound:
            break
        place += 1
    return place


class Exemplar(NamedTuple):
    """A request that stands for a bucket of a histogram.

    trace: its trace-id, 32 hexadecimal digits.
    seconds: its duration.
    time: when it ended, seconds since the epoch.
    """

    trace: str
    seconds: float
    time: float


class Histogram:
    """Durations, counted by bucket.

    counts: durations in each bucket alone: up to each of BOUNDS, and longer ones.
    total: seconds, all together.
    exemplars: by the position of its bucket, the last request that had a trace; of `HostTraffic.duration` alone.
    """

    __slots__ = ("counts", "exemplars", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[_bucket(seconds)] += 1
        self.total += seconds

    def merge(self, other: Histogram) -> None:
        """Add the other's durations to these."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        self.exemplars |= other.exemplars


class HostTraffic:
    """The requests of one virtual host that have ended.

    statuses: requests by STATUS_CLASSES.
    aborted: requests whose client closed its connection before the end.
    failed: requests that ended by an error of the application, or on the way to it.
    bytes_in: bytes of request bodies.
    bytes_out: bytes of responses, heads included.
    queue: time until work on the request began: a thread of the application started it, or the web side sent it.
    application: time from then to the end.
    first_byte: time from the request's first record to the first byte of the response.
    duration: time from the request's first record to its end.
    """

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
        self.failed = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.queue = Histogram()
        self.application = Histogram()
        self.first_byte = Histogram()
        self.duration = Histogram()

    @property
    def requests(self) -> int:
        """The number of requests."""
        return sum(self.statuses)

    def add(self, outcome: Outcome) -> None:
        """Count a request that has ended."""
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
        """Add the other host's requests to these."""
        self.statuses = [ours + theirs for ours, theirs in zip(self.statuses, other.statuses, strict=True)]
        self.aborted += other.aborted
        self.failed += other.failed
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        for name in ("queue", "application", "first_byte", "duration"):
            getattr(self, name).merge(getattr(other, name))


class Traffic:
    """The figures of all virtual hosts of a process.

    folded: requests counted under OTHER because the table was full.
    """

    def __init__(self, max_hosts: int = MAX_HOSTS) -> None:
        self.folded = 0
        self._max_hosts = max_hosts
        self._hosts: dict[str, HostTraffic] = {}
        self._by_raw_name: dict[str, tuple[str, HostTraffic]] = {}
        self._running: dict[RequestInfo, tuple[str, HostTraffic]] = {}

    def begin(self, request: RequestInfo) -> None:
        """Count a request as under way; counting it again changes nothing."""
        raw = request.server_name
        self._running[request] = self._by_raw_name.get(raw) or self._find(raw)

    def end(self, request: RequestInfo, outcome: Outcome) -> None:
        """Count a request that has ended, whether it was begun or not."""
        found = self._running.pop(request, None)
        if found is None:
            raw = request.server_name
            found = self._by_raw_name.get(raw) or self._find(raw)
        found[1].add(outcome)
        if outcome.duration > SLOW:
            self._keep_trace(request, outcome.duration, found[1].duration)

    def _keep_trace(self, request: RequestInfo, seconds: float, histogram: Histogram) -> None:
        """Keep the trace that the request belongs to, if the client or the web server named one."""
        raw = request.raw_params
        if b"HTTP_TRACEPARENT" not in raw:
            return
        try:
            (text,) = values_of(raw, (b"HTTP_TRACEPARENT",))
        except ValueError:
            return  # they are malformed, which is why the request failed
        if match := _TRACE.match(text):
            histogram.exemplars[_bucket(seconds)] = Exemplar(match[1], seconds, time.time())

    def hosts(self) -> dict[str, HostTraffic]:
        """Returns the figures of each virtual host, in the order in which they came."""
        return dict(self._hosts)

    def in_flight(self) -> dict[str, int]:
        """Returns the number of requests under way, by virtual host; hosts without any are left out."""
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
                return OTHER, self._hosts.setdefault(OTHER, HostTraffic())
            figures = self._hosts[name] = HostTraffic()
        found = name, figures
        if len(self._by_raw_name) < 2 * self._max_hosts and len(raw) <= MAX_NAME:
            self._by_raw_name[raw] = found
        return found
