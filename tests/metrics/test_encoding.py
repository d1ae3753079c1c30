from __future__ import annotations

from typing import Any

from fcgi_metrics.encoding import encode
from fcgi_metrics.samples import Buckets, Sample, traffic_samples
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

SAMPLES = [
    Sample("shop.example", "fcgi_web_requests_total", (("status", "2xx"),), 3),
    Sample("*", "fcgi_web_process_open_fds", (), 12),
    Sample("*", "fcgi_app_association_requests", (("worker", 'a"b\\c\nd'), ("peer", "web")), 1),
    Sample("shop.example", "fcgi_web_queue_seconds", (), Buckets((("0.1", 1), ("+Inf", 4)), 2.5)),
    Sample("blog.example", "fcgi_web_requests_total", (("status", "2xx"),), 1e15),
]


def test_plain() -> None:
    assert encode(SAMPLES, openmetrics=False).decode() == (
        r"""# HELP fcgi_app_association_requests Requests under way on the association.
# TYPE fcgi_app_association_requests gauge
fcgi_app_association_requests{peer="web",worker="a\"b\\c\nd"} 1.0
# HELP fcgi_web_process_open_fds Open file descriptors of the process.
# TYPE fcgi_web_process_open_fds gauge
fcgi_web_process_open_fds 12.0
# HELP fcgi_web_queue_seconds Time from a request's first record until work on it began.
# TYPE fcgi_web_queue_seconds histogram
fcgi_web_queue_seconds_bucket{server_name="shop.example",le="0.1"} 1
fcgi_web_queue_seconds_bucket{server_name="shop.example",le="+Inf"} 4
fcgi_web_queue_seconds_count{server_name="shop.example"} 4
fcgi_web_queue_seconds_sum{server_name="shop.example"} 2.5
# HELP fcgi_web_requests_total Requests that have ended, by class of the status.
# TYPE fcgi_web_requests_total counter
fcgi_web_requests_total{server_name="shop.example",status="2xx"} 3.0
fcgi_web_requests_total{server_name="blog.example",status="2xx"} 1000000000000000.0
"""
    )


def test_both_formats_say_the_same_to_the_librarys_parsers(host: Any) -> None:
    host.serve(3)
    host.serve(name="other.example")
    samples = [*SAMPLES, *traffic_samples("fcgi_app_", host.made_traffic, 10)]
    plain = parse_plain(encode(samples, openmetrics=False).decode())
    strict = parse_openmetrics(encode(samples, openmetrics=True).decode() + "# EOF\n")
    assert [(family.name, family.type, family.documentation, family.samples) for family in plain] == [
        (family.name, family.type, family.documentation, family.samples) for family in strict
    ]


def test_many_samples() -> None:
    many = [SAMPLES[0]._replace(scope=f"host{number}") for number in range(1000)]
    assert encode(many, openmetrics=False).count(b"\n") == 1002
