"""Applications are added, removed and drained while requests run: no request is lost."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.system.load import Load
from tests.system.stack import COMMAND, Stack, wait_until


@pytest.fixture
def two(start: Callable[..., Stack]) -> Stack:
    stack = start(application="applications:plain", endpoints=2)
    wait_until(lambda: [one["state"] for one in stack.status()["upstreams"]] == ["up", "up"], "both are up")
    return stack


def connect_to(stack: Stack, addresses: Sequence[Any]) -> None:
    """Change the file of the web side, and let it read it again."""
    reloads = stack.web.text.count("configuration reloaded")
    stack.write("web", {"web": {**stack._web, "connect": list(addresses)}, **stack._common})
    stack.web.send(signal.SIGHUP)
    wait_until(lambda: stack.web.text.count("configuration reloaded") > reloads, "it is read")
    assert "need a restart" not in stack.web.text


def states(stack: Stack) -> dict[str, str]:
    return {one["address"]: one["state"] for one in stack.status()["upstreams"]}


def sent(stack: Stack, address: str) -> int:
    return next(int(one["requests"]) for one in stack.status()["upstreams"] if one["address"] == address)


def drain(stack: Stack, what: str, address: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, what, address, "--admin", f"{stack.folder}/web.admin", "-o", "json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_sighup_removes_and_adds_an_application_and_loses_no_request(two: Stack) -> None:
    first, second = two.addresses
    association = two.status()["upstreams"][0]["association"]
    with Load(two) as load:
        wait_until(lambda: load.seen[200] > 50, "requests are answered")
        connect_to(two, [first])
        wait_until(lambda: states(two) == {first: "up"}, "the second one is gone")
        assert two.apps[1].stop() == 0
        connect_to(two, [{"address": first, "weight": 2}, second])
        two.apps[1] = two.start_app(1)
        wait_until(lambda: states(two) == {first: "up", second: "up"}, "the second one is back")
        wait_until(lambda: sent(two, second) > 20, "it is used")
    assert set(load.seen) == {200}
    kept = two.status()["upstreams"][0]
    assert (kept["association"], kept["weight"]) == (association, 2.0)


def test_drain_and_undrain_by_hand_and_restart_without_a_lost_request(two: Stack) -> None:
    first, second = two.addresses
    with Load(two) as load:
        wait_until(lambda: load.seen[200] > 50, "requests are answered")
        (done,) = json.loads(drain(two, "drain", second).stdout)
        assert (done["address"], done["left"]) == (second, 1)
        wait_until(lambda: not two.status()["upstreams"][1]["in_flight"], "it has no more requests")
        before = sent(two, second)
        answered = load.seen[200]
        wait_until(lambda: load.seen[200] > answered + 50, "requests are answered by the other")
        assert sent(two, second) == before
        assert states(two) == {first: "up", second: "drained"}
        assert two.apps[1].stop() == 0
        two.apps[1] = two.start_app(1)
        wait_until(lambda: two.status()["upstreams"][1]["up"], "it is back")
        connect_to(two, [first, {"address": second, "weight": 2}])
        assert states(two) == {first: "up", second: "drained"}
        assert drain(two, "undrain", second).returncode == 0
        wait_until(lambda: sent(two, second) > before + 20, "it is used again")
    assert set(load.seen) == {200}
    refused = drain(two, "drain", "192.0.2.9:9000")
    assert refused.returncode == 1
    assert f"no application '192.0.2.9:9000' is known; known are: {first}, {second}" in refused.stderr
