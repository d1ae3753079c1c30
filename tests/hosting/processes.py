"""An application and web sides, with any number of associations between two of them, on the memory network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fcgi_core.hosting.discovery import load_plugins
from fcgi_core.hosting.driver import Driver
from fcgi_core.hosting.links import Link
from fcgi_core.hosting.supervisor import Supervisor
from fcgi_core.plugin import ApplicationHalf, AssociationInfo, Host, Plugin, RequestInfo, WebHalf
from fcgi_core.protocol.application import ApplicationConnection
from fcgi_core.protocol.channels import Channel, Priority, Scope
from fcgi_core.protocol.connection import Connection
from fcgi_core.protocol.events import (
    Event,
    FeedbackReceived,
    ItemsAcknowledged,
    PeerChanged,
    PeerReady,
    RequestReceived,
)
from fcgi_core.protocol.records import encode_pairs
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.web import WebConnection
from fcgi_core.sctp.carrier import Address
from fcgi_core.sctp.memory import MemoryAssociation, MemoryNetwork, VirtualLoop
from fcgi_core.testing_request import HarnessRequest

__all__ = ["Hears", "Lines", "Process", "Processes", "Sends"]

CHANNELS = (
    Channel("lines"),
    Channel("lines.sure", acknowledged=True),
    Channel("lines.urgent", priority=Priority.URGENT, ordered=False),
    Channel("lines.alert", Scope.REQUEST, priority=Priority.URGENT, ordered=False),
)


class Hears(WebHalf):
    """Keeps each item with its channel, its request and the number of the association that brought it."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes, RequestInfo | None, int]] = []

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        self.heard.append((channel, item, request, association.identity))

    def items(self, channel: str) -> list[bytes]:
        return [item for name, item, _, _ in self.heard if name == channel]


class Sends(ApplicationHalf):
    def __init__(self, host: Host) -> None:
        self.host = host


class Lines(Plugin):
    name = "lines"

    def channels(self, options: Any) -> Sequence[Channel]:
        return CHANNELS

    def web_half(self, host: Host, options: Any) -> WebHalf:
        return Hears()

    def application_half(self, host: Host, options: Any) -> ApplicationHalf:
        return Sends(host)


class Process:
    """One side: a supervisor and the associations of its connections, by number."""

    def __init__(self, processes: Processes, instance: str, *, web: bool) -> None:
        self._processes = processes
        self._web = web
        self.instance = instance
        loop = processes.loop
        plugins = load_plugins({"lines": {}}, {"lines": Lines()}.__getitem__)
        self.supervisor = Supervisor(plugins, loop, loop.call_soon, web=web)
        self.links: dict[int, Link] = {}
        self.requests: list[HarnessRequest] = []

    @property
    def half(self) -> Any:
        (half,) = self.supervisor.halves
        return half

    def driver(self, serial: int) -> Driver[Any]:
        make: type[Connection] = WebConnection if self._web else ApplicationConnection
        connection = make(Settings(instance=self.instance, association=serial), channels=self.supervisor.channels)

        def on_events(events: Sequence[Event]) -> None:
            for event in events:
                self._on_event(driver, serial, event)

        def on_down(reason: str) -> None:
            if (link := self.links.pop(serial, None)) is not None:
                self.supervisor.association_down(link, reason)

        driver: Driver[Any] = Driver(connection, self._processes.loop, on_events=on_events, on_down=on_down)
        return driver

    def _on_event(self, driver: Driver[Any], serial: int, event: Event) -> None:
        if isinstance(event, PeerReady):
            self.links[serial] = self.supervisor.association_up(driver, serial, f"peer {serial}")
        elif isinstance(event, PeerChanged):
            self.supervisor.peer_changed(self.links[serial])
        elif isinstance(event, FeedbackReceived):
            context = None if event.request is None else event.request.context
            self.supervisor.feedback(event.channel, event.data, context, self.links[serial], event.number)
        elif isinstance(event, ItemsAcknowledged):
            self.supervisor.delivery.acknowledged(self.links[serial], event)
        elif isinstance(event, RequestReceived):
            event.request.context = HarnessRequest(lambda: self._processes.now, self.links[serial], event.request)
            self.requests.append(event.request.context)

    def begin(self, serial: int) -> HarnessRequest:
        """Web side: begin a request on an association."""
        link = self.links[serial]
        request = link.driver.connection.begin_request(encode_pairs({"SERVER_NAME": "a.test"}), body=b"")
        request.context = HarnessRequest(lambda: self._processes.now, link, request)
        link.driver.wake()
        return request.context  # type: ignore[no-any-return]

    def association(self, serial: int) -> MemoryAssociation:
        association = self.links[serial].driver.association
        assert isinstance(association, MemoryAssociation)
        return association


class Processes:
    """An application and a web side; `connect` sets up one more association between them."""

    def __init__(self, associations: int = 0, **network: Any) -> None:
        self.network = MemoryNetwork(**{"seed": 3, "delay": 0.05, **network})
        self.loop = VirtualLoop(self.network)
        self.app = Process(self, "app", web=False)
        self.web = Process(self, "web", web=True)
        self._carrier = self.network.carrier()
        self._address = Address(("192.0.2.1",), 9000)
        self._carrier.listen(self._address, lambda peer: self.app.driver(self._serial))
        self._serial = 0
        for _ in range(associations):
            self.connect()

    @property
    def now(self) -> float:
        return self.network.now

    def run(self, seconds: float = 2.0) -> None:
        self.network.run_until(self.now + seconds)

    def connect(self, web: Process | None = None) -> int:
        """Returns the number of the association, which both sides use."""
        self._serial += 1
        self._carrier.connect(self._address, (web or self.web).driver(self._serial))
        self.run()
        assert self._serial in self.app.links
        return self._serial
