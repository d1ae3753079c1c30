from __future__ import annotations

import asyncio
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
import pytest
from fcgi_metrics import plugin as metrics_plugin
from fcgi_metrics.application import MetricsApplication
from fcgi_metrics.options import MetricsOptions
from fcgi_metrics.registry import registry_lines
from fcgi_metrics.samples import Sample
from fcgi_metrics.snapshot import parse, read_header

from fcgi_core.plugin import Priority, Scope, ServiceFigures, StartAnew

PATIENCE = 10.0


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(
        "fcgi_metrics.application.time", types.SimpleNamespace(monotonic=made.monotonic, time=lambda: 5.0)
    )
    return made


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> prometheus_client.CollectorRegistry:
    made = prometheus_client.CollectorRegistry()
    monkeypatch.setattr(prometheus_client, "REGISTRY", made)
    return made


@pytest.fixture
def make(host: Any) -> Iterator[Callable[..., MetricsApplication]]:
    halves = []

    def make_half(**options: Any) -> MetricsApplication:
        half = MetricsApplication(host, MetricsOptions(**options))
        halves.append(half)
        return half

    yield make_half
    host.up = []
    for half in halves:
        half.close()


def wait_idle(half: MetricsApplication) -> None:
    assert half._idle.wait(PATIENCE)


def snapshots(host: Any) -> list[dict[tuple[str, ...], Any]]:
    found: dict[int, dict[tuple[str, ...], Any]] = {}
    for item in host.sent:
        header = read_header(item)
        assert header is not None
        for line in parse(item):
            assert line is not None
            if isinstance(line, Sample):
                key = (line.scope, line.name, *(text for _, text in line.labels))
                found.setdefault(header.number, {})[key] = line.value
    return [found[number] for number in sorted(found)]


def test_channel() -> None:
    (channel,) = metrics_plugin().channels(MetricsOptions(interval=7))
    assert (channel.name, channel.scope, channel.priority) == ("metrics", Scope.ASSOCIATION, Priority.BACKGROUND)
    assert channel.lifetime == 7


@pytest.mark.parametrize(
    "options", [{"listen": "nowhere"}, {"listen": "unix:"}, {"statsd": "x:y"}, {"interval": 0}, {"max_hosts": 0}]
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        MetricsOptions(**options)


def test_snapshots_by_the_clock(
    host: Any, clock: Clock, make: Callable[..., MetricsApplication], association: Any, registry: Any
) -> None:
    half = make(interval=5)
    half.tick()
    assert host.sent == []  # no web side would receive it
    host.up = [association()]
    half.association_up(host.up[0])
    wait_idle(half)
    host.serve(2)
    for seconds in range(1, 11):
        clock.now = 1000.0 + seconds
        half.tick()
        wait_idle(half)
    found = snapshots(host)
    assert [one.get(("shop.example", "fcgi_app_requests_total", "2xx")) for one in found] == [None, 2, 2]
    assert found[0]["*", "fcgi_app_associations"] == 1


def test_ticks_that_come_a_little_early_do_not_halve_the_rate(
    host: Any, clock: Clock, make: Callable[..., MetricsApplication], association: Any, registry: Any
) -> None:
    half = make(interval=1)
    host.up = [association()]
    for number in range(20):
        clock.now = 1000 + number * 0.999
        half.tick()
        wait_idle(half)
    assert len(snapshots(host)) == 20


def test_a_slow_collector_holds_nothing_up(
    host: Any, clock: Clock, make: Callable[..., MetricsApplication], association: Any, registry: Any
) -> None:
    entered, go = threading.Event(), threading.Event()

    class Slow:
        def collect(self) -> Any:
            entered.set()
            assert go.wait(PATIENCE)
            return []

        def describe(self) -> Any:
            return []

    registry.register(Slow())
    half = make(interval=1)
    host.up = [association()]
    half.tick()
    assert entered.wait(PATIENCE)
    for _ in range(5):
        clock.now += 1
        half.tick()
    assert host.sent == []
    go.set()
    wait_idle(half)
    assert len(snapshots(host)) == 1


def test_the_registry_goes_along(
    host: Any, clock: Clock, make: Callable[..., MetricsApplication], association: Any, registry: Any
) -> None:
    orders = prometheus_client.Counter("orders", 'Orders "taken".\n', ["kind"], registry=registry)
    orders.labels('a "b"\\\n').inc(3)
    prometheus_client.Histogram("basket_size", "Baskets.", buckets=(1, 2), registry=registry).observe(1.5)
    prometheus_client.Gauge("fcgi_forged", "No.", registry=registry).set(1)
    half = make()
    host.up = [association()]
    half.tick()
    wait_idle(half)
    (found,) = snapshots(host)
    assert found["*", "orders_total", 'a "b"\\\n'] == 3
    assert found["*", "basket_size_bucket", "2.0"] == 1
    assert found["*", "basket_size_sum"] == 1.5
    names = {key[1] for key in found}
    assert not any(name.endswith("_created") or name == "fcgi_forged" for name in names)
    assert "* # type orders counter" in b"\n".join(host.sent).decode()


def test_registry_left_out(
    host: Any, clock: Clock, make: Callable[..., MetricsApplication], association: Any, registry: Any
) -> None:
    prometheus_client.Gauge("mine", "Mine.", registry=registry)
    half = make(registry=False)
    host.up = [association()]
    half.tick()
    wait_idle(half)
    assert ("*", "mine") not in snapshots(host)[0]


def test_no_library_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prometheus_client")
    assert list(registry_lines()) == []
    assert "prometheus_client" not in sys.modules


@pytest.mark.parametrize("what", [RuntimeError("database gone"), SystemExit(3)])
def test_a_failing_collector_costs_but_the_registry(
    host: Any,
    clock: Clock,
    make: Callable[..., MetricsApplication],
    association: Any,
    registry: Any,
    caplog: pytest.LogCaptureFixture,
    what: BaseException,
) -> None:
    class Broken:
        def collect(self) -> Any:
            raise what

        def describe(self) -> Any:
            return []

    registry.register(Broken())
    half = make(interval=1)
    host.up = [association()]
    for _ in range(3):
        clock.now += 1
        half.tick()
        wait_idle(half)
    assert len(snapshots(host)) == 3
    assert caplog.text.count("cannot collect the application's own metrics") == 1


def test_a_failure_to_send_is_reported_once(
    host: Any,
    clock: Clock,
    make: Callable[..., MetricsApplication],
    association: Any,
    registry: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise OSError("no room")

    half = make(interval=1)
    host.up = [association()]
    host.on_send = fail
    for _ in range(3):
        clock.now += 1
        half.tick()
        wait_idle(half)
    assert caplog.text.count("cannot make a snapshot") == 1


def test_further_associations_with_a_web_side_get_no_snapshot_of_their_own(
    host: Any, clock: Clock, make: Callable[..., MetricsApplication], association: Any, registry: Any
) -> None:
    half = make(interval=3600)

    def up(identity: int, instance: str) -> None:
        host.up.append(association(identity, instance=instance))
        half.association_up(host.up[-1])
        wait_idle(half)

    up(1, "one web side")
    for identity in range(2, 7):
        up(identity, "one web side")
    assert len(snapshots(host)) == 1
    up(7, "another")
    assert len(snapshots(host)) == 2
    half.association_up(host.up[0])  # it accepts the channel again
    wait_idle(half)
    assert len(snapshots(host)) == 3
    for one in host.up[:6]:
        half.association_down(one, "")
    del host.up[:6]
    up(8, "one web side")
    assert len(snapshots(host)) == 4


def test_the_last_figures_are_sent_at_the_end(
    host: Any, clock: Clock, make: Callable[..., MetricsApplication], association: Any, registry: Any
) -> None:
    half = make()
    host.up = [association()]
    half.tick()
    wait_idle(half)
    host.serve(4)
    half.close()
    assert snapshots(host)[-1]["shop.example", "fcgi_app_requests_total", "2xx"] == 4


def test_new_options(
    host: Any, clock: Clock, make: Callable[..., MetricsApplication], association: Any, registry: Any
) -> None:
    half = make(interval=3600)
    host.up = [association()]
    half.tick()
    wait_idle(half)
    half.configure(MetricsOptions(interval=1))
    half.tick()
    wait_idle(half)
    clock.now += 1
    half.tick()
    wait_idle(half)
    assert len(snapshots(host)) == 3


def test_a_process_says_whether_it_takes_requests(host: Any) -> None:
    async def check() -> None:
        half = MetricsApplication(host, MetricsOptions(health="127.0.0.1:0"))
        assert half.endpoint is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", half.endpoint.port)
        host.state = ServiceFigures(obstacle="it stops")
        writer.write(b"GET /ready HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b"not ready: it stops\n")
        writer.close()
        await writer.wait_closed()
        with pytest.raises(StartAnew):
            half.configure(MetricsOptions())
        half.close()
        assert half.endpoint is None
        await asyncio.sleep(0)

    asyncio.run(check())
