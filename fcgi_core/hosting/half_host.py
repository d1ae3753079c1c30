"""What the half of a plugin can ask of its host: see `fcgi_core.plugin.Host` and `WebHost` for each method."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from ..plugin import AssociationInfo, FeedEntry, Make, RequestInfo, ServiceFigures, TransportFigures
from ..plugin.traffic import Traffic
from ..protocol.channels import Channel
from .delivery import Delivery, Stream
from .links import Link
from .outgoing import Gathering

__all__ = ["HalfHost"]


class Services(Protocol):
    """What the supervisor does for the halves of all plugins."""

    process_name: str

    def gather(self, plugin: str, channel: str, make: Make) -> Gathering: ...

    def open_channel(self, plugin: str, channel: Channel) -> None: ...

    def close_channel(self, plugin: str, name: str) -> None: ...

    def find_requests(
        self, numbers: Iterable[int], association: AssociationInfo | None = None
    ) -> list[RequestInfo | None]: ...

    def transport(self) -> TransportFigures: ...

    def service(self) -> ServiceFigures: ...

    def follow_traffic(self) -> Traffic: ...

    def publish_all(self, entries: Iterable[FeedEntry]) -> None: ...


class HalfHost:
    """The host that one half sees."""

    def __init__(self, services: Services, delivery: Delivery, plugin: str) -> None:
        self._services = services
        self._delivery = delivery
        self._plugin = plugin
        self.log = logging.getLogger(f"fcgi_sctp.plugin.{plugin}")
        self.name = services.process_name

    def send(self, channel: str, item: bytes, *, request: RequestInfo | None = None, urgency: int = 6) -> None:
        self._delivery.queue(channel, item, request, urgency)

    def broadcast(self, channel: str, item: bytes) -> None:
        self._delivery.broadcast(channel, item)

    def gather(self, channel: str, make: Make) -> Gathering:
        return self._services.gather(self._plugin, channel, make)

    def is_taken(self, channel: str) -> bool:
        links = tuple(self._delivery.links)
        return not links or any(link.connection.takes(channel) for link in links)

    def open_channel(self, channel: Channel) -> None:
        self._services.open_channel(self._plugin, channel)

    def close_channel(self, name: str) -> None:
        self._services.close_channel(self._plugin, name)

    def open_stream(self, channel: str, request: RequestInfo) -> Stream:
        return self._delivery.open_stream(channel, request)

    def associations(self) -> Sequence[AssociationInfo]:
        return tuple(link.info for link in self._delivery.links)

    def association_of(self, request: RequestInfo) -> AssociationInfo | None:
        link: Link | None = getattr(request, "link", None)
        return None if link is None else link.info

    def find_requests(
        self, numbers: Iterable[int], association: AssociationInfo | None = None
    ) -> list[RequestInfo | None]:
        return self._services.find_requests(numbers, association)

    def transport(self) -> TransportFigures:
        return self._services.transport()

    def service(self) -> ServiceFigures:
        return self._services.service()

    def traffic(self) -> Traffic:
        return self._services.follow_traffic()

    def publish(self, entry: FeedEntry) -> None:
        self._services.publish_all((entry,))

    def publish_all(self, entries: Iterable[FeedEntry]) -> None:
        self._services.publish_all(entries)
