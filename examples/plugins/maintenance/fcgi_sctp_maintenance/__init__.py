"""A file on the web host switches virtual hosts of the application to maintenance.

Here the web half sends, and the application half keeps what it received for the application to ask::

    from fcgi_sctp_maintenance import under_maintenance

    def application(environ, start_response):
        if under_maintenance(environ["SERVER_NAME"]):
            start_response("503 Service Unavailable", [("Retry-After", "600")])
            return [b"back soon"]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fcgi_core.plugin import (
    ApplicationHalf,
    ApplicationHost,
    AssociationInfo,
    Channel,
    Direction,
    Plugin,
    RequestInfo,
    WebHalf,
    WebHost,
)

__all__ = ["MaintenancePlugin", "plugin", "under_maintenance"]

_hosts: frozenset[str] = frozenset()


def under_maintenance(server_name: str) -> bool:
    """Whether the web side says that this virtual host is under maintenance. Any thread."""
    return server_name in _hosts


class MaintenancePlugin(Plugin):
    """A file on the web host switches virtual hosts of the application to maintenance."""

    name = "maintenance"
    version = "0.1"

    class Options(Plugin.Options):
        file: str = "/etc/fcgi-sctp/maintenance"
        """A file with a SERVER_NAME in each line; the web side reads it once a second."""

    def channels(self, options: Any) -> list[Channel]:
        return [Channel("maintenance", direction=Direction.TO_APPLICATION)]

    def application_half(self, host: ApplicationHost, options: Any) -> ApplicationHalf:
        return Listener()

    def web_half(self, host: WebHost, options: Any) -> WebHalf:
        return Watcher(host, Path(options.file))


class Listener(ApplicationHalf):
    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        global _hosts
        _hosts = frozenset(str(name) for name in json.loads(item))

    def close(self) -> None:
        global _hosts
        _hosts = frozenset()


class Watcher(WebHalf):
    def __init__(self, host: WebHost, file: Path) -> None:
        self.host = host
        self.file = file
        self.sent: list[str] | None = None

    def association_up(self, association: AssociationInfo) -> None:
        self.sent = None  # the new application knows no names yet

    def tick(self) -> None:
        try:
            names = sorted(line.strip() for line in self.file.read_text(encoding="utf-8").splitlines() if line.strip())
        except FileNotFoundError:
            names = []
        if names != self.sent:
            self.sent = names
            self.host.broadcast("maintenance", json.dumps(names).encode())


plugin = MaintenancePlugin
