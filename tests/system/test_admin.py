"""What an operator sees of the whole road: `fcgi-sctp status`, `top` and `plugins`, by the admin sockets."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.system.stack import COMMAND, PATIENCE, Stack, in_background, wait_until


def tell(stack: Stack, *words: str, sides: tuple[str, ...] = ("web", "app0")) -> str:
    paths = [word for side in sides for word in ("--admin", f"{stack.folder}/{side}.admin")]
    done = subprocess.run(
        [COMMAND, *words, *paths], capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=stack.folder
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def status(stack: Stack) -> list[dict[str, Any]]:
    return json.loads(tell(stack, "status", "-o", "json"))


@pytest.fixture(scope="module")
def stack(start_for_module: Callable[..., Stack]) -> Stack:
    started = start_for_module("applications:plain", plugins={"syslog": {}, "metrics": {"listen": None, "interval": 1}})
    assert stat.S_IMODE((started.folder / "web.admin").stat().st_mode) == 0o600
    return started


def test_a_request_under_way_is_seen_with_its_streams(stack: Stack) -> None:
    with in_background(lambda: stack.ask("/sleep?seconds=1.5")) as wait:
        web, app = wait_until(
            lambda: (both := status(stack)) and all(one["requests"]["in_flight"] for one in both) and both,
            "both sides have it in flight",
        )
        for one in (web, app):
            (association,) = one["associations"]
            assert association["requests"] == 1
            assert association["sctp"]["round_trip"] is not None
        uses = [use for stream in web["associations"][0]["map"] for use in stream["uses"]]
        assert [use["what"] for use in uses if use.get("server_name") == "shop.example"] == ["content"]
        picture = tell(stack, "status", sides=("web",))
        assert "  1 requests in flight, 0 waiting" in picture
        assert "content  shop.example  " in picture
        assert wait()[0].body == b"awake"
    channels = [use["what"] for stream in app["associations"][0]["map"] for use in stream["uses"]]
    assert "metrics" in channels
    (upstream,) = web["upstreams"]
    assert (upstream["address"], upstream["up"]) == (stack.addresses[0], True)


def test_hosts(stack: Stack) -> None:
    status(stack)
    stack.ask("/hello", host="blog.example")
    stack.ask("/nowhere", host="blog.example")
    for one in status(stack):
        (blog,) = [host for host in one["hosts"] if host["server_name"] == "blog.example"]
        assert (blog["requests"], blog["statuses"]["2xx"], blog["statuses"]["4xx"]) == (2, 1, 1)
        assert sum(blog["seconds"]["counts"]) == 2


def test_plugins(stack: Stack) -> None:
    stack.ask("/log?text=counted")
    stack.lines_with("counted")
    app = status(stack)[1]
    plugins = {plugin["name"]: plugin for plugin in app["plugins"]}
    assert {plugin["state"] for plugin in plugins.values()} == {"running"}
    syslog = {channel["name"]: channel for channel in plugins["syslog"]["channels"]}
    assert syslog["syslog"]["sent"] >= 1
    assert syslog["syslog"]["dropped"] == 0
    text = tell(stack, "plugins", "show", "syslog")
    assert "running in app applications:plain, process " in text
    assert "metrics" not in text.partition("running in")[2]


def test_top(stack: Stack) -> None:
    (line,) = tell(stack, "top", "--once", "-o", "json", "--interval", "0.2").splitlines()
    assert [process["side"] for process in json.loads(line)["processes"]] == ["web", "app"]
    assert "web " in tell(stack, "top", "--once", "--interval", "0.1")


def test_a_client_that_hangs_holds_nothing_up(stack: Stack) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{stack.folder}/web.admin")
        client.setblocking(False)
        try:
            while True:
                client.send(b'{"ask": "status"}\n' * 1000)  # and no answer is read
        except BlockingIOError:
            pass
        assert stack.ask("/hello").body == b"hello"
        assert status(stack)
