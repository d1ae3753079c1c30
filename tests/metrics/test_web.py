from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fcgi_metrics import plugin as metrics_plugin
from fcgi_metrics import web as module
from fcgi_metrics.endpoint import PLAIN
from fcgi_metrics.options import MetricsOptions
from fcgi_metrics.snapshot import split
from fcgi_metrics.web import MetricsWeb

from fcgi_core.plugin import AssociationInfo, ServiceFigures, StartAnew


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def run(host: Any, clock: Clock) -> Callable[..., None]:
    """Runs a test with a half of given options."""

    def run_one(test: Callable[[MetricsWeb], Awaitable[None]], **options: Any) -> None:
        async def inside() -> None:
            half = MetricsWeb(host, MetricsOptions(**{"listen": None, **options}))
            try:
                await test(half)
            finally:
                half.close()

        asyncio.run(inside())

    return run_one


def feed(half: MetricsWeb, association: AssociationInfo, number: int, *lines: str) -> None:
    for part in split(number, 0.0, lines):
        half.feedback("metrics", part, None, association)


async def page(half: MetricsWeb) -> list[str]:
    text, _ = await half.page(PLAIN, False)
    return text.decode().split("\n")


def test_a_worker_is_shown_until_it_has_been_gone_for_long(
    run: Any, clock: Clock, association: Callable[..., AssociationInfo]
) -> None:
    async def check(half: MetricsWeb) -> None:
        worker = association()
        half.association_up(worker)
        assert 'fcgi_metrics_worker_up{address="192.0.2.7:9000",worker="shop#0"} 1.0' in await page(half)
        feed(half, worker, 1, "* x 1")
        clock.now += 3
        lines = await page(half)
        assert 'x{address="192.0.2.7:9000",worker="shop#0"} 1.0' in lines
        assert 'fcgi_metrics_snapshot_age_seconds{address="192.0.2.7:9000",worker="shop#0"} 3.0' in lines
        half.association_down(worker, "")
        clock.now += 60
        half.tick()
        lines = await page(half)
        assert 'x{address="192.0.2.7:9000",worker="shop#0"} 1.0' in lines
        assert 'fcgi_metrics_worker_up{address="192.0.2.7:9000",worker="shop#0"} 0.0' in lines
        clock.now += 1
        half.tick()
        assert not any(line.startswith(("x{", "fcgi_metrics_worker_up{")) for line in await page(half))

    run(check, keep=60)


def test_a_restarted_worker_replaces_its_predecessor(
    run: Any, clock: Clock, association: Callable[..., AssociationInfo]
) -> None:
    async def check(half: MetricsWeb) -> None:
        old, new = association(1, instance="a"), association(2, instance="b")
        half.association_up(old)
        feed(half, old, 9, "* x 9")
        half.association_down(old, "")
        half.association_up(new)
        assert not any(line.startswith("x{") for line in await page(half))
        feed(half, new, 1, "* x 1")
        assert 'x{address="192.0.2.7:9000",worker="shop#0"} 1.0' in await page(half)

    run(check)


def test_a_worker_that_is_replaced_while_it_ends_leaves_its_series_to_its_successor(
    run: Any, clock: Clock, association: Callable[..., AssociationInfo]
) -> None:
    """As in a rolling reload: whichever is the newest has the name, at each restart."""

    async def check(half: MetricsWeb) -> None:
        for number, instance in enumerate("abc"):
            one = association(number, "shop", instance)
            half.association_up(one)
            feed(half, one, 1, f"* x {number}")
        feed(half, association(0, "shop", "a"), 2, "* x 0")
        feed(half, association(1, "shop", "b"), 2, "* x 1")

        async def shown() -> list[str]:
            return [line for line in await page(half) if line.startswith("x{")]

        assert await shown() == ['x{address="192.0.2.7:9000",worker="shop"} 2.0'], "totals of others are no increase"
        clock.now += 59
        half.association_down(association(1, "shop", "b"), "")
        assert len(await shown()) == 1
        clock.now += 1
        half.tick()
        assert await shown() == [
            'x{address="192.0.2.7:9000",worker="shop"} 2.0',
            'x{address="192.0.2.7:9000",worker="shop-2"} 0.0',
        ], "one that stays is another process with the same name"

    run(check)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_applications_with_one_name_are_told_apart_by_address_in_whatever_order_they_come(
    run: Any, clock: Clock, association: Callable[..., AssociationInfo], order: tuple[int, int]
) -> None:
    """What one sends, and its end, change nothing of what the other sent; nor does its name, when the other is down."""

    async def check(half: MetricsWeb) -> None:
        both = [association(1), association(2, member="192.0.2.8:9000")]
        for number in order:
            half.association_up(both[number])
        feed(half, both[1], 1 << 40, "* x 666")
        feed(half, both[0], 1, "* x 1")
        expected = [
            'x{address="192.0.2.7:9000",worker="shop#0"} 1.0',
            'x{address="192.0.2.8:9000",worker="shop#0"} 666.0',
        ]
        assert [line for line in await page(half) if line.startswith("x{")] == expected
        half.association_down(both[0], "")
        assert [line for line in await page(half) if line.startswith("x{")] == expected

    run(check)


def test_two_associations_with_one_process_are_one_worker(
    run: Any, clock: Clock, association: Callable[..., AssociationInfo]
) -> None:
    async def check(half: MetricsWeb) -> None:
        one, two = association(1), association(2)
        half.association_up(one)
        half.association_up(two)
        feed(half, one, 1, "* x 1")
        feed(half, two, 1, "* x 1")
        lines = await page(half)
        assert sum(line.startswith("x{") for line in lines) == 1
        assert "fcgi_metrics_snapshots_total 1.0" in lines
        half.association_down(one, "")
        clock.now += 1000
        half.tick()
        assert 'x{address="192.0.2.7:9000",worker="shop#0"} 1.0' in await page(half)

    run(check)


def test_only_whole_snapshots_count(run: Any, clock: Clock, association: Callable[..., AssociationInfo]) -> None:
    async def check(half: MetricsWeb) -> None:
        one = association()
        half.association_up(one)
        feed(half, one, 1, "* x 1")
        lines = [f'* y{{n="{number:0200}"}} 1' for number in range(100)]
        first, *_, last = split(2, 0.0, lines)
        half.feedback("metrics", first, None, one)
        half.feedback("metrics", last, None, one)
        assert 'x{address="192.0.2.7:9000",worker="shop#0"} 1.0' in await page(half)
        feed(half, one, 3, "* x 3")
        half.feedback("metrics", last, None, one)  # late
        found = await page(half)
        assert 'x{address="192.0.2.7:9000",worker="shop#0"} 3.0' in found
        assert "fcgi_metrics_snapshots_incomplete_total 1.0" in found

    run(check)


def test_malformed_snapshots_are_counted(run: Any, clock: Clock, association: Callable[..., AssociationInfo]) -> None:
    async def check(half: MetricsWeb) -> None:
        half.feedback("metrics", b"whatever", None, association())
        half.association_up(association())
        half.feedback("metrics", b"", None, association())
        half.association_down(association(2, instance="never seen"), "")
        assert 'fcgi_metrics_samples_omitted{reason="malformed"} 2.0' in await page(half)

    run(check)


def test_a_snapshot_is_bounded(
    run: Any, clock: Clock, association: Callable[..., AssociationInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SNAPSHOT", 10_000)
    monkeypatch.setattr(module, "MAX_WORKERS", 1)

    async def check(half: MetricsWeb) -> None:
        one = association()
        half.association_up(one)
        half.association_up(association(2, instance="b"))
        feed(half, one, 1, *(f'* y{{n="{number:0200}"}} 1' for number in range(100)))
        feed(half, association(2, instance="b"), 1, *(f'* z{{n="{number:0200}"}} 1' for number in range(100)))
        found = await page(half)
        assert not any(line.startswith(("y{", "z{")) for line in found)
        assert "fcgi_metrics_snapshots_dropped_total 2.0" in found, "one was too large, and one of a process too many"

    run(check)


def test_the_web_sides_own_figures(run: Any, host: Any, association: Callable[..., AssociationInfo]) -> None:
    async def check(half: MetricsWeb) -> None:
        host.up = [association()]
        host.serve(2)
        lines = await page(half)
        assert 'fcgi_web_requests_total{server_name="shop.example",status="2xx"} 2.0' in lines
        assert 'fcgi_web_association_retransmissions_total{address="192.0.2.7:9000"} 4.0' in lines
        assert 'fcgi_web_channel_dropped_items_total{channel="syslog"} 9.0' in lines

    run(check)


def test_statsd_by_the_clock(run: Any, host: Any, clock: Clock) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)

        async def check(half: MetricsWeb) -> None:
            for _ in range(6):
                host.serve()
                half.tick()
                while half._reporting is not None:
                    await asyncio.sleep(0)
                clock.now += 1

        run(check, statsd=f"127.0.0.1:{server.getsockname()[1]}", interval=5)
        server.setblocking(False)
        received = b""
        try:
            while True:
                received += server.recv(65536) + b"\n"
        except BlockingIOError:
            pass
    assert [line for line in received.split(b"\n") if line.startswith(b"fcgi_web_requests.shop_example.2xx:")] == [
        b"fcgi_web_requests.shop_example.2xx:1|c",
        b"fcgi_web_requests.shop_example.2xx:5|c",
    ]


def test_a_report_that_fails_is_reported_once_and_the_next_one_goes(
    run: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    async def check(half: MetricsWeb) -> None:
        statsd = half._statsd
        assert statsd is not None
        sent = []
        monkeypatch.setattr(statsd, "send", lambda samples: 1 / 0)
        for _ in range(2):
            half.tick()
            while half._reporting is not None:
                await asyncio.sleep(0)
            clock.now += 10
            monkeypatch.setattr(statsd, "send", sent.append)
        assert len(sent) == 1
        gc.collect()
        await asyncio.sleep(0)

    run(check, statsd="127.0.0.1:9")
    assert [record.name for record in caplog.records] == ["fcgi_sctp.plugin.metrics"], "and asyncio has nothing to add"


def test_a_page_that_cannot_be_made_is_logged(
    run: Any, host: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(half: MetricsWeb) -> None:
        monkeypatch.setattr(half._exposition, "page", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await page(half)

    run(check)
    assert "cannot make the metrics page or report" in caplog.text


def test_new_options(run: Any, host: Any) -> None:
    async def check(half: MetricsWeb) -> None:
        half.configure(MetricsOptions(listen=None, max_hosts=1))
        host.serve(name="a")
        host.serve(name="b")
        assert 'fcgi_web_requests_total{server_name="other",status="2xx"} 1.0' in await page(half)
        with pytest.raises(StartAnew, match=r"metrics\.listen"):
            half.configure(MetricsOptions())
        with pytest.raises(ValueError, match="same for all virtual hosts"):
            half.configure(MetricsOptions(listen=None), "shop.example")

    run(check)


def test_the_endpoint_is_there(host: Any) -> None:
    async def check() -> None:
        half = metrics_plugin().web_half(host, MetricsOptions(listen="127.0.0.1:0"))
        assert isinstance(half, MetricsWeb)
        assert half.endpoint is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", half.endpoint.port)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert b"\nfcgi_metrics_workers 0.0\n" in await reader.read()
        writer.close()
        await writer.wait_closed()
        half.close()
        await asyncio.sleep(0)

    asyncio.run(check())


def figures(lines: list[str]) -> dict[str, float]:
    pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def test_processes_that_are_gone_make_room_first_and_then_the_largest(
    run: Any, clock: Clock, association: Callable[..., AssociationInfo]
) -> None:
    async def check(half: MetricsWeb) -> None:
        infos = {name: association(number, name, name) for number, name in enumerate(("small", "large", "gone"), 1)}
        for name, info in infos.items():
            half.association_up(info)
            feed(half, info, 1, *[f"* x{n} 1" for n in range(10 if name == "small" else 600)])
        half.association_down(infos["gone"], "")
        assert figures(await page(half))["fcgi_metrics_workers"] == 3.0
        feed(half, infos["large"], 2, *[f"* x{n} 1" for n in range(1100)])
        seen = await page(half)
        assert 'x1{address="192.0.2.7:9000",worker="large"} 1.0' in seen
        assert not any('worker="gone"' in line for line in seen if line.startswith("x"))
        assert figures(seen)["fcgi_metrics_snapshots_dropped_total"] == 1.0
        feed(half, infos["large"], 3, *[f"* x{n} 1" for n in range(2000)])
        seen = await page(half)
        assert figures(seen)["fcgi_metrics_snapshots_dropped_total"] == 2.0
        assert [line for line in seen if line.startswith("x1{")] == ['x1{address="192.0.2.7:9000",worker="small"} 1.0']
        feed(half, infos["large"], 4, "* x1 1")
        assert 'x1{address="192.0.2.7:9000",worker="large"} 1.0' in await page(half)
        for info in infos.values():
            half.association_down(info, "")
        clock.now += 100
        half.tick()
        assert half._held == 0

    run(check, max_memory=1 << 20)


def test_half_a_snapshot_goes_with_its_association(run: Any, association: Callable[..., AssociationInfo]) -> None:
    async def check(half: MetricsWeb) -> None:
        info = association()
        half.association_up(info)
        first, *_ = split(1, 0.0, [f'* x{{n="{n}"}} 1' for n in range(1000)])
        half.feedback("metrics", first, None, info)
        assert half._held > len(first)
        half.association_down(info, "")
        assert half._held == 0
        assert figures(await page(half))["fcgi_metrics_snapshots_incomplete_total"] == 1.0

    run(check)


def test_a_snapshot_without_end_is_dropped_and_counted(
    run: Any, association: Callable[..., AssociationInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SNAPSHOT", 100_000)

    async def check(half: MetricsWeb) -> None:
        info = association()
        half.association_up(info)
        for part in range(1, 1000):
            half.feedback("metrics", b"* # snapshot 1 %d/2000 1.0\n" % part + b"* x 1\n" * 1000, None, info)
            assert half._held <= 100_000
        feed(half, info, 2, "* y 1")
        seen = await page(half)
        assert 'y{address="192.0.2.7:9000",worker="shop#0"} 1.0' in seen
        assert figures(seen)["fcgi_metrics_snapshots_dropped_total"] == 1.0

    run(check)


def test_workers_that_come_and_go_do_not_displace_others(
    run: Any, association: Callable[..., AssociationInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WORKERS", 3)

    async def check(half: MetricsWeb) -> None:
        for number in range(10):
            half.association_up(passing := association(number, f"passing{number}", f"i{number}"))
            half.association_down(passing, "")
        lawful = association(99, "lawful", "lawful")
        half.association_up(lawful)
        feed(half, lawful, 1, "* x 1")
        assert 'x{address="192.0.2.7:9000",worker="lawful"} 1.0' in await page(half)

    run(check)


MEASURE = """
import asyncio, gc, sys
from fcgi_core.plugin import AssociationInfo
from fcgi_metrics.endpoint import PLAIN
from fcgi_metrics.options import MetricsOptions
from fcgi_metrics.snapshot import split
from fcgi_metrics import web
from fcgi_metrics.web import MetricsWeb
from tests.metrics.conftest import FakeHost

BUCKETS = "0.001={n},0.01={n},0.025={n},0.05={n},0.1={n},0.25={n},0.5={n},1.0={n},2.5={n},5.0={n},10.0={n},+Inf={n}"
web.MAX_GONE = 4 << 20
LINE = {
    "tiny": "* a{p}x{n} 1",
    "labels": '* a{{p="{p}",n="{n}",path="/some/where/{n}"}} {n}',
    "long": '* a{{p="{p}",n="{n}",path="' + "x" * 1000 + '"}} {n}',
    "histograms": "host{n} fcgi_app_request_seconds " + BUCKETS + ",sum={n}.5",
    "own": 'host{n} fcgi_app_requests_total{{status="2xx"}} {n}',
}[sys.argv[1]]

def rss():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS"))

async def main():
    half = MetricsWeb(FakeHost(), MetricsOptions(listen=None, max_memory=16 << 20))

    async def come(number):
        info = AssociationInfo(number, "192.0.2.7:9000", f"w{number}", f"i{number}")
        half.association_up(info)
        lines = (LINE.format(p=number, n=n) for n in range(int(sys.argv[3])))
        for part in split(1, 0.0, lines):
            half.feedback("metrics", part, None, info)
        half._workers["", f"i{number}"].whole.parse(20_000)  # as for a page
        return info

    half.association_down(await come(0), "")
    gc.collect()
    before = rss()
    for number in range(1, 40):
        info = await come(number)
        if sys.argv[2] == "gone":
            half.association_down(info, "")
    gc.collect()
    print((rss() - before) / (16 << 20))

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("what", "lines"), [("tiny", 1000), ("labels", 500), ("long", 300), ("histograms", 200), ("own", 1000)]
)
@pytest.mark.parametrize(("when", "most"), [("up", 1.3), ("gone", 0.6)])
def test_what_is_counted_is_what_memory_costs(what: str, lines: int, when: str, most: float) -> None:
    words = [sys.executable, "-c", MEASURE, what, when, str(lines)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert float(done.stdout) < most


def test_hosts_that_are_counted_together_are_told_of_once(
    run: Any, host: Any, caplog: pytest.LogCaptureFixture, association: Callable[..., AssociationInfo]
) -> None:
    async def check(half: MetricsWeb) -> None:
        for number in range(2):
            host.serve(name=f"host{number}")
        half.tick()
        assert not caplog.records
        host.serve(name="host2")
        half.tick()
        half.tick()
        assert [one.getMessage().partition(":")[0] for one in caplog.records] == [
            "more than 2 virtual hosts (metrics.max_hosts)"
        ]

    run(check, max_hosts=2)


def test_ready_says_why_not(run: Any, host: Any) -> None:
    async def check(half: MetricsWeb) -> None:
        assert half.endpoint is not None
        host.state = ServiceFigures(obstacle="it stops")
        assert half.endpoint.obstacle() == "it stops"
        assert "fcgi_web_ready 0.0" in await page(half)

    run(check, listen="127.0.0.1:0")
