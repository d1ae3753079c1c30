"""Whether two sides declare the channels of a plugin alike. If not, nothing is carried on them, and both sides say so.

Looked at are the channels that plugins declare with their options; those that a half opens while it runs come and go,
and each side opens them in its own time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..common.text import escape
from ..protocol.channels import ASIDE, WITHDRAWN, Channel, Direction
from ..protocol.settings import Settings

__all__ = ["Disagreement", "disagreements"]

MOST_UNKNOWN = 16
"""Plugins of a peer's that are not known here, and are reported."""
MOST_SHOWN = 300
"""Characters of what a peer declares that are shown."""


@dataclass(slots=True, eq=False)
class Disagreement:
    """What the two sides declare for a plugin, as SETTINGS do; '' for nothing."""

    here: str
    there: str
    loses: bool
    """Whether what this side sends is not taken."""
    since: float = 0.0
    told: bool = False

    def __str__(self) -> str:
        return f"here {self.here or 'nothing'}, there {self.there or 'nothing'}"


def disagreements(channels: Iterable[Channel], sends: Direction, peer: Settings) -> dict[str, Disagreement]:
    """By plugin: where the peer's declarations are not those of `channels`, which this side's plugins declare; `sends`
    is the direction of those that it sends on itself."""
    there: dict[str, list[str]] = {}
    said: dict[bool, dict[str, str]] = {True: {}, False: {}}
    """What the peer takes, and what it sends, by name."""
    for takes, descriptions in ((True, peer.accepts), (False, peer.channels)):
        for written in descriptions:
            if written.endswith(WITHDRAWN):
                continue
            description = written.removesuffix(ASIDE)
            name = description.partition(";")[0]
            said[takes][name] = description
            there.setdefault(name.partition(".")[0], []).append(description)
    here: dict[str, list[Channel]] = {}
    wrong: dict[str, list[Channel]] = {}
    for channel in channels:
        plugin = channel.name.partition(".")[0]
        here.setdefault(plugin, []).append(channel)
        description = said[channel.direction is sends].get(channel.name, "")
        if not description or not channel.is_described_by(description):
            wrong.setdefault(plugin, []).append(channel)
    found = {
        plugin: Disagreement(
            ", ".join(channel.describe() for channel in declared),
            _shown(there.get(plugin, [])),
            any(channel.direction is sends for channel in declared),
        )
        for plugin, declared in wrong.items()
    }
    unknown = [plugin for plugin in there if plugin not in here]
    for plugin in unknown[:MOST_UNKNOWN]:
        found[escape(plugin[:63])] = Disagreement("", _shown(there[plugin]), False)
    return found


def _shown(descriptions: list[str]) -> str:
    text = ", ".join(dict.fromkeys(descriptions[:10]))
    return escape(text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "…")
