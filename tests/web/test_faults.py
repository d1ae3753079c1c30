"""The web side's own faults in the live feed."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.web import service as service_module
from fcgi_core.web.feed import Feed
from tests.app.harness import until
from tests.web.harness import (
    break_off,
    break_the_protocol,
    hang,
    is_over,
    run,
    running,
)


def told(feed: Feed, said: str) -> dict[str, Any] | None:
    """The first entry of a feed that says so."""
    entries = [json.loads(feed.line(number)) for number in range(feed.first, feed.next)]
    return next((entry for entry in entries if said in entry["message"]), None)


def test_faults_of_requests_are_in_the_live_feed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(service_module, "SWEEP", 0.01)

    async def body() -> None:
        feed = Feed(tmp_path / "feed.sock")
        async with running(break_off, feed=feed, request_timeout=0.05) as bench:
            (application,) = bench.applications
            assert b"502" in await bench.ask()
            assert told(feed, "the answer broke off; answered 502") is not None
            application.does = break_the_protocol
            await bench.ask()
            assert told(feed, "does not accept") is not None
            application.does = hang
            assert b"504" in await bench.ask()
            entry = told(feed, "answered 504")
            assert entry is not None
            assert (entry["severity"], entry["server_name"], entry["application"]) == (3, "shop.example", "fcgi-sctp")
            assert entry["request"] in entry["message"]

    run(body)


def test_an_application_that_is_down_is_in_the_live_feed(tmp_path: Path) -> None:
    async def body() -> None:
        feed = Feed(tmp_path / "feed.sock")
        async with running(hang, feed=feed) as bench:
            wire = bench.begin("POST", b"x")
            await until(lambda: bench.applications[0].requests, "it has come")
            bench.service.upstreams[0].driver.abort("on purpose")
            await until(lambda: is_over(wire), "it is given up")
            entry = told(feed, "is down: ")
            assert entry is not None
            assert entry["message"].endswith("on purpose; requests lost: 1")
            assert entry["severity"] == 4
            thread = threading.Thread(target=service_module.log.warning, args=("from a thread",))
            thread.start()
            await until(lambda: told(feed, "from a thread"), "any thread may log")
            thread.join()
        service_module.log.warning("afterwards")
        assert told(feed, "afterwards") is None

    run(body)
