"""The state of plugins and their channels, for metrics and for people: collected when asked for, on the loop's thread.

`figures` has the state of associations and streams.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..plugin import ChannelTotals, Half, OutputFigures, TransportFigures
from ..protocol.channels import Channel
from ..protocol.connection import Connection
from .agreement import Agreement
from .delivery import Delivery
from .discovery import EnabledPlugin
from .figures import ChannelLedger, association_figures, streams_of
from .isolation import Entry, Tally

__all__ = ["PluginFigures"]

MOST_SHOWN = 20
"""Disagreeing associations of one plugin that are shown."""


class PluginFigures:
    """The figures of the plugins of one side; of associations that are gone, too."""

    def __init__(self, kind: type[Half], delivery: Delivery, agreement: Agreement, call: Callable[..., Any]) -> None:
        """`call` runs a hook as `HookCaller` does."""
        self._kind = kind
        self._delivery = delivery
        self._agreement = agreement
        self._call = call
        self._ledger = ChannelLedger()

    def close(self, connection: Connection) -> None:
        """Keep the figures of an association that has ended."""
        self._ledger.close(connection)

    def transport(
        self, entries: Iterable[Entry], channels: Iterable[Channel], requests_over_limit: int
    ) -> TransportFigures:
        """Returns the state of the associations, of `channels`, and of what `entries` write to."""
        return TransportFigures(
            [association_figures(link.info, link.driver) for link in self._delivery.links],
            [self._totals(one) for one in channels],
            [(entry.name, one) for entry in entries for one in self._outputs(entry)],
            disagreements=self._agreement.counts(),
            requests_over_limit=requests_over_limit,
        )

    def statistics(
        self, known: Collection[EnabledPlugin], entries: Iterable[Entry], tallies: Mapping[str, Tally], now: float
    ) -> list[dict[str, Any]]:
        """Returns an entry for each plugin of the configuration, and for each that only the other side has."""
        running = {entry.name: entry for entry in entries}
        versions = {one.plugin.name: one.plugin.version for one in known}
        found = []
        for name, version in versions.items():
            found.append(self._plugin(name, version, running.get(name), tallies.get(name, Tally()), now))
        for name in self._agreement.counts():
            if name not in versions:
                found.append({**self._plugin(name, "", None, Tally(), now), "state": "only there"})
        return found

    def _plugin(self, name: str, version: str, entry: Entry | None, tally: Tally, now: float) -> dict[str, Any]:
        disagreeing = [(one, one.disagreements[name]) for one in self._delivery.links if name in one.disagreements]
        state = "disagrees" if disagreeing else "running"
        return {
            "name": name,
            "version": version,
            "state": "off" if entry is None else "set aside" if entry.aside_until > now else state,
            "errors": tally.errors,
            "hooks": {
                "calls": tally.calls,
                "seconds": round(tally.seconds, 6),
                "slowest": round(tally.slowest, 6),
                "slow": tally.slow,
                "share": 0.0 if entry is None else round(entry.share, 4),
            },
            "disagreements": [
                {"association": link.info.identity, "peer": link.info.peer, "here": one.here, "there": one.there}
                for link, one in disagreeing[:MOST_SHOWN]
            ],
            "aside": [
                {"peer": address, "seconds": round(account.aside_until - now, 1)}
                for address, account in (() if entry is None else entry.peers.items())
                if account.aside_until > now
            ],
            "channels": [self._channel(channel) for channel in (() if entry is None else entry.channels)],
            "outputs": [asdict(output) for output in (() if entry is None else self._outputs(entry))],
        }

    def _channel(self, channel: Channel) -> dict[str, Any]:
        return {
            **asdict(self._totals(channel)),
            "streams": sum(streams_of(link.connection, channel.name) for link in self._delivery.links),
            "waiting": self._delivery.waiting(channel.name),
        }

    def _totals(self, channel: Channel) -> ChannelTotals:
        lost = self._delivery.lost.get(channel.name, 0)
        return self._ledger.totals(channel, [link.connection for link in self._delivery.links], lost)

    def _outputs(self, entry: Entry) -> Sequence[OutputFigures]:
        """Returns the state of the places that a half writes to."""
        if type(entry.half).output_figures is self._kind.output_figures:
            return ()
        outputs: Sequence[OutputFigures] = self._call(entry, entry.half.output_figures, failed=())
        return outputs
