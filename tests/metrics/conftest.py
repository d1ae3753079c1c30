"""A small host for halves of the metrics plugin, and what a page says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from fcgi_core.plugin import (
    AssociationFigures,
    AssociationInfo,
    AssociationStatistics,
    ChannelTotals,
    FeedEntry,
    Outcome,
    OutputFigures,
    RequestInfo,
    ServiceFigures,
    Traffic,
    TransportFigures,
)


@dataclass(eq=False)
class FakeRequest:
    server_name: str = "shop.example"
    identity: str = "req-1"
    plugin_data: dict[str, Any] = field(default_factory=dict)

    raw_params: bytes = b""

    @property
    def params(self) -> dict[str, str]:
        return {"SERVER_NAME": self.server_name}


def outcome(status: int = 200, duration: float = 0.02, queued: float | None = 0.001, **named: Any) -> Outcome:
    values = {"first_byte": 0.01, "bytes_in": 10, "bytes_out": 100, **named}
    return Outcome(status=status, duration=duration, queued=queued, **values)


class FakeHost:
    """Host of either half."""

    def __init__(self) -> None:
        self.log = logging.getLogger("fcgi_sctp.plugin.metrics")
        self.name = "shop#0"
        self.sent: list[bytes] = []
        self.on_send: Callable[[], None] = lambda: None
        self.up: list[AssociationInfo] = []
        self.made_traffic = Traffic()
        self.state = ServiceFigures("0.1.0", "memory")

    def send(self, channel: str, item: bytes, *, request: RequestInfo | None = None, urgency: int = 6) -> None:
        raise AssertionError("not used")

    def broadcast(self, channel: str, item: bytes) -> None:
        assert channel == "metrics"
        self.sent.append(item)
        self.on_send()

    def associations(self) -> Sequence[AssociationInfo]:
        return tuple(self.up)

    def publish(self, entry: FeedEntry) -> None:
        raise AssertionError("not used")

    def service(self) -> ServiceFigures:
        return self.state

    def traffic(self) -> Traffic:
        return self.made_traffic

    def transport(self) -> TransportFigures:
        return TransportFigures(
            [
                AssociationFigures(
                    info,
                    requests=1,
                    streams=256,
                    streams_leased=2,
                    shortages={"asked": 1, "shared_feedback": 0, "shared_content": 3},
                    feedback_waiting=5,
                    content_waiting=6,
                    statistics=AssociationStatistics(round_trip=0.001 * info.identity, retransmissions=4),
                )
                for info in self.up
            ],
            [ChannelTotals("syslog", "request", "ordinary", 7, 70, 8, 80, 9)],
            [
                ("syslog", OutputFigures("/var/log/shop", "failing", "full", 3, 10, 5, 500, 2, 20, 1)),
                ("syslog", OutputFigures("udp h:514", "writing", "", 0, 10, 5, 500, 2, 20, 1)),
                ("syslog", OutputFigures("udp h:514", "idle", "", 0, 1, 0, 0, 1, 10, 0)),
            ],
            disagreements={"syslog": 2},
        )

    def serve(self, count: int = 1, name: str = "shop.example", raw_params: bytes = b"", **named: Any) -> None:
        """Let requests come and go."""
        for _ in range(count):
            request = FakeRequest(name, raw_params=raw_params)
            self.made_traffic.begin(request)
            self.made_traffic.end(request, outcome(**named))


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def make_request() -> type[FakeRequest]:
    return FakeRequest


@pytest.fixture
def make_outcome() -> Callable[..., Outcome]:
    return outcome


@pytest.fixture
def association() -> Callable[..., AssociationInfo]:
    def make(
        identity: int = 1, name: str = "shop#0", instance: str = "aaaa", member: str = "192.0.2.7:9000"
    ) -> AssociationInfo:
        return AssociationInfo(identity, "192.0.2.7:9000", name, instance, member)

    return make
