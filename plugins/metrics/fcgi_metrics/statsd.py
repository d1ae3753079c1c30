"""Samples as statsd lines over UDP: counters as the increase since the last report, gauges as they are.

Without tags, label values become parts of the name, as in the original statsd:
``fcgi_web_requests.shop_example.2xx:5|c``; any character but letters, digits, ``_`` and ``-`` becomes ``_``. A
histogram is sent as two counters, its count and its sum, whose quotient is the mean.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Iterable, Iterator

from .families import FAMILIES, WEB
from .samples import PROCESS, Buckets, Sample

__all__ = ["Statsd"]

DATAGRAM = 1432
"""Bytes of a datagram at most: it fits an Ethernet frame, as statsd's documentation advises."""
MAX_SERIES = 200_000
"""Counters whose last value is remembered."""
_UNSAFE_PART = re.compile(r"[^A-Za-z0-9_-]")
_UNSAFE_TAG = re.compile(r"[^A-Za-z0-9_./:-]")


class Statsd:
    """Sends to one server. Never blocks: a datagram that the socket refuses is counted and lost."""

    def __init__(self, address: tuple[str, int], prefix: str = "", *, tags: bool = False) -> None:
        """OSError if the host cannot be found."""
        family, kind, protocol, _, target = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        self._target = target
        self._prefix = f"{prefix}." if prefix else ""
        self._tags = tags
        self._last: dict[str, float] = {}
        self.errors = 0

    def send(self, samples: Iterable[Sample]) -> None:
        """Send a report of the samples."""
        packet: list[str] = []
        size = 0
        for line in self.lines(samples):
            if size + len(line) + 1 > DATAGRAM and packet:
                self._send(packet)
                packet, size = [], 0
            packet.append(line)
            size += len(line) + 1
        if packet:
            self._send(packet)

    def lines(self, samples: Iterable[Sample]) -> Iterator[str]:
        """Yield the lines to send now, without unchanged counters and without values that statsd cannot write: infinite
        ones and NaN."""
        current: dict[str, float] = {}
        for sample in samples:
            kind = FAMILIES[sample.name].kind
            if isinstance(sample.value, Buckets):
                yield from self._counter(current, sample, "_count", sample.value.counts[-1][1])
                yield from self._counter(current, sample, "_sum", sample.value.total)
            elif kind == "counter":
                yield from self._counter(current, sample, "", sample.value)
            elif math.isfinite(sample.value):
                name, tags = self._name(sample, "")
                yield f"{name}:{_number(sample.value)}|g{tags}"
        self._last = current

    def close(self) -> None:
        self._socket.close()

    def _counter(self, current: dict[str, float], sample: Sample, suffix: str, value: float) -> Iterator[str]:
        if not math.isfinite(value):
            return
        name, tags = self._name(sample, suffix)
        key = name + tags
        if len(current) < MAX_SERIES:
            current[key] = value
        last = self._last.get(key)
        if last is None:
            # this process began at 0; an application may have counted for days before it connected
            last = 0 if sample.name.startswith(WEB) else value
        added = value if value < last else value - last  # less than before: the process was restarted
        if added:
            yield f"{name}:{_number(added)}|c{tags}"

    def _name(self, sample: Sample, suffix: str) -> tuple[str, str]:
        name = self._prefix + sample.name.removesuffix("_total") + suffix
        labels = sample.labels if sample.scope == PROCESS else (("server_name", sample.scope), *sample.labels)
        if self._tags:
            tags = ",".join(f"{key}:{_UNSAFE_TAG.sub('_', value)}" for key, value in labels)
            return name, f"|#{tags}" if tags else ""
        return ".".join([name, *(_UNSAFE_PART.sub("_", value) or "_" for _, value in labels)]), ""

    def _send(self, packet: list[str]) -> None:
        try:
            self._socket.sendto("\n".join(packet).encode("ascii", "replace"), self._target)
        except OSError:
            self.errors += 1


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}"
