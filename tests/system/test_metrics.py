"""The metrics plugin on the whole road: nginx, both sides, and Debian's Prometheus, which scrapes the web side."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.stack import Stack, free_port, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (script/setup test)")


@pytest.fixture
def port() -> int:
    return free_port()


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def figure(port: int, series: str) -> float | None:
    for line in page(port).split("\n"):
        if line.startswith(series + " "):
            return float(line.rpartition(" ")[2])
    return None


def shows(port: int, series: str, value: float) -> None:
    wait_until(lambda: figure(port, series) == value, f"{series} {value}")


def start_metered(start: Callable[..., Stack], port: int) -> Stack:
    return start(
        "metered:application", app={"name": "shop"}, plugins={"metrics": {"listen": f"127.0.0.1:{port}", "interval": 1}}
    )


def test_both_sides_count_the_same_requests(start: Callable[..., Stack], port: int) -> None:
    stack = start_metered(start, port)
    for _ in range(5):
        assert stack.ask("/").status == 200
    assert stack.ask("/broken", "POST", b"x" * 1000, host="blog.example").status == 503
    assert figure(port, 'fcgi_web_requests_total{server_name="shop.example",status="2xx"}') == 5
    assert figure(port, 'fcgi_web_received_bytes_total{server_name="blog.example"}') == 1000
    shows(
        port,
        f'fcgi_app_requests_total{{address="{stack.addresses[0]}",server_name="shop.example",status="2xx",worker="shop"}}',
        5,
    )
    shows(
        port,
        f'fcgi_app_requests_total{{address="{stack.addresses[0]}",server_name="blog.example",status="5xx",worker="shop"}}',
        1,
    )
    shows(port, f'orders_total{{address="{stack.addresses[0]}",kind="gift \\"wrapped\\"",worker="shop"}}', 6)
    labels = f'address="{stack.addresses[0]}",server_name="shop.example",worker="shop"'
    assert figure(port, f"fcgi_app_queue_seconds_count{{{labels}}}") == 5
    assert figure(port, f"fcgi_app_request_seconds_count{{{labels}}}") == 5
    assert figure(port, f"fcgi_app_requests_in_flight{{{labels}}}") == 0
    for worker, side in (("", "web"), (f'{{address="{stack.addresses[0]}",worker="shop"}}', "app")):
        memory = figure(port, f"fcgi_{side}_process_resident_memory_bytes{worker}")
        assert memory is not None
        assert memory > 1 << 23
    peer = f'address="{stack.addresses[0]}"'
    round_trip = figure(port, f"fcgi_web_association_round_trip_seconds{{{peer}}}")
    assert round_trip is not None
    assert 0 <= round_trip < 1


def test_the_last_figures_of_a_process_stay_for_a_while(start: Callable[..., Stack], port: int) -> None:
    stack = start_metered(start, port)
    assert stack.ask("/").status == 200
    assert stack.app.stop() == 0
    shows(port, f'fcgi_metrics_worker_up{{address="{stack.addresses[0]}",worker="shop"}}', 0)
    assert (
        figure(
            port,
            f'fcgi_app_requests_total{{address="{stack.addresses[0]}",server_name="shop.example",status="2xx",worker="shop"}}',
        )
        == 1
    )
    stack.apps[0] = stack.start_app()
    shows(port, f'fcgi_metrics_worker_up{{address="{stack.addresses[0]}",worker="shop"}}', 1)
    assert stack.ask("/").status == 200
    shows(port, f'orders_total{{address="{stack.addresses[0]}",kind="gift \\"wrapped\\"",worker="shop"}}', 1)


def test_workers_need_no_shared_directory(start: Callable[..., Stack], port: int) -> None:
    metrics = {"listen": f"127.0.0.1:{port}", "interval": 1}
    stack = start("metered:application", app={"name": "shop", "workers": 2}, plugins={"metrics": metrics})
    for worker in ("shop#0", "shop#1"):
        shows(port, f'fcgi_metrics_worker_up{{address="{stack.addresses[0]}",worker="{worker}"}}', 1)
    with ThreadPoolExecutor(8) as pool:
        assert {answer.status for answer in pool.map(lambda _: stack.ask("/"), range(100))} == {200}

    def orders() -> list[float]:
        lines = [line for line in page(port).split("\n") if line.startswith("orders_total{")]
        return [float(line.rpartition(" ")[2]) for line in lines]

    wait_until(lambda: sum(orders()) == 100, "both workers have told all")
    assert len(orders()) == 2


def test_a_request_that_no_application_accepts_is_counted(start: Callable[..., Stack], port: int) -> None:
    stack = start("metered:application", web={"queue_timeout": 0}, plugins={"metrics": {"listen": f"127.0.0.1:{port}"}})
    assert stack.app.stop() == 0
    wait_until(lambda: stack.ask("/").status in (502, 503), "no application is there")
    before = figure(port, 'fcgi_web_requests_failed_total{server_name="shop.example"}')
    assert before
    assert stack.ask("/").status in (502, 503)
    assert figure(port, 'fcgi_web_requests_failed_total{server_name="shop.example"}') == before + 1


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (script/setup test)")
def test_promtool_is_content(start: Callable[..., Stack], port: int) -> None:
    stack = start("applications:plain", plugins={"metrics": {"listen": f"127.0.0.1:{port}", "interval": 1}})
    stack.ask("/hello")
    labels = f'address="{stack.addresses[0]}",server_name="shop.example",status="2xx",worker="applications:plain"'
    series = f"fcgi_app_requests_total{{{labels}}}"
    shows(port, series, 1)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page(port), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Prometheus:
    """Debian's, scraping one page each second, with the alerts of examples/prometheus."""

    def __init__(self, stack: Stack, target: int) -> None:
        self._port = free_port()
        scrape = {
            "job_name": "fcgi-sctp",
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
            "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
        }
        configuration = stack.folder / "prometheus.yml"
        configuration.write_text(
            yaml.safe_dump(
                {
                    "global": {"evaluation_interval": "1s"},
                    "rule_files": [str(EXAMPLES / "prometheus" / "fcgi-sctp.rules.yml")],
                    "scrape_configs": [scrape],
                }
            )
        )
        assert PROMETHEUS is not None
        self.program = stack.run(
            "prometheus",
            PROMETHEUS,
            f"--config.file={configuration}",
            "--enable-feature=exemplar-storage",
            f"--storage.tsdb.path={stack.folder}/tsdb",
            f"--web.listen-address=127.0.0.1:{self._port}",
        )

    def ask(self, path: str, **query: str) -> Any:
        """What its API answers; None while it does not listen."""
        try:
            url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.URLError:
            assert self.program.running, self.program.text
            return None

    def query(self, query: str) -> list[float]:
        """The values of a query's result."""
        found = self.ask("query", query=query)
        return [] if found is None else [float(one["value"][1]) for one in found["result"]]


@needs_prometheus
def test_prometheus_scrapes_it(start: Callable[..., Stack], port: int) -> None:
    stack = start_metered(start, port)
    for _ in range(6):
        stack.ask("/")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    stack.ask("/slow", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    prometheus = Prometheus(stack, port)
    wait_until(lambda: prometheus.query('up{job="fcgi-sctp"}') == [1], "Prometheus has scraped", 30)
    wait_until(
        lambda: prometheus.query('sum(fcgi_app_requests_total{server_name="shop.example"})') == [7],
        "the application's figures",
    )
    assert prometheus.query(
        f'orders_total{{address="{stack.addresses[0]}",kind="gift \\"wrapped\\"",worker="shop"}}'
    ) == [7]
    assert prometheus.query("histogram_quantile(1, fcgi_web_request_seconds_bucket)")[0] > 0
    now = time.time()
    found = prometheus.ask(
        "query_exemplars", query="fcgi_web_request_seconds_bucket", start=str(now - 600), end=str(now + 600)
    )
    assert [one["labels"] for series in found for one in series["exemplars"]] == [{"trace_id": trace}]
    metadata = prometheus.ask("metadata", metric="fcgi_web_request_seconds")["fcgi_web_request_seconds"][0]
    assert (metadata["type"], metadata["help"]) == ("histogram", "Time from a request's first record to its end.")
    targets = prometheus.ask("targets")["activeTargets"]
    assert [target["lastError"] for target in targets] == [""]
    assert prometheus.program.stop() == 0


def dashboard_queries() -> set[str]:
    dashboard = json.loads((EXAMPLES / "grafana" / "fcgi-sctp.json").read_text())
    queries = {target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])}
    variables = {"$server_name": ".*", "$address": ".*", "$worker": ".*", "$__rate_interval": "30s"}
    for name, text in variables.items():
        queries = {query.replace(name, text) for query in queries}
    return queries


@needs_prometheus
def test_the_dashboard_shows_data_and_alerts_are_evaluated(
    start: Callable[..., Stack], port: int, tmp_path: Path
) -> None:
    plugins = {
        "metrics": {"listen": f"127.0.0.1:{port}", "interval": 1},
        "syslog": {"outputs": [{"file": f"{tmp_path}/lines"}]},
    }
    stack = start("metered:application", app={"name": "shop"}, plugins=plugins)
    prometheus = Prometheus(stack, port)
    wait_until(lambda: prometheus.query('up{job="fcgi-sctp"}') == [1], "Prometheus has scraped", 30)
    # the userspace carrier does not count retransmissions
    missing = {query for query in dashboard_queries() if "_retransmissions_total" not in query}
    assert len(missing) > 50

    def all_show_data() -> bool:
        stack.ask("/", "POST", b"x" * 100)
        stack.ask("/broken")
        missing.difference_update([query for query in missing if prometheus.query(query)])
        return not missing

    try:
        wait_until(all_show_data, "data for every query", 60)
    except AssertionError:
        raise AssertionError(f"no data for {missing}") from None
    rules = prometheus.ask("rules")["groups"][0]["rules"]
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] == "err"] == []
    assert stack.app.stop() == 0
    pending = 'ALERTS{alertname="FcgiNoApplication",alertstate="pending"}'
    wait_until(lambda: prometheus.query(pending) == [1], "the alert of an application that is away", 30)
    assert prometheus.program.stop() == 0


def health(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_ready_while_an_application_is_there(start: Callable[..., Stack], port: int) -> None:
    application_port = free_port()
    metrics = {"listen": f"127.0.0.1:{port}", "health": f"127.0.0.1:{application_port}"}
    stack = start("metered:application", app={"name": "shop", "workers": 2}, plugins={"metrics": metrics})
    wait_until(lambda: health(port, "/ready") == (200, "ready\n"), "the web side is ready")
    assert health(application_port, "/ready") == (200, "ready\n")
    assert stack.app.stop() == 0
    wait_until(lambda: health(port, "/ready")[0] == 503, "the web side is not ready any more")
    assert health(port, "/ready")[1].startswith("not ready: no application is up, of ")
    assert health(port, "/healthz") == (200, "alive\n")
