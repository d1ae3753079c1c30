"""The plugin that carries the alerts between the real services, on channels like those of the syslog plugin's urgent
lines: no alert waits for another, and each takes the association on which it arrives first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from fcgi_core.hosting.discovery import EnabledPlugin, load_plugins
from fcgi_core.plugin import (
    ApplicationHalf,
    ApplicationHost,
    AssociationInfo,
    Half,
    Plugin,
    RequestInfo,
    TransportFigures,
    WebHalf,
    WebHost,
)
from fcgi_core.protocol.channels import Channel, Priority, Scope

from .ends import Held

__all__ = ["AlertPlugin", "CHANNEL", "OF_REQUEST"]

CHANNEL = "bench"
"""Alerts of the process, as of a thread that works for no request."""
OF_REQUEST = "bench.request"
"""Alerts of a request: one that another association carries names the request by its number."""


class AlertPlugin(Plugin):
    """One object for both halves, of which a process of the measurement has one."""

    name = "bench"

    def __init__(self) -> None:
        self.arrived: dict[int, float] = {}
        """When each alert came, by its number."""
        self.counts: list[tuple[float, int]] = []
        """Associations of this side: when their number changed, and to what."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when their number has changed."""
        self.host: ApplicationHost | WebHost
        self._up: set[int] = set()

    def channels(self, options: Any) -> Sequence[Channel]:
        return [
            Channel(CHANNEL, Scope.ASSOCIATION, priority=Priority.URGENT, ordered=False),
            Channel(OF_REQUEST, Scope.REQUEST, priority=Priority.URGENT, ordered=False),
        ]

    def application_half(self, host: ApplicationHost, options: Any) -> ApplicationHalf:
        self.host = host
        return _Application(self)

    def web_half(self, host: WebHost, options: Any) -> WebHalf:
        self.host = host
        return _Web(self)

    def enabled(self) -> list[EnabledPlugin]:
        """Return what a service takes."""
        return load_plugins({self.name: {}}, lambda name: self)

    def changed(self, identity: int, up: bool) -> None:
        if up:
            self._up.add(identity)
        else:
            self._up.discard(identity)
        self.counts.append((time.monotonic(), len(self._up)))
        self.on_change()

    @property
    def associations(self) -> int:
        """How many there are."""
        return len(self._up)

    def send(self, item: bytes, request: RequestInfo | None) -> None:
        self.host.send(CHANNEL if request is None else OF_REQUEST, item, request=request, urgency=1)

    def transport(self) -> TransportFigures:
        return self.host.transport()

    def pool(self, since: float) -> dict[str, Any]:
        """Return how many associations there were at most and at the end, and `grew`: seconds from `since` until there
        were most, 0 if that was before."""
        if not self.counts:
            return {}
        most = max(count for _, count in self.counts)
        when = next(at for at, count in self.counts if count == most)
        return {"most": most, "last": self.counts[-1][1], "grew": max(0.0, round(when - since, 3))}


class _Half(Half):
    def __init__(self, plugin: AlertPlugin) -> None:
        self.plugin = plugin

    def association_up(self, association: AssociationInfo) -> None:
        self.plugin.changed(association.identity, True)

    def association_down(self, association: AssociationInfo, reason: str) -> None:
        self.plugin.changed(association.identity, False)


class _Application(_Half, ApplicationHalf):
    pass


class _Web(_Half, WebHalf):
    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        self.plugin.arrived.setdefault(Held.unpack_from(item)[0], time.monotonic())
