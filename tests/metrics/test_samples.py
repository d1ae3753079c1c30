from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from fcgi_metrics.families import APPLICATION, FAMILIES, WEB
from fcgi_metrics.process import process_figures
from fcgi_metrics.samples import (
    PROCESS,
    Buckets,
    PeerTotals,
    Sample,
    add_values,
    process_samples,
    service_samples,
    traffic_samples,
)

from fcgi_core.plugin import ApplicationFigures, AssociationInfo, ServiceFigures, SiteFigures


def by_key(samples: Any) -> dict[tuple[str, ...], Any]:
    return {(scope, name, *(text for _, text in labels)): value for scope, name, labels, value in samples}


def check_families(samples: list[Sample]) -> None:
    """Each sample is what the table says."""
    for scope, name, labels, value in samples:
        family = FAMILIES[name]
        found = ({"server_name"} if scope != PROCESS else set()) | {label for label, _ in labels}
        assert found == set(family.labels), name
        assert (family.kind == "histogram") is isinstance(value, Buckets)


def test_traffic(host: Any, make_request: Any) -> None:
    host.serve(3)
    host.serve(status=404, aborted=True)
    host.serve(name="blog.example", duration=0.7, queued=None)
    host.made_traffic.begin(make_request())
    samples = list(traffic_samples(WEB, host.made_traffic, 100))
    check_families(samples)
    found = by_key(samples)
    assert found["shop.example", "fcgi_web_requests_total", "2xx"] == 3
    assert found["shop.example", "fcgi_web_requests_total", "4xx"] == 1
    assert found["shop.example", "fcgi_web_requests_total", "5xx"] == 0
    assert ("shop.example", "fcgi_web_requests_total", "none") not in found
    assert found["shop.example", "fcgi_web_requests_aborted_total"] == 1
    assert found["shop.example", "fcgi_web_requests_in_flight"] == 1
    assert found["shop.example", "fcgi_web_sent_bytes_total"] == 400
    seconds = found["shop.example", "fcgi_web_request_seconds"]
    assert dict(seconds.counts)["0.025"] == dict(seconds.counts)["+Inf"] == 4
    assert dict(seconds.counts)["0.01"] == 0
    assert dict(found["blog.example", "fcgi_web_queue_seconds"].counts)["+Inf"] == 0


def test_hosts_beyond_the_limit_are_one(host: Any, make_request: Any) -> None:
    for number in range(5):
        host.serve(number + 1, f"host{number}")
    host.made_traffic.begin(make_request("host4"))
    found = by_key(traffic_samples(APPLICATION, host.made_traffic, 2))
    assert {key[0] for key in found} == {"host0", "host1", "other", PROCESS}
    assert found["other", "fcgi_app_requests_total", "2xx"] == 3 + 4 + 5
    assert found["other", "fcgi_app_requests_in_flight"] == 1
    assert found[PROCESS, "fcgi_app_requests_folded_total"] == 12
    assert host.made_traffic.hosts()["host2"].requests == 3


def test_process(host: Any) -> None:
    host.up = [
        AssociationInfo(1, "192.0.2.1:5", "web", "a", "192.0.2.1"),
        AssociationInfo(2, "192.0.2.1:6", "web", "a", "192.0.2.1"),
    ]
    by_name = list(
        process_samples(APPLICATION, host.transport(), process_figures(), host.service(), PeerTotals("peer"))
    )
    check_families(by_name)
    found = by_key(by_name)
    assert found[PROCESS, "fcgi_app_associations"] == 2
    assert found[PROCESS, "fcgi_app_association_streams", "192.0.2.1"] == 512
    assert found[PROCESS, "fcgi_app_association_round_trip_seconds", "192.0.2.1"] == 0.002
    assert found[PROCESS, "fcgi_app_association_stream_shortages_total", "192.0.2.1", "shared_content"] == 6
    assert (PROCESS, "fcgi_app_association_congestion_window_bytes", "192.0.2.1") not in found
    assert found[PROCESS, "fcgi_app_channel_dropped_items_total", "syslog"] == 9
    assert found[PROCESS, "fcgi_app_plugin_disagreements", "syslog"] == 2
    assert found[PROCESS, "fcgi_app_requests_over_limit_total"] == 7
    assert found[PROCESS, "fcgi_app_output_up", "syslog", "/var/log/shop"] == 0
    assert found[PROCESS, "fcgi_app_output_errors_total", "syslog", "/var/log/shop"] == 3
    assert found[PROCESS, "fcgi_app_output_up", "syslog", "udp h:514"] == 1
    assert found[PROCESS, "fcgi_app_output_lost_items_total", "syslog", "udp h:514"] == 3, "both of that name"
    each = by_key(process_samples(WEB, host.transport(), {}, host.service(), PeerTotals("address")))
    assert each[PROCESS, "fcgi_web_association_retransmissions_total", "192.0.2.1"] == 8
    assert (PROCESS, "fcgi_web_requests_over_limit_total") not in each


def test_process_figures() -> None:
    figures = process_figures()
    assert figures["process_resident_memory_bytes"] > 1 << 20
    assert 3 <= figures["process_open_fds"] <= figures["process_max_fds"]
    assert figures["process_threads"] >= 1
    assert figures["process_start_time_seconds"] > 1e9
    assert figures["process_start_time_seconds"] == process_figures()["process_start_time_seconds"]
    assert {f"{prefix}{name}" for name in figures for prefix in (APPLICATION, WEB)} <= set(FAMILIES)


def test_process_figures_without_file_descriptors() -> None:
    """What an alert compares is there when it is due; what can only be read from a file is not."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        figures = process_figures()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert figures["process_open_fds"] == figures["process_max_fds"] == 3
    assert "process_threads" not in figures


def test_add_values() -> None:
    one = Buckets((("1.0", 1), ("+Inf", 2)), 3.0)
    assert add_values(one, one) == Buckets((("1.0", 2), ("+Inf", 4)), 6.0)
    assert add_values(one, Buckets((("2.0", 1), ("+Inf", 2)), 3.0)) is None
    assert add_values(one, 1) is None
    assert add_values(1, one) is None
    assert add_values(1, 2.5) == 3.5


def test_the_table() -> None:
    for name, family in FAMILIES.items():
        assert name == family.name
        assert (family.kind == "counter") is name.endswith("_total")
        assert family.help.endswith(".")


def test_counters_of_a_peer_do_not_fall_when_one_of_its_associations_ends(host: Any) -> None:
    def figure(name: str) -> float | None:
        samples = peers.samples(WEB, host.transport().associations)
        return by_key(samples).get((PROCESS, f"fcgi_web_association_{name}", "192.0.2.1:9000"))

    peers = PeerTotals("address")
    one, two = (AssociationInfo(number, "192.0.2.1:9000", "", "a", "192.0.2.1:9000") for number in (1, 2))
    host.up = [one, two]
    assert (figure("retransmissions_total"), figure("requests")) == (8, 2)
    host.up = [two]
    assert (figure("retransmissions_total"), figure("requests")) == (8, 1)
    host.up = [two, AssociationInfo(3, "192.0.2.1:9000", "", "a", "192.0.2.1:9000")]
    assert figure("retransmissions_total") == 12
    host.up = []
    assert figure("retransmissions_total") is None
    host.up = [one]
    assert figure("retransmissions_total") == 4, "without an association nothing is kept"


def test_applications_and_the_queue() -> None:
    here = ApplicationFigures("192.0.2.7:9000", {"up": 1, "draining": 1, "drained": 1}, 10, 2, 30, 1, 2, 3)
    away = ApplicationFigures("shop.example:9000", {"down": 1}, 0, 0, 0, 0, 0, 0)
    samples = list(service_samples(WEB, ServiceFigures("1", "kernel", "", [here, away], 4, 500, {"queue_full": 6})))
    check_families(samples)
    found = by_key(samples)
    assert found[PROCESS, "fcgi_web_application_up", "192.0.2.7:9000"] == 1
    assert found[PROCESS, "fcgi_web_application_up", "shop.example:9000"] == 0
    assert found[PROCESS, "fcgi_web_application_processes", "192.0.2.7:9000", "draining"] == 1
    assert found[PROCESS, "fcgi_web_application_processes", "192.0.2.7:9000", "drained"] == 1
    assert found[PROCESS, "fcgi_web_application_processes", "192.0.2.7:9000", "out"] == 0
    assert found[PROCESS, "fcgi_web_application_lost_total", "192.0.2.7:9000"] == 3
    assert found[PROCESS, "fcgi_web_requests_waiting"] == 4
    assert found[PROCESS, "fcgi_web_requests_unserved_total", "queue_full"] == 6
    assert found[PROCESS, "fcgi_web_ready"] == 1
    assert by_key(service_samples(WEB, ServiceFigures(obstacle="it stops")))[PROCESS, "fcgi_web_ready"] == 0


def test_several_sites_have_a_label_and_the_one_without_a_name_has_none() -> None:
    here = ApplicationFigures("192.0.2.7:9000", {"up": 1}, 10, 2, 30, 1, 2, 3)
    sites = [
        SiteFigures("shop", "", [here], 4, 500, {"queue_full": 6}),
        SiteFigures("", "no application is up, of 1", [here], 1, 50, {"queue_full": 2}),
    ]
    unserved = {"queue_full": 8, "unknown_site": 3}
    found = by_key(service_samples(WEB, ServiceFigures("1", "kernel", "", [here, here], 5, 550, unserved, sites)))
    assert found[PROCESS, "fcgi_web_application_up", "192.0.2.7:9000", "shop"] == 1
    assert found[PROCESS, "fcgi_web_application_up", "192.0.2.7:9000"] == 1
    assert found[PROCESS, "fcgi_web_requests_waiting", "shop"] == 4
    assert found[PROCESS, "fcgi_web_requests_waiting"] == 1
    assert found[PROCESS, "fcgi_web_requests_unserved_total", "queue_full", "shop"] == 6
    assert found[PROCESS, "fcgi_web_requests_unserved_total", "queue_full"] == 2, "so that the sum is that of all"
    assert found[PROCESS, "fcgi_web_requests_unserved_total", "unknown_site"] == 3
    assert found[PROCESS, "fcgi_web_site_ready", "shop"] == 1
    assert (PROCESS, "fcgi_web_site_ready", "") not in found


def test_each_metric_is_in_the_documents() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for name in FAMILIES:
        assert f"`{name}`" in text or f"`{name.removeprefix(WEB).removeprefix(APPLICATION)}`" in text, name
