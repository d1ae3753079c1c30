"""What is logged of an application that is away, comes and goes, or tells of workers; on a clock that moves when told
to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from fcgi_core.hosting.driver import Driver
from fcgi_core.hosting.supervisor import Supervisor
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.web import WebConnection
from fcgi_core.sctp.carrier import MESSAGE_SIZE, Address, Association, AssociationHandler, Carrier, Message
from fcgi_core.sctp.statistics import AssociationStatistics
from fcgi_core.web.association import WebAssociation
from fcgi_core.web.attempts import LAST_RETRY, Away
from fcgi_core.web.exchange import WebExchange
from fcgi_core.web.presence import REMIND, STEADY
from fcgi_core.web.upstream import SAME_AGAIN, SAME_LOOKS, Upstream
from tests.clock import Clock
from tests.protocol.helpers import settings_message

ADDRESS = Address(("10.0.0.1",), 9000)


class Attempt:
    """An association that the web side makes, or has."""

    outgoing_streams = incoming_streams = 64
    message_size = MESSAGE_SIZE
    peer = "10.0.0.1:9899"

    def __init__(self, clock: Clock, handler: AssociationHandler) -> None:
        self.handler = handler
        self.aborted: str | None = None
        self._clock = clock

    def comes_up(self) -> None:
        self.handler.association_up(self)
        self.handler.messages_received([settings_message(Settings(instance="a", name="shop"))])

    def ends(self, reason: str) -> None:
        self.handler.association_down(reason)

    def room(self, urgent: bool = False) -> int:
        return 1 << 20

    def send(self, messages: Sequence[Message], urgent: bool = False) -> int:
        return len(messages)

    def set_priority(self, stream: int, priority: int) -> None: ...

    def add_streams(self, count: int) -> bool:
        return False

    def shutdown(self) -> None:
        self._clock.call_later(0, self.ends, "")

    def abort(self, reason: str = "") -> None:
        self.aborted = reason
        self._clock.call_later(0, self.ends, f"aborted here: {reason}")

    def statistics(self) -> AssociationStatistics:
        return AssociationStatistics()


class Network:
    """A carrier; `does` decides what becomes of each attempt."""

    name = "test"

    def __init__(self, clock: Clock) -> None:
        self.attempts: list[Attempt] = []
        self.does: Callable[[Attempt], None] = lambda attempt: None
        self._clock = clock

    def connect(self, address: Address, handler: AssociationHandler) -> Association:
        attempt = Attempt(self._clock, handler)
        self.attempts.append(attempt)
        self._clock.call_later(0.001, self.does, attempt)
        return attempt


class Owner:
    away = Away()

    def __init__(self, clock: Clock) -> None:
        self.supervisor = Supervisor([], cast(Any, clock.loop), lambda call: call(), web=True)
        self.other: Upstream | None = None
        """What has the process already."""
        self.told: list[tuple[Upstream, dict[str, str]]] = []

    def make_connection(self, member: str, most: int, given_up: tuple[int, ...]) -> WebConnection:
        return WebConnection(Settings(association=1))

    def room_for(self, upstream: Upstream) -> int:
        return 0

    def other_with(self, instance: str, upstream: Upstream) -> Upstream | None:
        return self.other

    def workers_reported(self, origin: Upstream, others: Mapping[str, str]) -> None:
        self.told.append((origin, dict(others)))

    def upstream_ready(self) -> None: ...

    def upstream_changed(self) -> None: ...

    def upstream_ended(self, upstream: Upstream) -> None: ...

    def finished(self, exchange: WebExchange, *, aborted: bool = False, error: str = "") -> None: ...

    def try_another(self, exchange: WebExchange, failed: Upstream, lost: bool) -> bool:
        return False

    def requeue(self, exchange: WebExchange, *, overloaded: bool = False) -> None: ...


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.network = Network(self.clock)
        self.owner = Owner(self.clock)
        self.upstream = self.make()

    def make(self, origin: Upstream | None = None) -> Upstream:
        return Upstream(ADDRESS, cast(Carrier, self.network), self.owner, self.clock.loop, origin=origin)


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level(logging.INFO, "fcgi_sctp.web")
    return Bench()


def test_an_application_that_is_away_for_a_minute_costs_a_line_or_two(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    clock, network = bench.clock, bench.network
    network.does = Attempt.comes_up
    bench.upstream.start()
    clock.run_until(STEADY + 1)
    assert [record.getMessage() for record in caplog.records] == [
        "association 1 with application shop at 10.0.0.1:9000 is up"
    ]
    caplog.clear()
    reasons = ["refused", "did not answer within 5 s"]
    network.does = lambda attempt: attempt.ends(reasons[len(network.attempts) % 2])
    network.attempts[-1].ends("gone")
    clock.run_until(clock.now + 60)
    assert len(network.attempts) > 60 / LAST_RETRY
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    lost, failed = (record.getMessage() for record in caplog.records)
    assert lost == "association 1 with 10.0.0.1:9000 is down: gone"
    assert failed.startswith("no association with 10.0.0.1:9000: ")
    caplog.clear()
    clock.run_until(clock.now + REMIND)
    (reminder,) = caplog.records
    assert "application 10.0.0.1:9000 has been away for 300 s" in reminder.getMessage()
    caplog.clear()
    network.does = Attempt.comes_up
    clock.run_until(clock.now + 1)
    (up,) = caplog.records
    assert "is up after 360 s" in up.getMessage()


def test_an_application_that_comes_and_goes_for_ever_does_not_fill_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    clock, network = bench.clock, bench.network

    def flap(attempt: Attempt) -> None:
        attempt.comes_up()
        attempt.handler.messages_received([Message(2, b"no record")])
        attempt.ends("")

    network.does = flap
    bench.upstream.start()
    clock.run_until(120)
    assert len(network.attempts) > 100
    assert len(caplog.records) < 12
    caplog.clear()
    network.does = Attempt.comes_up
    clock.run_until(clock.now + 2 * STEADY)
    assert [record.getMessage() for record in caplog.records] == [
        "association 1 with application 10.0.0.1:9000 is up and stays"
    ]


def test_only_a_configured_application_tells_of_workers(bench: Bench) -> None:
    bench.network.does = Attempt.comes_up
    bench.upstream.start()
    worker = bench.make(origin=bench.upstream)
    worker.start_soon()
    bench.clock.run_until(1)
    assert worker.state == "up"
    assert [origin for origin, _ in bench.owner.told] == [bench.upstream]


def test_another_address_of_a_process_is_tried_again_now_and_then(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.network.does = Attempt.comes_up
    other = bench.make()
    bench.owner.other = other
    bench.upstream.start()
    other._instance, other.associations = "a", [cast(WebAssociation, None)]
    bench.clock.run_until(2 * SAME_LOOKS * SAME_AGAIN + 1)
    assert len(bench.network.attempts) == 3, "once a minute: it may be the address of another process by now"
    assert not bench.upstream.associations
    assert bench.upstream.reached
    assert len(caplog.records) == 1
    assert "instance a is associated at 10.0.0.1:9000 already: connect to it once" in bench.upstream.last_error
    bench.owner.other, other.associations = None, []
    bench.clock.run_until(bench.clock.now + SAME_AGAIN)
    assert bench.upstream.state == "up", "the other one is gone"
    bench.owner.other = other
    bench.network.attempts[-1].ends("gone")
    bench.clock.run_until(bench.clock.now + SAME_AGAIN)
    tried = len(bench.network.attempts)
    bench.upstream.stop()
    bench.clock.run_until(bench.clock.now + 20 * SAME_AGAIN)
    assert len(bench.network.attempts) == tried


def test_an_upstream_that_is_stopped_while_it_connects_ends_the_attempt(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.upstream.start()
    bench.upstream.stop()
    assert bench.upstream.stopped.is_set()
    bench.clock.run_until(1)
    (attempt,) = bench.network.attempts
    assert attempt.aborted is not None
    assert not caplog.records


def test_a_stopped_upstream_is_not_tried_again(bench: Bench) -> None:
    bench.network.does = lambda attempt: attempt.ends("refused")
    bench.upstream.start()
    bench.clock.run_until(1)
    tried = len(bench.network.attempts)
    bench.upstream.stop()
    bench.clock.run_until(10)
    assert len(bench.network.attempts) == tried
    assert isinstance(bench.network.attempts[0].handler, Driver)
