"""Figures of associations and channels, collected when they are asked for: nothing here is done for a request.

Call all of it on the loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ..plugin import AssociationFigures, AssociationInfo, ChannelTotals
from ..protocol.channels import Channel
from ..protocol.connection import Connection
from ..sctp.statistics import AssociationStatistics
from .driver import Driver

__all__ = ["ChannelLedger", "StreamUse", "association_figures", "stream_map", "streams_of"]

StreamUse = dict[int, list[dict[str, str]]]
"""By stream: who uses it, each as {"what": content, stderr or a channel, "request": identity, "server_name": …};
without the last two it is a channel of association scope."""
MAX_STREAMS_SHOWN = 512
"""Streams that `stream_map` returns at most."""


def association_figures(info: AssociationInfo, driver: Driver[Any]) -> AssociationFigures:
    """Returns the state of an association."""
    connection: Connection = driver.connection
    association = driver.association
    pool = connection.pool
    return AssociationFigures(
        info,
        requests=len(connection.requests),
        streams=pool.outgoing,
        streams_leased=len(pool.holders),
        shortages=asdict(pool.shortages),
        feedback_waiting=connection.feedback.budget.used,
        content_waiting=connection.content_waiting,
        statistics=AssociationStatistics() if association is None else association.statistics(),
    )


class ChannelLedger:
    """Keeps the figures of channels on associations that are gone, so that totals never fall."""

    def __init__(self) -> None:
        self._past: dict[str, list[int]] = {}

    def close(self, connection: Connection) -> None:
        """Keep the figures of an association that has ended."""
        for name, figures in connection.feedback.figures.items():
            past = self._past.setdefault(name, [0] * 5)
            for index, value in enumerate(_row(figures)):
                past[index] += value

    def totals(self, channel: Channel, connections: Iterable[Connection], lost: int = 0) -> ChannelTotals:
        """Returns the totals of a channel on past associations and `connections`; `lost` items found no association."""
        row = list(self._past.get(channel.name, (0,) * 5))
        for connection in connections:
            figures = connection.feedback.figures.get(channel.name)
            for index, value in enumerate(() if figures is None else _row(figures)):
                row[index] += value
        sent, sent_bytes, received, received_bytes, dropped = row
        return ChannelTotals(
            channel.name,
            channel.scope.value,
            channel.priority.name.lower(),
            sent,
            sent_bytes,
            received,
            received_bytes,
            dropped + lost,
        )


def _row(figures: Any) -> tuple[int, ...]:
    return (
        figures.sent,
        figures.sent_bytes,
        figures.received,
        figures.received_bytes,
        sum(figures.dropped.values()),
    )


def streams_of(connection: Connection, channel: str) -> int:
    """Returns the number of streams that a channel holds on one association, for all requests together."""
    names = [str(name) for request in connection.requests.values() for name in request.streams.streams]
    held = sum(name.partition("#")[0] == channel for name in names)  # `channel#1` is of the same request
    return held + (channel in connection.pool.association_streams)


def stream_map(connection: Connection) -> StreamUse:
    """Returns who uses which outgoing stream; streams without a user are left out.

    A stream of a request that has ended is ``draining`` until its data has been sent.
    """
    uses: StreamUse = {}
    for channel, stream in connection.pool.association_streams.items():
        what = channel if isinstance(channel, str) else "late feedback"
        uses.setdefault(stream, []).append({"what": what})
    for request in list(connection.requests.values()):
        context = request.context
        about = {"request": f"{request.id}.{request.generation}"}
        if context is not None:
            about = {"request": context.identity, "server_name": context.params.get("SERVER_NAME", "")}
        for label, stream in request.streams.streams.items():
            uses.setdefault(stream, []).append({"what": str(label), **about})
    for stream in connection.pool.holders:
        uses.setdefault(stream, [{"what": "draining"}])
    return dict(sorted(uses.items())[:MAX_STREAMS_SHOWN])
