"""The figures of one process as samples. The application's half sends them, the web half shows them."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

from fcgi_core.plugin import (
    BOUNDS,
    OTHER,
    STATUS_CLASSES,
    ApplicationFigures,
    AssociationFigures,
    AssociationInfo,
    Exemplar,
    Histogram,
    HostTraffic,
    OutputFigures,
    ServiceFigures,
    SiteFigures,
    Traffic,
    TransportFigures,
)

from .families import BUILD, WEB

__all__ = [
    "PROCESS",
    "Buckets",
    "Labels",
    "PeerTotals",
    "Sample",
    "Value",
    "add_values",
    "peer_of",
    "process_samples",
    "service_samples",
    "stepping_aside",
    "traffic_samples",
]

PROCESS = "*"
"""The scope of samples that belong to no virtual host."""
_BOUND_NAMES = (*(str(bound) for bound in BOUNDS), "+Inf")
_HISTOGRAMS = {
    "queue_seconds": "queue",
    "application_seconds": "application",
    "first_byte_seconds": "first_byte",
    "request_seconds": "duration",
}

STEP_ASIDE_AFTER = 100
"""Samples between two times that other threads run; about 0.3 ms."""
STATES = ("up", "avoided", "draining", "drained", "out", "down")
"""The states of a process of an application that are always shown; see `ApplicationFigures`."""
UNKNOWN_SITE = "unknown_site"
"""The reason of requests that are for no site."""

Labels = tuple[tuple[str, str], ...]
_Key = tuple[str, Labels]
T = TypeVar("T")


class Buckets(NamedTuple):
    """A histogram's value."""

    counts: tuple[tuple[str, int], ...]
    """Pairs of upper bound and count up to it, rising; the last bound is +Inf."""
    total: float
    """The sum of all observations."""
    exemplars: tuple[tuple[int, Exemplar], ...] = ()
    """Pairs of a bucket's position and its exemplar. A snapshot has none."""


Value = float | Buckets


class Sample(NamedTuple):
    scope: str
    """A virtual host, or `PROCESS`."""
    name: str
    labels: Labels
    value: Value


def stepping_aside(items: Iterable[T], after: int = STEP_ASIDE_AFTER) -> Iterator[T]:
    """Yield the items, and let other threads run each time `after` of them are done. On another thread than the event
    loop's: without that, Python makes the loop wait 5 ms each time."""
    for done, item in enumerate(items, 1):
        yield item
        if done % after == 0:
            time.sleep(0)


def add_values(one: Value, other: Value) -> Value | None:
    """Return the sum of both; None if they do not fit, such as histograms with different buckets."""
    if isinstance(one, Buckets):
        if not isinstance(other, Buckets) or [b for b, _ in one.counts] != [b for b, _ in other.counts]:
            return None
        pairs = zip(one.counts, other.counts, strict=True)
        return Buckets(tuple((bound, ours + theirs) for (bound, ours), (_, theirs) in pairs), one.total + other.total)
    return None if isinstance(other, Buckets) else one + other


def _buckets(histogram: Histogram) -> Buckets:
    return Buckets(
        tuple(zip(_BOUND_NAMES, accumulate(histogram.counts), strict=True)),
        histogram.total,
        tuple(histogram.exemplars.items()),
    )


def traffic_samples(prefix: str, traffic: Traffic, max_hosts: int) -> Iterator[Sample]:
    """Yield the requests by virtual host; hosts after the first `max_hosts` are counted as `other`."""
    hosts: dict[str, HostTraffic] = {}
    in_flight: dict[str, int] = {}
    folded: set[str] = set()
    requests_folded = traffic.folded
    for name, figures in traffic.hosts().items():
        if len(hosts) - (OTHER in hosts) < max_hosts and name != OTHER:
            hosts[name] = figures
            continue
        if OTHER not in hosts:
            hosts[OTHER] = HostTraffic()
        hosts[OTHER].merge(figures)
        folded.add(name)
        requests_folded += figures.requests if name != OTHER else 0
    for name, count in traffic.in_flight().items():
        shown = OTHER if name in folded or name not in hosts else name
        in_flight[shown] = in_flight.get(shown, 0) + count
    for name, figures in hosts.items():
        for label, count in zip(STATUS_CLASSES, figures.statuses, strict=True):
            if count or label not in ("none", "1xx"):
                yield Sample(name, f"{prefix}requests_total", (("status", label),), count)
        yield Sample(name, f"{prefix}requests_aborted_total", (), figures.aborted)
        yield Sample(name, f"{prefix}requests_failed_total", (), figures.failed)
        yield Sample(name, f"{prefix}requests_in_flight", (), in_flight.get(name, 0))
        yield Sample(name, f"{prefix}received_bytes_total", (), figures.bytes_in)
        yield Sample(name, f"{prefix}sent_bytes_total", (), figures.bytes_out)
        for histogram, attribute in _HISTOGRAMS.items():
            yield Sample(name, prefix + histogram, (), _buckets(getattr(figures, attribute)))
    yield Sample(PROCESS, f"{prefix}requests_folded_total", (), requests_folded)


class PeerTotals:
    """The figures of all associations with one peer as one. Counters of an association that has ended stay in the
    peer's, as they were last seen, as long as there is another association with it."""

    def __init__(self, label: str) -> None:
        """`label`: the name of the label that names the peer."""
        self._label = label
        self._seen: dict[int, tuple[str, dict[_Key, float]]] = {}
        """Counters of each association, and its peer."""
        self._past: dict[str, dict[_Key, float]] = {}
        """Counters of associations that have ended, by peer."""

    def samples(self, prefix: str, associations: Iterable[AssociationFigures]) -> Iterator[Sample]:
        """Yield the samples of the associations that are up. Call it on one thread."""
        seen, self._seen = self._seen, {}
        together: dict[str, dict[_Key, float]] = {}
        for figures in stepping_aside(associations, STEP_ASIDE_AFTER // 10):
            peer = peer_of(figures.info)
            counters: dict[_Key, float] = {}
            of_peer = together.setdefault(peer, {})
            for name, labels, value in _association(figures):
                key = name, labels
                if name == "association_round_trip_seconds":
                    of_peer[key] = max(value, of_peer.get(key, 0.0))
                    continue
                of_peer[key] = value + of_peer.get(key, 0)
                if name.endswith("_total"):
                    counters[key] = value
            self._seen[figures.info.identity] = peer, counters
            seen.pop(figures.info.identity, None)
        for peer, counters in seen.values():
            past = self._past.setdefault(peer, {})
            for key, value in counters.items():
                past[key] = value + past.get(key, 0)
        self._past = {peer: past for peer, past in self._past.items() if peer in together}
        for peer, of_peer in together.items():
            past = self._past.get(peer, {})
            for (name, labels), value in of_peer.items():
                total = value + past.get((name, labels), 0)
                yield Sample(PROCESS, prefix + name, ((self._label, peer), *labels), total)


def peer_of(info: AssociationInfo) -> str:
    """Return how a peer is called: on the web side, the application's address in the configuration; on the application
    side, the web side's host."""
    return info.member or info.peer_name or info.peer


def service_samples(prefix: str, service: ServiceFigures) -> Iterator[Sample]:
    """Yield what the web side knows of its applications, and its queues: of each site, if it has several."""
    alone = SiteFigures(
        "", service.obstacle, service.applications, service.waiting, service.waiting_bytes, service.unserved
    )
    for site in service.sites or (alone,):
        of_site = (("site", site.name),) if site.name else ()
        for one in site.applications:
            yield from _application_samples(prefix, one, (("address", one.address), *of_site))
        yield Sample(PROCESS, f"{prefix}requests_waiting", of_site, site.waiting)
        yield Sample(PROCESS, f"{prefix}requests_waiting_bytes", of_site, site.waiting_bytes)
        for reason, count in site.unserved.items():
            yield Sample(PROCESS, f"{prefix}requests_unserved_total", (("reason", reason), *of_site), count)
        if of_site:
            yield Sample(PROCESS, f"{prefix}site_ready", of_site, int(not site.obstacle))
    if service.sites:
        labels = (("reason", UNKNOWN_SITE),)
        yield Sample(PROCESS, f"{prefix}requests_unserved_total", labels, service.unserved.get(UNKNOWN_SITE, 0))
    yield Sample(PROCESS, f"{prefix}ready", (), int(not service.obstacle))


def _application_samples(prefix: str, one: ApplicationFigures, labels: Labels) -> Iterator[Sample]:
    yield Sample(PROCESS, f"{prefix}application_up", labels, int(one.up))
    for state, count in {**dict.fromkeys(STATES, 0), **one.states}.items():
        yield Sample(PROCESS, f"{prefix}application_processes", (*labels, ("state", state)), count)
    yield Sample(PROCESS, f"{prefix}application_requests_total", labels, one.requests)
    yield Sample(PROCESS, f"{prefix}application_requests_in_flight", labels, one.in_flight)
    yield Sample(PROCESS, f"{prefix}application_capacity", labels, one.capacity)
    yield Sample(PROCESS, f"{prefix}application_avoided_total", labels, one.avoided)
    yield Sample(PROCESS, f"{prefix}application_out_total", labels, one.out)
    yield Sample(PROCESS, f"{prefix}application_lost_total", labels, one.lost)


def process_samples(
    prefix: str, transport: TransportFigures, process: Mapping[str, float], service: ServiceFigures, peers: PeerTotals
) -> Iterator[Sample]:
    """Yield the figures of the process and its transport; `peers` is the same object each time."""
    build = (("version", service.version), ("python", platform.python_version()), ("carrier", service.carrier))
    yield Sample(PROCESS, BUILD if prefix == WEB else f"{prefix}build_info", build, 1)
    for name, value in process.items():
        yield Sample(PROCESS, prefix + name, (), value)
    if prefix != WEB:
        yield Sample(PROCESS, f"{prefix}requests_over_limit_total", (), transport.requests_over_limit)
    yield Sample(PROCESS, f"{prefix}associations", (), len(transport.associations))
    yield from peers.samples(prefix, transport.associations)
    for plugin, count in transport.disagreements.items():
        yield Sample(PROCESS, f"{prefix}plugin_disagreements", (("plugin", plugin),), count)
    for channel in transport.channels:
        labels = (("channel", channel.name),)
        yield Sample(PROCESS, f"{prefix}channel_sent_items_total", labels, channel.sent)
        yield Sample(PROCESS, f"{prefix}channel_sent_bytes_total", labels, channel.sent_bytes)
        yield Sample(PROCESS, f"{prefix}channel_received_items_total", labels, channel.received)
        yield Sample(PROCESS, f"{prefix}channel_received_bytes_total", labels, channel.received_bytes)
        yield Sample(PROCESS, f"{prefix}channel_dropped_items_total", labels, channel.dropped)
    yield from _outputs(prefix, transport.outputs)


def _outputs(prefix: str, outputs: Sequence[tuple[str, OutputFigures]]) -> Iterator[Sample]:
    """Yield the figures of plugins' outputs; outputs of one name are added up, and are up if all of them are."""
    together: dict[tuple[str, Labels], float] = {}
    for plugin, output in outputs:
        labels: Labels = (("plugin", plugin), ("output", output.name))
        up = "output_up", labels
        together[up] = min(together.get(up, 1), int(output.state not in ("failing", "stalled")))
        for name, value in (
            ("output_errors_total", output.errors),
            ("output_written_items_total", output.written),
            ("output_waiting_items", output.waiting),
            ("output_waiting_bytes", output.waiting_bytes),
            ("output_lost_items_total", output.lost),
            ("output_lost_bytes_total", output.lost_bytes),
            ("output_cut_items_total", output.cut),
        ):
            together[name, labels] = together.get((name, labels), 0) + value
    for (name, of_output), total in together.items():
        yield Sample(PROCESS, prefix + name, of_output, total)


def _association(figures: AssociationFigures) -> Iterator[tuple[str, Labels, float]]:
    yield "association_requests", (), figures.requests
    yield "association_streams", (), figures.streams
    yield "association_streams_leased", (), figures.streams_leased
    for remedy, count in figures.shortages.items():
        yield "association_stream_shortages_total", (("remedy", remedy),), count
    yield "association_feedback_waiting_bytes", (), figures.feedback_waiting
    yield "association_content_waiting_bytes", (), figures.content_waiting
    statistics = figures.statistics
    for name, value in (
        ("association_queued_bytes", statistics.queued),
        ("association_round_trip_seconds", statistics.round_trip),
        ("association_congestion_window_bytes", statistics.congestion_window),
        ("association_unacknowledged_chunks", statistics.unacknowledged),
        ("association_retransmissions_total", statistics.retransmissions),
        ("association_packets_sent_total", statistics.packets_sent),
        ("association_packets_received_total", statistics.packets_received),
    ):
        if value is not None:
            yield name, (), value
