"""Two sites behind one web side and a real nginx, an application each: what happens to one is nothing to the other."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.system.load import Load
from tests.system.stack import COMMAND, free_port, wait_until
from tests.system.test_succession import Successive

SERVER = """
    server {{
        listen 127.0.0.1:{port};
        server_name {name};
        location / {{ fastcgi_pass {to}; }}
    }}
"""


class Sited(Successive):
    """shop.example and blog.example each have an application; other.example has none."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, endpoints=2, **named)
        del self._web["connect"]
        limits = {"queue_length": 2, "queue_timeout": "200ms", "request_timeout": "2s"}
        self.sites: dict[str, Any] = {
            "shop": {"server_name": "shop.example", "connect": self.addresses[0], **limits},
            "blog": {"server_name": ["blog.example", "*.blog.example"], "connect": self.addresses[1]},
            "docs": {"listen": f"unix:{self.folder}/docs.sock", "connect": self.addresses[1]},
        }
        self._web["sites"] = self.sites
        self._nginx_lines = SERVER.format(port=self.port, name="other.example", to="applications")
        self._nginx_lines += SERVER.format(port=self.port, name="docs.example", to=f"unix:{self.folder}/docs.sock")

    def site(self, name: str) -> dict[str, Any]:
        """What `fcgi-sctp status` tells of a site and its only application."""
        status = self.status()
        (upstream,) = (one for one in status["upstreams"] if one["site"] == name)
        return upstream | next(one for one in status["sites"] if one["name"] == name)

    def read_again(self) -> None:
        reloads = self.web.text.count("configuration reloaded")
        self.write("web", {"web": self._web, **self._common})
        self.web.send(signal.SIGHUP)
        wait_until(lambda: self.web.text.count("configuration reloaded") > reloads, "it is read")


class BlogLoad(Load):
    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            self.seen[self._stack.ask("/", host="blog.example").status] += 1

    def goes_on(self, count: int = 50) -> None:
        before = self.seen[200]
        wait_until(lambda: self.seen[200] > before + count, "the blog's requests are answered")


@pytest.fixture
def metrics() -> int:
    return free_port()


@pytest.fixture
def sited(start: Callable[..., Sited], metrics: int) -> Sited:
    plugins = {"metrics": {"listen": f"127.0.0.1:{metrics}"}}
    stack = start("hanging_applications:wsgi", kind=Sited, app={"threads": 4}, plugins=plugins)
    wait_until(lambda: {one["state"] for one in stack.status()["upstreams"]} == {"up"}, "all are up")
    return stack


def test_an_application_that_hangs_is_overloaded_or_dead_harms_no_other_site(sited: Sited) -> None:
    with BlogLoad(sited, 4) as load, ThreadPoolExecutor(24) as pool:
        load.goes_on()
        hung = [pool.submit(sited.ask, "/hang") for _ in range(24)]
        load.goes_on()
        seen = Counter(one.result(60).status for one in hung)
        assert seen[504] >= 4, "those that the application had"
        assert set(seen) <= {503, 504}
        assert sited.site("shop")["unserved"]["request_timeout"] >= 4
        load.goes_on()
        sited.app.kill()
        wait_until(lambda: sited.site("shop")["state"] == "down", "it is away")
        assert {sited.ask("/").status for _ in range(10)} <= {502, 503}
        load.goes_on()
    assert set(load.seen) == {200}
    assert not any(sited.site("blog")["unserved"].values())
    assert re.search(rf"fcgi_sctp\.web\.shop: association \d with {sited.addresses[0]} is down", sited.web.text)
    (line, *_) = sited.lines_with("answered 504")
    assert (line["server_name"], line["fields"]) == ("shop.example", {"site": "shop"})


def test_sites_are_told_apart(sited: Sited, metrics: int) -> None:
    first, second = sited.addresses
    for host, status in (("shop.example", 200), ("blog.example", 200), ("docs.example", 200), ("other.example", 421)):
        assert sited.ask("/", host=host).status == status, host
    assert "no site at" in sited.web.text
    assert {name: sited.site(name)["requests"] for name in sited.sites} == {"shop": 1, "blog": 1, "docs": 1}
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    for series in (
        f'application_requests_total{{address="{first}",site="shop"}} 1.0',
        f'application_requests_total{{address="{second}",site="blog"}} 1.0',
        f'application_requests_total{{address="{second}",site="docs"}} 1.0',
        'requests_unserved_total{reason="unknown_site"} 1.0',
        'site_ready{site="shop"} 1.0',
    ):
        assert f"\nfcgi_web_{series}\n" in page, series

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        command = (COMMAND, *command, "--admin", f"{sited.folder}/web.admin")
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    text = run("status").stdout
    assert "  site shop: 0 requests in flight, 0 waiting, 1 ended\n" in text
    assert "  1 requests were for no site and got 421\n" in text
    drained = run("drain", second)
    assert "site blog: " in drained.stdout
    assert "site docs: " in drained.stdout
    assert [sited.site(name)["state"] for name in sited.sites] == ["up", "drained", "drained"]
    assert run("undrain", second, "--site", "docs").returncode == 0
    assert [sited.site(name)["state"] for name in sited.sites] == ["up", "drained", "up"]
    assert "no site 'x' is known" in run("drain", second, "--site", "x").stderr
    (answered,) = json.loads(run("drain", first, "-o", "json").stdout)
    assert [one["site"] for one in answered["sites"]] == ["shop"]
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/ready", timeout=10) as answer:
        lacking = "".join(f"site {name}: no application is up, of 1\n" for name in ("blog", "shop"))
        assert answer.read().decode() == f"ready\n{lacking}"
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://127.0.0.1:{metrics}/ready?site=shop", timeout=10)


def test_sites_come_and_go_without_a_lost_request(sited: Sited) -> None:
    with BlogLoad(sited, 4) as load:
        load.goes_on()
        sited.sites["other"] = {"server_name": "other.example", "connect": sited.addresses[0]}
        del sited.sites["shop"]
        sited.read_again()
        wait_until(lambda: sited.ask("/", host="other.example").status == 200, "the new site answers")
        assert sited.ask("/").status == 421
        sited.sites["blog"]["connect"] = sited.addresses[0]
        sited.read_again()
        wait_until(lambda: sited.site("blog")["address"] == sited.addresses[0], "it has the other application")
        load.goes_on()
        assert "need a restart" not in sited.web.text
        sited.sites["more"] = {"listen": f"unix:{sited.folder}/more.sock", "connect": sited.addresses[0]}
        sited.read_again()
        sited.web.says("these options have changed in the file and need a restart: web.sites.more")
        sited.reload()
        assert (sited.folder / "more.sock").exists(), "the next process has the new socket"
        load.goes_on()
        assert sited.ask("/", host="docs.example").status == 200
    assert set(load.seen) == {200}
