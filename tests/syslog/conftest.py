"""A small host and requests, for halves of the syslog plugin."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from fcgi_core.plugin import AssociationInfo, FeedEntry, RequestInfo


@dataclass(eq=False)
class FakeRequest:
    identity: str = "req-1"
    params: dict[str, str] = field(default_factory=lambda: {"SERVER_NAME": "shop.example"})
    plugin_data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sent:
    channel: str
    item: bytes
    request: RequestInfo | None
    urgency: int


class FakeHost:
    """Host of either half; `fails` makes `send` raise, `on_send` is called inside it."""

    def __init__(self) -> None:
        self.log = logging.getLogger("fcgi_sctp.plugin.syslog")
        self.name = "demo"
        self.sent: list[Sent] = []
        self.published: list[FeedEntry] = []
        self.on_send: Callable[[], None] = lambda: None

    def send(self, channel: str, item: bytes, *, request: RequestInfo | None = None, urgency: int = 6) -> None:
        self.sent.append(Sent(channel, item, request, urgency))
        self.on_send()

    def broadcast(self, channel: str, item: bytes) -> None:
        raise AssertionError("not used")

    def associations(self) -> Sequence[AssociationInfo]:
        return ()

    def publish(self, entry: FeedEntry) -> None:
        self.published.append(entry)


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def make_request() -> type[FakeRequest]:
    return FakeRequest


@pytest.fixture
def association() -> AssociationInfo:
    return AssociationInfo(1, "192.0.2.7:9000", "peer", "instance")
