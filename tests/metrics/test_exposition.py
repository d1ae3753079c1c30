from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fcgi_metrics.endpoint import OPENMETRICS, PLAIN
from fcgi_metrics.exposition import Exposition, Snapshot
from fcgi_metrics.families import APPLICATION, WEB
from fcgi_metrics.process import process_figures
from fcgi_metrics.samples import PeerTotals, Sample, process_samples, traffic_samples
from fcgi_metrics.snapshot import split, write_meta, write_sample
from fcgi_metrics.statsd import Statsd
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from fcgi_core.protocol.records import encode_pairs

WHERE = ("address", "here:1")


def snapshot(worker: str, *lines: str, number: int = 1) -> Snapshot:
    return Snapshot((WHERE, ("worker", worker)), number, tuple(split(number, 0.0, lines)))


def own_lines(host: Any) -> list[str]:
    samples = [
        *traffic_samples(APPLICATION, host.made_traffic, 100),
        *process_samples(APPLICATION, host.transport(), process_figures(), host.service(), PeerTotals("peer")),
    ]
    return [write_sample(sample) for sample in samples]


def read(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for family in parse_openmetrics(page.decode()):
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


def value(page: bytes, name: str, **labels: str) -> float:
    if "worker" in labels:
        labels = {**dict([WHERE]), **labels}
    return read(page)[name, frozenset(labels.items())]


def show(
    *snapshots: Snapshot, own: Any = (), max_hosts: int = 100, max_samples: int = 1000
) -> tuple[Exposition, bytes]:
    exposition = Exposition(max_hosts, max_samples)
    page, kind = exposition.page(own, snapshots, OPENMETRICS)
    assert kind.startswith("application/openmetrics-text")
    return exposition, page


def test_web_and_workers_side_by_side(host: Any, association: Any) -> None:
    host.up = [association()]
    host.serve(3)
    lines = own_lines(host)
    _, page = show(
        snapshot("shop#0", *lines), snapshot("shop#1", *lines), own=traffic_samples(WEB, host.made_traffic, 100)
    )
    host_labels = {"server_name": "shop.example"}
    assert value(page, "fcgi_web_requests_total", status="2xx", **host_labels) == 3
    assert value(page, "fcgi_app_requests_total", status="2xx", worker="shop#1", **host_labels) == 3
    assert value(page, "fcgi_app_request_seconds_bucket", le="+Inf", worker="shop#0", **host_labels) == 3
    assert value(page, "fcgi_app_request_seconds_count", worker="shop#0", **host_labels) == 3
    assert value(page, "fcgi_app_associations", worker="shop#0") == 1


def test_the_plain_format(host: Any) -> None:
    host.serve()
    page, kind = Exposition(10, 100).page(traffic_samples(WEB, host.made_traffic, 10), [], PLAIN)
    assert kind.startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in parse_plain(page.decode())}
    assert families["fcgi_web_requests"].type == "counter"


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (script/setup test)"
)


def full_page(host: Any, association: Any, accept: str, *registry: str) -> bytes:
    """All that there can be, with an application's own metrics in `registry`."""
    host.up = [association()]
    host.serve(3)
    own = [
        *traffic_samples(WEB, host.made_traffic, 100),
        *process_samples(WEB, host.transport(), process_figures(), host.service(), PeerTotals("address")),
    ]
    page, _ = Exposition(100, 10_000).page(own, [snapshot("shop#0", *own_lines(host), *registry)], accept)
    return page


@needs_promtool
def test_promtool_reads_what_prometheus_gets(host: Any, association: Any, tmp_path: Path) -> None:
    """`check metrics` reads the plain format alone; what reads OpenMetrics wants a time for each sample."""
    lines = full_page(host, association, OPENMETRICS, *REGISTRY).decode().splitlines()
    timed = [line if line.startswith("#") else f"{line} 1700000000" for line in lines]

    def told(page: list[str]) -> tuple[int, str]:
        (tmp_path / "page").write_text("\n".join(page) + "\n")
        words = ["promtool", "tsdb", "create-blocks-from", "openmetrics", tmp_path / "page", tmp_path / "blocks"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stderr

    assert told(timed) == (0, "")
    assert told(timed[:-1])[0] != 0, "it misses the end"


@needs_promtool
def test_promtool_finds_nothing_to_complain_about(host: Any, association: Any) -> None:
    page = full_page(host, association, PLAIN)
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


REGISTRY = [
    write_meta("type", "orders", "counter"),
    write_meta("help", "orders", 'Orders "taken"\nand \\ so on.'),
    'shop: * orders_total{kind="a"} 1'.removeprefix("shop: "),
    '* orders_total{kind="gift \\"wrapped\\"\\n"} 2',
    write_meta("type", "basket", "histogram"),
    '* basket_bucket{le="1.0"} 1',
    '* basket_bucket{le="+Inf"} 2',
    "* basket_count 2",
    "* basket_sum 3.5",
    write_meta("type", "mood", "gauge"),
    '* mood{worker="me"} nan',
    write_meta("type", "build", "info"),
    '* build_info{version="1"} 1',
    "* untold 7",
]


def test_an_applications_own_metrics() -> None:
    exposition, page = show(snapshot("shop#0", *REGISTRY), snapshot("shop#1", *REGISTRY))
    assert value(page, "orders_total", kind='gift "wrapped"\n', worker="shop#1") == 2
    assert value(page, "basket_bucket", le="+Inf", worker="shop#0") == 2
    assert value(page, "build_info", version="1", worker="shop#0") == 1
    assert value(page, "untold", worker="shop#0") == 7
    assert ("mood", frozenset({WHERE, ("worker", "shop#0"), ("exported_worker", "me")})) in read(page)
    assert page.count(b"# TYPE orders counter") == 1
    assert exposition.omitted == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("* fcgi_web_requests_folded_total 5", "unknown"),
        ("* fcgi_metrics_workers 5", "unknown"),
        ("* fcgi_app_unheard_of 5", "unknown"),
        ("shop.example fcgi_app_associations 5", "unknown"),
        ('* fcgi_app_associations{worker="other"} 5', "unknown"),
        ("shop.example fcgi_app_request_seconds 5", "unknown"),
        ("shop.example orders_total 5", "unknown"),
        ("* x 0.5=1,+Inf=1,sum=1", "unknown"),
        ("* basket 5", "unknown"),
        ("* basket_bucket 5", "malformed"),
        ('* x{__name__="y"} 5', "malformed"),
        ("!!", "malformed"),
        ("* untold 8", "twice"),
    ],
)
def test_samples_that_do_not_fit_are_left_out(line: str, reason: str) -> None:
    good = read(show(snapshot("shop#0", *REGISTRY))[1])
    exposition, page = show(snapshot("shop#0", *REGISTRY, line))
    assert exposition.omitted == {reason: 1}
    assert str(read(page)) == str(good)


def test_two_applications_that_disagree() -> None:
    counter = [write_meta("type", "x", "counter"), "* x_total 1"]
    gauge = [write_meta("type", "x_total", "gauge"), "* x_total 2"]
    exposition, page = show(snapshot("a", *counter), snapshot("b", *gauge))
    assert value(page, "x_total", worker="a") == 1
    assert ("x_total", frozenset({WHERE, ("worker", "b")})) not in read(page)
    assert exposition.omitted == {"conflict": 1}


def test_too_many_samples() -> None:
    lines = [f'* x{{n="{number}"}} 1' for number in range(150)]
    exposition, page = show(snapshot("a", *lines), max_samples=100)
    assert len(read(page)) == 100
    assert exposition.omitted == {"too many": 50}


def test_hosts_of_all_workers_have_one_limit() -> None:
    lines = [f"host{number} fcgi_app_sent_bytes_total {number}" for number in range(5)]
    lines += [f"host{number} fcgi_app_request_seconds 1.0=1,+Inf=2,sum=0.5" for number in range(5)]
    exposition, page = show(snapshot("a", *lines), snapshot("b", *lines), max_hosts=2)
    assert value(page, "fcgi_app_sent_bytes_total", server_name="host1", worker="b") == 1
    assert value(page, "fcgi_app_sent_bytes_total", server_name="other", worker="b") == 2 + 3 + 4
    assert value(page, "fcgi_app_request_seconds_count", server_name="other", worker="a") == 6
    assert exposition.hosts_folded == 3


def test_forged_hosts_are_made_safe() -> None:
    lines = ['Shop"}{ fcgi_app_sent_bytes_total 5', "other fcgi_app_sent_bytes_total 6"]
    _, page = show(snapshot("a", *lines))
    assert value(page, "fcgi_app_sent_bytes_total", server_name="shop___", worker="a") == 5
    assert value(page, "fcgi_app_sent_bytes_total", server_name="other", worker="a") == 6


def test_a_snapshot_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    exposition = Exposition(10, 10)
    one = snapshot("a", "* x 1")
    exposition.page((), [one], PLAIN)
    monkeypatch.setattr("fcgi_metrics.exposition.parse", lambda part: pytest.fail("parsed again"))
    assert b'x{address="here:1",worker="a"} 1.0' in exposition.page((), [one], PLAIN)[0]


def test_a_new_snapshot_replaces_the_old() -> None:
    exposition = Exposition(10, 10)
    exposition.page((), [snapshot("a", "* x 1", "* y 1")], PLAIN)
    page, _ = exposition.page((), [snapshot("a", "* x 2", number=2)], PLAIN)
    assert b'x{address="here:1",worker="a"} 2.0' in page
    assert b"y{" not in page


NUMBERS = st.sampled_from(["0", "1", "2", "3", "2.5", "-1", "nan", "inf", "-inf", "1e999", "1e308"])
LABELS = st.dictionaries(
    st.sampled_from(["le", "quantile", "a", "x", "worker"]),
    st.sampled_from(["0.5", "1", "1.0", "2.0", "-1.0", "+Inf", "inf", "nan", "1_0", " 1", "", "b"]),
    max_size=2,
)
KINDS = st.sampled_from(["counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset", "unknown"])
SUFFIXES = st.sampled_from(["", "_total", "_bucket", "_sum", "_count", "_gsum", "_gcount", "_info", "_created"])


@st.composite
def series(draw: st.DrawFn) -> str:
    """A line about one of two families: nearly right, or not at all."""
    name = draw(st.sampled_from(["x", "y"]))
    if draw(st.booleans()):
        return write_meta("type", name, draw(KINDS))
    labels = ",".join(f'{key}="{text}"' for key, text in draw(LABELS).items())
    return f"* {name}{draw(SUFFIXES)}{{{labels}}} {draw(NUMBERS)}"


@st.composite
def own_series(draw: st.DrawFn) -> str:
    host, number = draw(st.sampled_from(["*", "a.test", "b.test", "c.test"])), draw(NUMBERS)
    bounds = draw(st.sampled_from(["1.0=1,+Inf=2", "1_0=1,+Inf=2", "1=1,2.0=1,+Inf=1", "nan=1,+Inf=1"]))
    value = draw(st.sampled_from([number, f"{bounds},sum={number}"]))
    name = draw(st.sampled_from(["sent_bytes_total", "requests_in_flight", "request_seconds", "associations"]))
    return f"{host} fcgi_app_{name} {value}"


@settings(max_examples=300)
@example([["* x_gsum{} 0"], ["* x{} 0", "* # type x gaugehistogram", "* x_gsum{} 0"]], "")
@given(
    st.lists(st.lists(st.text() | st.sampled_from(REGISTRY) | series() | own_series(), max_size=30), max_size=3),
    st.text(max_size=20),
)
def test_any_snapshots_give_a_page_that_can_be_read(snapshots: list[list[str]], worker: str) -> None:
    made = [
        Snapshot((WHERE, ("worker", f"{worker}{number}")), 1, ("\n".join(["", *lines]).encode("utf-8", "replace"),))
        for number, lines in enumerate(snapshots)
    ]
    for accept, parser in ((OPENMETRICS, parse_openmetrics), (PLAIN, parse_plain)):
        exposition = Exposition(2, 100)
        page, _ = exposition.page([Sample("*", "fcgi_metrics_workers", (), 1)], made, accept)
        text = page.decode()
        assert any(family.name == "fcgi_metrics_workers" for family in parse_plain(text))
        assert list(parser(text))
        reports = Statsd(("127.0.0.1", 9))
        for _ in range(2):
            lines = list(reports.lines(exposition.samples((), made)))
            assert all(re.fullmatch(r"[\w.-]+:[0-9.]+\|[cg]", line) for line in lines)
        reports.close()


@pytest.mark.parametrize(
    "line",
    [
        "* orders_total -1",
        "* orders_total nan",
        '* basket_bucket{le="0.5"} 3',
        '* basket_count{of="a"} 2.5',
        '* basket_bucket{le="nan"} 1',
        '* build_info{version="2"} 2',
        "* fcgi_app_associations -1",
        "* fcgi_app_associations nan",
        "shop.example fcgi_app_request_seconds 0.5=1,+Inf=1,sum=-1",
        "shop.example fcgi_app_sent_bytes_total inf",
    ],
)
def test_samples_that_would_invalidate_the_page_are_left_out_and_counted(line: str) -> None:
    exposition, page = show(snapshot("bad", *REGISTRY[:2], *REGISTRY[4:], line), snapshot("good", *REGISTRY))
    assert list(parse_openmetrics(page.decode()))
    assert exposition.omitted["malformed"] >= 1
    assert value(page, "orders_total", kind="a", worker="good") == 1
    assert value(page, "basket_count", worker="good") == 2


def test_groups_that_come_by_turns_are_put_together() -> None:
    lines = [write_meta("type", "x", "histogram")]
    for part in ('x_bucket{k="K",le="1.0"} 1', 'x_bucket{k="K",le="+Inf"} 2', 'x_count{k="K"} 2', 'x_sum{k="K"} 3'):
        lines += [f"* {part.replace('K', kind)}" for kind in ("a", "b")]
    exposition, page = show(snapshot("a", *lines))
    assert value(page, "x_count", k="b", worker="a") == 2
    assert exposition.omitted == {}


def test_exemplars_are_shown_to_who_reads_openmetrics(host: Any) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    params = encode_pairs({"HTTP_TRACEPARENT": f"00-{trace}-00f067aa0ba902b7-01"})
    host.serve(duration=0.3, raw_params=params)
    own = list(traffic_samples(WEB, host.made_traffic, 100))
    page, _ = Exposition(100, 1000).page(own, (), OPENMETRICS)
    found = [
        (sample.labels["le"], sample.exemplar.labels, sample.exemplar.value)
        for family in parse_openmetrics(page.decode())
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert found == [("0.5", {"trace_id": trace}, 0.3)]
    page, _ = Exposition(100, 1000).page(own, (), PLAIN)
    assert trace.encode() not in page
    assert list(parse_plain(page.decode()))
