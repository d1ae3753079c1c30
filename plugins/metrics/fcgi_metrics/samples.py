"""The figures of one process as samples. The application's half sends them, the web half shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from fcgi_core.plugin import (
    BOUNDS,
    OTHER,
    STATUS_CLASSES,
    AssociationFigures,
    Histogram,
    HostTraffic,
    OutputFigures,
    Traffic,
    TransportFigures,
)

__all__ = ["PROCESS", "Buckets", "Labels", "Sample", "Value", "add_values", "process_samples", "traffic_samples"]

PROCESS = "*"
"""The scope of samples that belong to no virtual host."""
_BOUND_NAMES = (*(str(bound) for bound in BOUNDS), "+Inf")
_HISTOGRAMS = {
    "queue_seconds": "queue",
    "application_seconds": "application",
    "first_byte_seconds": "first_byte",
    "request_seconds": "duration",
}

Labels = tuple[tuple[str, str], ...]


class Buckets(NamedTuple):
    """A histogram's value."""

    counts: tuple[tuple[str, int], ...]
    """Pairs of upper bound and count up to it, rising; the last bound is +Inf."""
    total: float
    """The sum of all observations."""


Value = float | Buckets


class Sample(NamedTuple):
    scope: str
    """A virtual host, or `PROCESS`."""
    name: str
    labels: Labels
    value: Value


def add_values(one: Value, other: Value) -> Value | None:
    """Return the sum of both; None if they do not fit, such as histograms with different buckets."""
    if isinstance(one, Buckets):
        if not isinstance(other, Buckets) or [b for b, _ in one.counts] != [b for b, _ in other.counts]:
            return None
        pairs = zip(one.counts, other.counts, strict=True)
        return Buckets(tuple((bound, ours + theirs) for (bound, ours), (_, theirs) in pairs), one.total + other.total)
    return None if isinstance(other, Buckets) else one + other


def _buckets(histogram: Histogram) -> Buckets:
    return Buckets(tuple(zip(_BOUND_NAMES, accumulate(histogram.counts), strict=True)), histogram.total)


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


def process_samples(
    prefix: str, transport: TransportFigures, process: Mapping[str, float], *, by_name: bool
) -> Iterator[Sample]:
    """Yield the figures of the process and its transport. `by_name`, for an application: peers are labelled by name,
    and those of one name added up, for their addresses differ with each association."""
    for name, value in process.items():
        yield Sample(PROCESS, prefix + name, (), value)
    if by_name:
        yield Sample(PROCESS, f"{prefix}requests_over_limit_total", (), transport.requests_over_limit)
    yield Sample(PROCESS, f"{prefix}associations", (), len(transport.associations))
    together: dict[tuple[str, Labels], float] = {}
    for association in transport.associations:
        info = association.info
        peer = (info.peer_name or info.peer_instance) if by_name else info.peer
        for name, labels, value in _association(association):
            key = name, (("peer", peer), *labels)
            if name == "association_round_trip_seconds":
                together[key] = max(value, together.get(key, 0.0))
            else:
                together[key] = value + together.get(key, 0)
    for (name, labels), value in together.items():
        yield Sample(PROCESS, prefix + name, labels, value)
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
