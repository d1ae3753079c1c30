"""Whether both sides declare the channels of a plugin alike. If not, nothing is sent on them, and both sides report it.

Only the channels that plugins declare with their options are compared. Channels that a half opens while it runs come
and go, and each side opens them when it likes.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from ..common.loop import Loop
from ..common.text import escape
from ..plugin import RequestInfo
from ..protocol.channels import ASIDE, WITHDRAWN, Channel, Direction
from ..protocol.settings import Settings
from .links import Disagreement, Link

__all__ = ["Agreement", "disagreements"]

log = logging.getLogger("fcgi_sctp.plugins")

TELL_DISAGREEMENT_AFTER = 10.0
"""Seconds that the sides may disagree, when plugins or their options change, before it is reported."""
SAME_DISAGREEMENT_EVERY = 600.0
"""Seconds between two lines in the log about the same disagreement, on any association."""
MOST_REMEMBERED = 100
"""Disagreements that are remembered for that."""
MOST_UNKNOWN = 16
"""Plugins of a peer that are unknown here and are reported."""
MOST_SHOWN = 300
"""Characters of what a peer declares that are shown."""


class Agreement:
    """Compares the declarations on each association, and reports where the two sides disagree for long."""

    def __init__(self, sends: Direction, loop: Loop, links: Sequence[Link]) -> None:
        """`sends` is the direction of the channels that this side sends on, `links` the associations that are up."""
        self.broken = False
        """Whether the sides of any association disagree."""
        self._sends = sends
        self._loop = loop
        self._links = links
        self._reported: dict[tuple[str, str], float] = {}
        """When each plugin's disagreement was last reported, on any association."""

    def compare(self, link: Link, declared: Iterable[Channel]) -> None:
        """Find what has changed: the plugins of this side declare the channels `declared`."""
        settings = link.connection.peer_settings
        if settings is None:
            return
        before, link.disagreements = link.disagreements, disagreements(declared, self._sends, settings)
        now = self._loop.time()
        for plugin, disagreement in link.disagreements.items():
            old = before.get(plugin)
            disagreement.since = now
            if old is not None and str(old) == str(disagreement):
                disagreement.since, disagreement.reported = old.since, old.reported
        self.broken = any(one.disagreements for one in (link, *self._links))

    def report(self, link: Link, before: float = math.inf) -> None:
        """Report the disagreements that began before a time and were not reported yet."""
        now = self._loop.time()
        for plugin, disagreement in link.disagreements.items():
            if disagreement.reported or disagreement.since >= before:
                continue
            disagreement.reported = True
            # workers of one application, and associations that come again, say the same
            same = (plugin, str(disagreement))
            if now < self._reported.get(same, -math.inf) + SAME_DISAGREEMENT_EVERY:
                continue
            if len(self._reported) >= MOST_REMEMBERED:
                self._reported.clear()
            self._reported[same] = now
            log.warning(
                "plugin %s: this side and %s at %s declare different channels, and nothing is sent on those: %s; enable"
                " it on both sides, with the same options",
                plugin,
                escape(link.info.peer_name) or "the other side",
                escape(link.info.peer),
                disagreement,
            )

    def report_lasting(self) -> None:
        """Report disagreements that last: when plugins are switched on or off the sides follow each other soon."""
        if self.broken:
            for link in self._links:
                self.report(link, self._loop.time() - TELL_DISAGREEMENT_AFTER)

    def is_unheard(self, plugin: str, request: RequestInfo | None) -> bool:
        """Whether the other side does not accept what a plugin sends of a request, or of none. Any thread."""
        link: Link | None = getattr(request, "link", None)
        links = tuple(self._links) if link is None else (link,)
        found = [one.disagreements.get(plugin) for one in links]
        return bool(found) and all(one is not None and one.loses for one in found)

    def counts(self) -> Counter[str]:
        """The number of processes of the other side that disagree, by plugin."""
        return Counter(
            plugin for plugin, _ in {(plugin, one.info.process) for one in self._links for plugin in one.disagreements}
        )


def disagreements(channels: Iterable[Channel], sends: Direction, peer: Settings) -> dict[str, Disagreement]:
    """The disagreements by plugin: where the peer's declarations differ from `channels`, which this side's plugins
    declare. `sends` is the direction of the channels that this side sends on."""
    there: dict[str, list[str]] = {}
    said: dict[bool, dict[str, str]] = {True: {}, False: {}}
    """What the peer receives (True), and what it sends, by name."""
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
