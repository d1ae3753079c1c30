from __future__ import annotations

import math
import socket
from collections.abc import Iterator

import pytest
from fcgi_metrics.samples import Buckets, Sample
from fcgi_metrics.statsd import DATAGRAM, Statsd


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(10)
        yield made


@pytest.fixture
def statsd(server: socket.socket) -> Iterator[Statsd]:
    made = Statsd(server.getsockname())
    yield made
    made.close()


def requests(count: float, host: str = "shop.example", side: str = "web") -> Sample:
    return Sample(host, f"fcgi_{side}_requests_total", (("status", "2xx"),), count)


def test_counters_are_what_was_added(statsd: Statsd) -> None:
    assert list(statsd.lines([requests(5)])) == ["fcgi_web_requests.shop_example.2xx:5|c"]
    assert list(statsd.lines([requests(5)])) == []
    assert list(statsd.lines([requests(7)])) == ["fcgi_web_requests.shop_example.2xx:2|c"]
    assert list(statsd.lines([requests(1)])) == ["fcgi_web_requests.shop_example.2xx:1|c"]


def test_earlier_counts_of_an_application_are_not_sent(statsd: Statsd) -> None:
    assert list(statsd.lines([requests(1000, side="app")])) == []
    assert list(statsd.lines([requests(1003, side="app")])) == ["fcgi_app_requests.shop_example.2xx:3|c"]


def test_gauges_and_histograms(statsd: Statsd) -> None:
    samples = [
        Sample("*", "fcgi_web_association_round_trip_seconds", (("peer", "192.0.2.1:5"),), 0.0125),
        Sample("-", "fcgi_web_request_seconds", (), Buckets((("1.0", 1), ("+Inf", 2)), 1.5)),
    ]
    assert list(statsd.lines(samples)) == [
        "fcgi_web_association_round_trip_seconds.192_0_2_1_5:0.012500|g",
        "fcgi_web_request_seconds_count.-:2|c",
        "fcgi_web_request_seconds_sum.-:1.500000|c",
    ]


def test_values_that_statsd_cannot_write_are_left_out(statsd: Statsd) -> None:
    for value in (math.inf, -math.inf, math.nan):
        samples = [
            Sample("*", "fcgi_web_association_round_trip_seconds", (), value),
            requests(value, host="bad.example"),
            Sample("*", "fcgi_web_request_seconds", (), Buckets((("1.0", 0), ("+Inf", 0)), value)),
            Sample("*", "fcgi_web_associations", (), 3),
        ]
        assert list(statsd.lines(samples)) == ["fcgi_web_associations:3|g"]
    assert list(statsd.lines([requests(5, host="bad.example")])) == ["fcgi_web_requests.bad_example.2xx:5|c"]


def test_tags_and_prefix(server: socket.socket) -> None:
    statsd = Statsd(server.getsockname(), "site.a", tags=True)
    forged = Sample("*", "fcgi_web_associations", (), 1)
    worker = Sample("x", "fcgi_app_requests_in_flight", (("worker", "a|b,c\n#1"),), 2)
    assert list(statsd.lines([requests(5), forged, worker])) == [
        "site.a.fcgi_web_requests:5|c|#server_name:shop.example,status:2xx",
        "site.a.fcgi_web_associations:1|g",
        "site.a.fcgi_app_requests_in_flight:2|g|#server_name:x,worker:a_b_c__1",
    ]
    statsd.close()


def test_datagrams(server: socket.socket, statsd: Statsd) -> None:
    statsd.send([requests(number + 1, f"host{number}.example") for number in range(100)])
    lines: list[str] = []
    while len(lines) < 100:
        datagram = server.recv(65536)
        assert len(datagram) <= DATAGRAM
        lines += datagram.decode().split("\n")
    assert lines[0] == "fcgi_web_requests.host0_example.2xx:1|c"
    assert lines[99] == "fcgi_web_requests.host99_example.2xx:100|c"
    assert statsd.errors == 0


def test_errors_are_counted(statsd: Statsd) -> None:
    statsd.close()
    statsd.send([requests(1)])
    assert statsd.errors == 1
