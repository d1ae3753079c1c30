"""What holds the bench: docs/performance.md shows what was measured, with the tables that script/bench writes from
docs/measurements; the alternatives, targets and tables name each other rightly; the real services can be measured."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from bench import document, report
from bench.measure import Turn
from bench.streams import app_service, loads, web_service
from bench.streams.alternatives import SERVICES
from bench.streams.loads import LOADS, summary
from bench.streams.measurement import Cell, quantiles
from bench.streams.scenarios import SCENARIOS, Extent, UnknownAlternative, cells
from bench.streams.tables import COLUMNS, grouped, of_runs, shown_pool
from bench.streams.targets import TARGETS, pooled, ratios
from fcgi_core.sctp.carrier import Address

PAGE = (document.DOCS / "performance.md").read_text()
MARKED = [(found[2], found[0]) for found in document.MARKED.finditer(PAGE)]


def test_every_table_has_its_place() -> None:
    assert sorted(name for name, _ in MARKED) == sorted([*document.TABLES, "conditions"])


@pytest.mark.parametrize(("name", "shown"), MARKED)
def test_no_figure_was_put_in_by_hand(name: str, shown: str) -> None:
    assert shown == f"<!-- table {name} -->\n{document.table(name)}<!-- end -->"


# ---- what is measured


def measured(name: str) -> set[str]:
    """The names of a scenario's rows."""
    return {("(guest) " if one.alternative.guest else "") + one.alternative.name for one in cells(name, Extent())}


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_has_a_load_columns_and_rows_that_differ(name: str) -> None:
    found = cells(name, Extent())
    assert name in LOADS
    assert name in COLUMNS
    places = [(one.alternative.name, one.alternative.guest, one.route.loss, one.run, str(one.load)) for one in found]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("name", TARGETS)
def test_what_sctp_is_held_against_is_measured_here_and_in_the_guest(name: str) -> None:
    rivals = {target.rival for target in TARGETS[name] if target.rival}
    assert rivals | {f"(guest) {rival}" for rival in rivals} <= measured(name)


def test_the_document_names_alternatives_that_are_measured() -> None:
    assert set(document.ALERTS) <= measured("alerts")
    plans = measured("plans")
    assert {f"userspace {name}" for name in (*document.PLANS, *document.SCHEDULERS)} <= plans
    assert {f"kernel {name}" for name in (*document.PLANS, *document.SCHEDULERS)} <= plans


def test_few_cells_are_measured_when_they_are_named() -> None:
    some = cells("requests", Extent(names=("tcp, 6 c*s", "userspace, auto"), losses=(2.0,), runs=2, guest_runs=0))
    assert [(one.alternative.name, one.run) for one in some] == [
        (name, run) for run in range(2) for name in ("tcp, 6 connections", "userspace, auto")
    ]
    assert {one.route.loss for one in some} == {2.0}


def test_an_alternative_that_is_not_known_is_an_error() -> None:
    with pytest.raises(UnknownAlternative, match=r"no alternative 'carrier pigeon'.*userspace, auto"):
        cells("alerts", Extent(names=("carrier pigeon",)))


# ---- what is made of it


def run_of(values: list[float], **more: object) -> dict[str, Any]:
    return {"short": {"whole": quantiles(values)}, **more}


def test_a_percentile_of_all_runs_weighs_each_by_its_requests() -> None:
    many, few = run_of([1.0] * 900), run_of([9.0] * 100)
    assert pooled([many, few], "short/whole/p50") == 1.0
    assert pooled([many, few], "short/whole/p99") == 9.0
    assert pooled([few, few, many], "short/whole/p90") == 9.0
    assert pooled([], "short/whole/p50") is None


def test_other_figures_of_all_runs_are_means() -> None:
    assert pooled([{"goodput": 100.0}, {"goodput": 300.0}], "goodput") == 200.0


def test_a_cell_shows_how_the_runs_differ() -> None:
    runs = [run_of([1.0], goodput=220e3), run_of([3.0], goodput=500e3)]
    assert of_runs(runs, "goodput", 1e-3) == "360 [220-500]"
    assert of_runs(runs[:1], "goodput", 1e-3) == "220"
    assert of_runs(runs, "alerts/p50", 1e3) == "-"


def test_a_cell_shows_how_many_associations_there_were() -> None:
    grown = [{"pool": {"most": 6, "last": 6, "grew": 1.25}}, {"pool": {"most": 4, "last": 4, "grew": 0.5}}]
    assert shown_pool(grown) == "4-6 in 1.2 s"
    assert shown_pool([{"pool": {"most": 1, "last": 1, "grew": 0.0}}]) == "1"
    assert shown_pool([{}]) == "-"


def test_sctp_in_the_guest_is_held_against_tcp_in_the_guest() -> None:
    def cell(name: str, guest: bool, short: float) -> dict[str, Any]:
        return {
            "alternative": {"name": name, "guest": guest},
            "route": {"loss": 2.0},
            "load": {},
            "result": run_of([short]),
        }

    some = [
        cell("tcp, 6 connections", False, 1.0),
        cell("tcp, 6 connections", True, 4.0),
        cell("userspace, auto", False, 2.0),
        cell("kernel, auto", False, 2.0),
    ]
    groups = grouped({"cells": some})
    assert ratios("requests", groups, 2.0, "userspace, auto")[0] == 2.0
    assert ratios("requests", groups, 2.0, "kernel, auto")[0] == 0.5
    assert ratios("requests", groups, 2.0, "kernel, auto")[1] is None  # no long ones


def turn(rate: float, cost: float) -> Turn:
    return Turn(
        requests=1,
        seconds=1.0,
        requests_per_second=rate,
        p50_us=1.0,
        p99_us=1.0,
        max_us=1.0,
        connections_served=1,
        cpu_us={"app": cost, "wrk": 1000.0},
        rss_before={},
        rss_after={},
        errors={},
        nginx_errors=0,
        first_nginx_error="",
        others_cpu_percent=0.0,
    )


def test_servers_are_compared_within_each_round_that_both_have() -> None:
    mine = {1: turn(100, 10), 2: turn(30, 20), 3: turn(1, 1)}
    others = {1: turn(50, 20), 2: turn(40, 10), 4: turn(1, 1)}
    found = report.pairs(mine, others)
    assert found["rounds"] == 2
    assert found["requests_per_second"] == {"median": 1.375, "min": 0.75, "max": 2.0, "better": 1}
    assert found["server_cpu_us_per_request"] == {"median": 1.25, "min": 0.5, "max": 2.0, "better": 1}
    assert report.pairs(mine, {}) == {"rounds": 0}


# ---- the real services, over the loopback


def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "QUIET", 0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        udp = probe.getsockname()[1]
    for module in (app_service, web_service):
        monkeypatch.setattr(module, "app_address", lambda lane: Address(("127.0.0.1",), 9000, udp))


async def both_sides(cell: Cell) -> dict[str, Any]:
    ready = asyncio.Event()
    serving = asyncio.ensure_future(app_service.serve_with_service(cell, ready.set, orderly=True))
    await ready.wait()
    web = await web_service.ask_service(cell, LOADS[cell.scenario], orderly=True)
    return summary(cell, await serving, web)


ONE = next(one for one in SERVICES if one.name == "userspace, 1 association")


def test_requests_pass_through_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback(monkeypatch)
    load = {"short": 4, "long": 2, "short_bytes": 5000, "long_bytes": 300_000, "warm_up_bytes": 10}
    found = asyncio.run(both_sides(Cell("requests", ONE, seconds=0.0, warm_up=0.01, load=load)))
    assert {kind: (found[kind]["asked"], found[kind]["ended"]) for kind in ("short", "long")} == {
        "short": (4, 4),
        "long": (2, 2),
    }
    assert found["warm_up"]["ended"] >= 6
    assert found["long"]["whole"]["count"] == 2
    assert {**found["pool"], "dealt": len(found["pool"]["dealt"])} == {"most": 1, "last": 1, "grew": 0.0, "dealt": 1}
    assert not found["down"]


@pytest.mark.parametrize("way", ["plugin", "request"])
def test_alerts_pass_through_the_plugin(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    loopback(monkeypatch)
    # not beside endless answers: on the loopback, with both sides in a process, nothing would slow them
    load = {"rate": 50, "service": 1, "bytes": 100, "body": 10}
    cell = Cell("flood", replace(ONE, alerts=way), seconds=0.1, warm_up=0.0, load=load)
    found = asyncio.run(both_sides(cell))
    assert found["alerts"]["sent"] > 1
    assert found["alerts"]["lost"] == 0


def test_a_request_that_is_refused_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback(monkeypatch)
    load = {"rate": 1000, "service": 20, "bytes": 100, "body": 10, "queue": 1}
    cell = Cell("flood", ONE, seconds=0.1, warm_up=0.0, max_requests=1, load=load)
    found = asyncio.run(both_sides(cell))
    assert 0 < found["flood"]["ended"] <= found["flood"]["asked"] < 100


FROM_SOURCE = """
import asyncio, sys
import bench.streams.runner
from bench.streams.alternatives import QUEUES
from bench.streams.source import again_from_source
rule = next(one for one in QUEUES if one.name == "userspace, cwnd")
make, rule = again_from_source("bench.streams.ends", "make_carrier", rule)
from fcgi_core.sctp.userspace import association, stack
for module in (association, stack):
    assert module.__file__.endswith(".py"), module
own = association.UserspaceAssociation.room
async def main():
    make(rule).close()
asyncio.run(main())
assert association.UserspaceAssociation.room is not own
"""


def test_the_experiment_with_queues_runs_from_source_whatever_is_built() -> None:
    subprocess.run([sys.executable, "-c", FROM_SOURCE], check=True, cwd=document.ROOT)
