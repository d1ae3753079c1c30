from __future__ import annotations

import time
import tracemalloc
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.plugin import Outcome
from fcgi_core.plugin.traffic import BOUNDS, MAX_NAME, OTHER, Histogram, HostTraffic, Traffic, clean_host
from fcgi_core.protocol.records import encode_pairs


@dataclass(eq=False)
class Request:
    name: str | None = "shop.example"
    identity: str = ""
    plugin_data: dict[str, Any] = field(default_factory=dict)
    raw_params: bytes = b""

    @property
    def server_name(self) -> str:
        return self.name or ""


def outcome(status: int = 200, **named: Any) -> Outcome:
    values = {"duration": 0.5, "first_byte": 0.2, "bytes_in": 1, "bytes_out": 2, "queued": 0.1, **named}
    return Outcome(status=status, **values)


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("shop.example", "shop.example"),
        ("Shop.EXAMPLE", "shop.example"),
        ("", "-"),
        ("*", "_"),
        ("*.example", "*.example"),
        ("[::1]:80", "[::1]:80"),
        ('a b\n{c}"', "a_b__c__"),
        ("bücher", "b_cher"),
        ("a" * 300, "a" * 253),
    ],
)
def test_clean_host(name: str, cleaned: str) -> None:
    assert clean_host(name) == cleaned


@given(st.text())
def test_a_clean_host_is_one_word(name: str) -> None:
    cleaned = clean_host(name)
    assert len(cleaned.split()) == 1
    assert cleaned.isascii()
    assert cleaned != "*"
    assert clean_host(cleaned) == cleaned


def test_a_request_is_counted_where_it_belongs() -> None:
    traffic = Traffic()
    first, second = Request(), Request("blog.example")
    traffic.begin(first)
    traffic.begin(second)
    traffic.begin(second)  # another application took it over
    assert traffic.in_flight() == {"shop.example": 1, "blog.example": 1}
    traffic.end(first, outcome(503, error="no room"))
    traffic.end(second, outcome(200, aborted=True, error="gone"))
    assert traffic.in_flight() == {}
    shop, blog = traffic.hosts().values()
    assert (shop.requests, shop.statuses[5], shop.failed, shop.aborted) == (1, 1, 1, 0)
    assert (blog.requests, blog.statuses[2], blog.failed, blog.aborted) == (1, 1, 0, 1)
    assert (shop.bytes_in, shop.bytes_out) == (1, 2)


def test_a_request_that_was_not_begun_is_counted() -> None:
    traffic = Traffic()
    traffic.end(Request(None), outcome())
    assert traffic.hosts()["-"].requests == 1


@pytest.mark.parametrize(("status", "index"), [(0, 0), (101, 1), (204, 2), (302, 3), (404, 4), (599, 5), (999, 5)])
def test_status_classes(status: int, index: int) -> None:
    figures = HostTraffic()
    figures.add(outcome(status))
    assert figures.statuses[index] == figures.requests == 1


def test_histograms() -> None:
    figures = HostTraffic()
    figures.add(outcome(duration=BOUNDS[0], first_byte=None, queued=None))
    figures.add(outcome(duration=99.0, first_byte=0.003, queued=90.0))
    assert figures.duration.counts[0] == 1  # a bound belongs to its bucket, as `le` says
    assert figures.duration.counts[-1] == 1
    assert figures.duration.total == pytest.approx(99.001)
    assert sum(figures.first_byte.counts) == sum(figures.queue.counts) == sum(figures.application.counts) == 1
    assert figures.application.total == pytest.approx(9.0)


def test_histogram_add_is_what_hosts_do() -> None:
    histogram, figures = Histogram(), HostTraffic()
    for seconds in (0.0, 0.001, 0.0011, 29.0, 31.0):
        histogram.add(seconds)
        figures.add(outcome(duration=seconds))
    assert (histogram.counts, histogram.total) == (figures.duration.counts, figures.duration.total)


def test_merge() -> None:
    one, other = HostTraffic(), HostTraffic()
    one.add(outcome(200))
    other.add(outcome(404, duration=5.0))
    one.merge(other)
    assert one.requests == 2
    assert one.bytes_out == 4
    assert sum(one.duration.counts) == 2
    assert other.requests == 1


def test_the_table_is_bounded() -> None:
    traffic = Traffic(max_hosts=3)
    for number in range(1000):
        request = Request(f"Host{number}")
        traffic.begin(request)
        traffic.end(request, outcome())
    hosts = traffic.hosts()
    assert list(hosts) == ["host0", "host1", "host2", OTHER]
    assert hosts[OTHER].requests == traffic.folded == 997
    traffic.end(Request("HOST1"), outcome())
    assert traffic.hosts()["host1"].requests == 2


def test_names_that_are_no_names_are_not_kept() -> None:
    """A peer may send a megabyte as SERVER_NAME, in each of a thousand requests another."""
    traffic = Traffic()
    tracemalloc.start()
    try:
        for number in range(50):
            traffic.end(Request("x" * 200_000 + str(number)), outcome())
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert list(traffic.hosts()) == ["x" * MAX_NAME]
    assert held < 100_000


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_slow_request_with_a_trace_stands_for_its_bucket() -> None:
    traffic = Traffic()
    params = encode_pairs({"SERVER_NAME": "shop.example", "HTTP_TRACEPARENT": f"00-{TRACE}-00f067aa0ba902b7-01"})
    before = time.time()
    traffic.end(Request(raw_params=params), outcome(duration=0.05))
    assert traffic.hosts()["shop.example"].duration.exemplars == {}, "it was quick"
    traffic.end(Request(raw_params=params), outcome(duration=0.3))
    traffic.end(Request(), outcome(duration=0.4))
    ((position, exemplar),) = traffic.hosts()["shop.example"].duration.exemplars.items()
    assert BOUNDS[position] == 0.5
    assert (exemplar.trace, exemplar.seconds) == (TRACE, 0.3)
    assert before <= exemplar.time <= time.time()
    other = HostTraffic()
    other.merge(traffic.hosts()["shop.example"])
    assert other.duration.exemplars == {position: exemplar}


@pytest.mark.parametrize(
    "sent",
    ["", "00-", f"00-{TRACE}", f"00-{TRACE.upper()}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01", '"}'],
)
def test_what_is_no_trace_is_none(sent: str) -> None:
    traffic = Traffic()
    traffic.end(Request(raw_params=encode_pairs({"HTTP_TRACEPARENT": sent})), outcome(duration=20))
    assert traffic.hosts()["shop.example"].duration.exemplars == {}


def test_malformed_params_do_no_harm() -> None:
    traffic = Traffic()
    traffic.end(Request(raw_params=b"\x10\xffHTTP_TRACEPARENT"), outcome(duration=20))
    assert traffic.hosts()["shop.example"].duration.exemplars == {}
