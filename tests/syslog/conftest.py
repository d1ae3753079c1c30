"""A small host and requests, for halves of the syslog plugin."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from fcgi_syslog import SyslogPlugin
from fcgi_syslog.application import SyslogApplication

from fcgi_core.plugin import (
    AssociationInfo,
    FeedEntry,
    Make,
    RequestInfo,
)
from fcgi_core.protocol.records import encode_pairs
from tests.syslog.items import MakeHalf


@dataclass(eq=False)
class FakeRequest:
    identity: str = "req-1"
    params: dict[str, str] = field(default_factory=lambda: {"SERVER_NAME": "shop.example"})
    plugin_data: dict[str, Any] = field(default_factory=dict)

    number: int = 0
    association: AssociationInfo | None = None

    @property
    def server_name(self) -> str:
        return self.params.get("SERVER_NAME", "")

    @property
    def raw_params(self) -> bytes:
        return encode_pairs(self.params)

    @property
    def reference(self) -> tuple[AssociationInfo, int] | None:
        return None if self.association is None else (self.association, self.number)


@dataclass
class Sent:
    channel: str
    item: bytes
    request: RequestInfo | None
    urgency: int
    association: AssociationInfo | None = None


@dataclass
class FakeGathering:
    """Fetches ready lines at once, unless `waits`."""

    host: FakeHost
    channel: str
    make: Make
    waits: bool = False
    crowded: bool = False
    lost: int = 0

    def ready(self) -> None:
        if not self.waits:
            self.fetch()

    def fetch(self) -> None:
        for item, urgency, association in self.make(self.crowded):
            self.host.send(self.channel, item, urgency=urgency)
            self.host.sent[-1].association = association

    def lose(self, count: int) -> None:
        self.lost += count


class FakeHost:
    """Host of either half; `fails` makes `send` raise, `on_send` is called inside it."""

    def __init__(self) -> None:
        self.log = logging.getLogger("fcgi_sctp.plugin.syslog")
        self.name = "demo"
        self.sent: list[Sent] = []
        self.published: list[FeedEntry] = []
        self.requests: dict[int, RequestInfo] = {}
        """By number."""
        self.by_request: dict[RequestInfo, AssociationInfo] = {}
        self.on_send: Callable[[], None] = lambda: None
        self.taken = True

    def send(self, channel: str, item: bytes, *, request: RequestInfo | None = None, urgency: int = 6) -> None:
        self.sent.append(Sent(channel, item, request, urgency))
        self.on_send()

    def gather(self, channel: str, make: Make) -> FakeGathering:
        self.gathering = FakeGathering(self, channel, make)
        return self.gathering

    def is_taken(self, channel: str) -> bool:
        return self.taken

    def broadcast(self, channel: str, item: bytes) -> None:
        raise AssertionError("not used")

    def associations(self) -> Sequence[AssociationInfo]:
        return tuple(self.by_request.values())

    def association_of(self, request: RequestInfo) -> AssociationInfo | None:
        return self.by_request.get(request)

    def find_requests(
        self, numbers: Iterable[int], association: AssociationInfo | None = None
    ) -> list[RequestInfo | None]:
        return [self.requests.get(number) for number in numbers]

    def publish(self, entry: FeedEntry) -> None:
        self.published.append(entry)

    def publish_all(self, entries: Iterable[FeedEntry]) -> None:
        self.published.extend(entries)


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def make_request() -> type[FakeRequest]:
    return FakeRequest


@pytest.fixture
def association() -> AssociationInfo:
    return AssociationInfo(1, "192.0.2.7:9000", "peer", "instance")


@pytest.fixture
def make(host: Any) -> Iterator[MakeHalf]:
    made = []

    def make(**options: Any) -> SyslogApplication:
        half = SyslogApplication(host, SyslogPlugin.Options.model_validate(options))
        made.append(half)
        return half

    yield make
    for half in made:
        half.close()
