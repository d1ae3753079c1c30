"""Plugins on the whole road: switched on and off while requests run, changed for one host, and kept from doing harm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.stack import COMMAND, HERE, PATIENCE, Stack, free_port, wait_until

Start = Callable[..., Stack]


def fcgi_sctp(stack: Stack, *words: str, status: int = 0, sides: tuple[str, ...] = ("web", "app0")) -> str:
    paths = [word for side in sides for word in ("--admin", f"{stack.folder}/{side}.admin")]
    done = subprocess.run(
        [COMMAND, *words, *paths], capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=stack.folder
    )
    assert (done.returncode, done.stderr) == (status, ""), done.stdout
    return done.stdout


def running(stack: Stack, name: str) -> list[dict[str, Any]]:
    """What both sides say of a plugin; nothing of a side that does not name it."""
    sides = json.loads(fcgi_sctp(stack, "status", "-o", "json"))
    return [one for side in sides for one in side["plugins"] if one["name"] == name]


def states(stack: Stack, name: str) -> list[str]:
    return [one["state"] for one in running(stack, name)]


@contextmanager
def under_load(stack: Stack, path: str = "/hello") -> Iterator[list[int]]:
    """Requests, one after the other on three connections; the statuses that they got."""
    statuses: list[int] = []
    over = threading.Event()

    def go() -> None:
        while not over.is_set():
            statuses.append(stack.ask(path).status)

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)


def more(statuses: list[int]) -> None:
    """Wait until some more have been answered."""
    goal = len(statuses) + 20
    wait_until(lambda: len(statuses) >= goal, "requests are answered")


def test_a_plugin_is_switched_off_and_on_while_requests_run(start: Start) -> None:
    stack = start("applications:plain", plugins={"syslog": {}, "metrics": {"listen": None}})
    with under_load(stack) as statuses:
        for _ in range(3):
            assert fcgi_sctp(stack, "set", "syslog.enabled=false").splitlines() == [
                "web: syslog.enabled: changed",
                f"{stack.addresses[0]}: syslog.enabled: changed",
                "app applications:plain: syslog.enabled: changed",
            ]
            assert states(stack, "syslog") == ["off", "off"]
            assert states(stack, "metrics") == ["running", "running"]
            more(statuses)
            stack.ask("/log?text=unheard")
            fcgi_sctp(stack, "set", "syslog.enabled=true")
            assert states(stack, "syslog") == ["running", "running"]
            more(statuses)
        stack.ask("/log?text=heard%20again")
        stack.lines_with("heard again")
    assert set(statuses) == {200}
    assert [line for line in stack.lines() if "unheard" in line["message"]] == []
    for one in running(stack, "syslog"):
        assert one["errors"] == 0
    assert " is down" not in stack.web.text
    assert stack.web.text.count("is up") == 1, "the association lives through it"


def test_a_file_that_names_other_plugins(start: Start) -> None:
    port = free_port()
    stack = start("applications:plain", plugins={"syslog": {}})

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def now(plugins: dict[str, Any]) -> None:
        common = {**stack._common, "plugins": plugins}
        stack.write("web", {"web": stack._web, **common})
        stack.write("app0", {"app": {**stack._application, "listen": stack.addresses[0]}, **common})
        count = stack.web.text.count("configuration reloaded"), stack.app.text.count("configuration reloaded")
        stack.web.send(signal.SIGHUP)
        stack.app.send(signal.SIGHUP)
        wait_until(lambda: stack.web.text.count("configuration reloaded") > count[0], "the web side took it")
        wait_until(lambda: stack.app.text.count("configuration reloaded") > count[1], "the application took it")

    with under_load(stack) as statuses:
        more(statuses)
        assert not listens()
        now({"metrics": {"listen": f"127.0.0.1:{port}", "interval": 1}, "syslog": {"scope": "association"}})
        assert states(stack, "metrics") == ["running", "running"]
        wait_until(lambda: running(stack, "metrics")[0]["channels"][0]["received"] > 0, "snapshots arrive")
        assert listens()
        stack.ask("/log?text=in%20the%20other%20scope")
        stack.lines_with("in the other scope")
        assert [one["scope"] for one in running(stack, "syslog")[0]["channels"]] == ["association"] * 2
        now({"syslog": {}, "metrics": False})
        assert not listens()
        assert states(stack, "metrics") == ["off", "off"]
        told = fcgi_sctp(stack, "set", f"metrics.listen=127.0.0.1:{port}", sides=("web",), status=1)
        assert "web: metrics.listen: changed" in told
        assert f"{stack.addresses[0]}: metrics.listen: refused: metrics.listen: a web side may change interval" in told
        fcgi_sctp(stack, "set", "metrics.enabled=true")
        assert listens()
        now({"syslog": {}})
        assert states(stack, "metrics") == []
        told = fcgi_sctp(stack, "set", "metrics.enabled=true", status=1)
        assert told.count("refused: plugin metrics is not enabled here: the configuration does not name it") == 3
        more(statuses)
    assert set(statuses) == {200}
    stack.ask("/log?text=the%20first%20scope%20again")
    stack.lines_with("the first scope again")


def test_a_file_that_is_wrong_changes_nothing(start: Start) -> None:
    stack = start("applications:plain", plugins={"syslog": {}})
    stack.write("web", {"web": stack._web, **stack._common, "plugins": {"syslog": {"severity": "loud"}, "nosuch": {}}})
    stack.web.send(signal.SIGHUP)
    stack.web.says("plugins.syslog.severity: is 'loud'")
    stack.web.says("plugins.nosuch: no such plugin")
    stack.ask("/log?text=as%20before")
    stack.lines_with("as before")
    stack.write("web", {"web": {**stack._web, "grace": "17s", "name": "x"}, **stack._common, "sctp": {"window": "2M"}})
    stack.web.send(signal.SIGHUP)
    stack.web.says("these options have changed in the file and need a restart: web.grace, web.name, sctp.")
    stack.web.says("sctp.window")


def test_a_change_for_one_virtual_host(start: Start) -> None:
    stack = start("applications:plain", plugins={"syslog": {"severity": "warning"}})
    told = fcgi_sctp(stack, "set", "syslog.severity=debug", "--server-name", "shop.example").splitlines()
    assert told == [
        "web: syslog.severity@shop.example: changed",
        f"{stack.addresses[0]}: syslog.severity@shop.example: changed",
        "app applications:plain: syslog.severity@shop.example: changed",
    ]
    for host in ("blog.example", "shop.example"):
        stack.ask(f"/log?level=10&text=quiet-{host}", host=host)
        stack.ask(f"/log?level=40&text=loud-{host}", host=host)
    stack.lines_with("loud-", 2)
    stack.lines_with("quiet-")
    quiet = [line["server_name"] for line in stack.lines() if "quiet-" in line["message"]]
    assert quiet == ["shop.example"]


# ---- a plugin that does what it should not


@pytest.fixture
def rogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin is installed, for the programs that the test starts."""
    folder = tmp_path / "installed"
    about = folder / "rogue-6.6.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: rogue\nVersion: 6.6\n")
    (about / "entry_points.txt").write_text("[fcgi_sctp.plugins]\nrogue = rogue_plugin:plugin\n")
    shutil.copy(HERE / "rogue_plugin.py", folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))


class Throwing(Stack):
    web_throws = True


def test_a_plugin_that_raises_is_set_aside_and_content_goes_on(start: Start, rogue: None) -> None:
    stack = start("applications:plain", kind=Throwing, throws=True, plugins={"rogue": {"does": "raise"}, "syslog": {}})
    with under_load(stack) as statuses:
        wait_until(lambda: states(stack, "rogue") == ["set aside"] * 2, "it is set aside on both sides")
        more(statuses)
        stack.ask("/log?text=others%20go%20on")
        stack.lines_with("others go on")
    assert set(statuses) == {200}
    assert [one["errors"] for one in running(stack, "rogue")] == [10, 10]
    for program, where in ((stack.app, "request_begin"), (stack.web, "request_end")):
        assert f"plugin rogue: {where} failed" in program.text
        assert 'rogue_plugin.py", line' in program.text, "with its own frames"
        assert "plugin rogue failed 10 times in a row and is set aside for 60 s" in program.text
    picture = fcgi_sctp(stack, "plugins", "list")
    assert picture.count("rogue 6.6") == 3, "installed, and in both processes"
    assert "set aside" in picture
    assert "10 errors" in picture


def test_a_plugin_that_blocks_is_set_aside_and_content_goes_on(start: Start, rogue: None) -> None:
    stack = start("applications:plain", plugins={"rogue": {"does": "block"}})
    with under_load(stack) as statuses:
        wait_until(lambda: states(stack, "rogue")[1:] == ["set aside"], "it is set aside")
        more(statuses)
    assert set(statuses) == {200}
    hooks = running(stack, "rogue")[1]["hooks"]
    assert hooks["slow"] >= 2
    assert hooks["slowest"] >= 0.3
    stack.app.says("plugin rogue: request_begin took 3")
    stack.app.says("plugin rogue blocked the loop for 2")
    assert " slow" in fcgi_sctp(stack, "plugins", "list")


@pytest.mark.parametrize(
    ("does", "where"),
    [
        ("spin", "in spin"),
        ("sleep", "time.sleep(3600)"),
        ("lock", "with lock, lock"),
        ("swallow", "in swallow"),
        ("backtrack", "re.match("),
    ],
)
def test_a_hook_that_does_not_return_is_ended_and_content_goes_on(
    start: Start, rogue: None, does: str, where: str
) -> None:
    stack = start("applications:plain", kind=Throwing, throws=True, plugins={"rogue": {"does": does}, "syslog": {}})
    with under_load(stack) as statuses:
        wait_until(lambda: states(stack, "rogue") == ["set aside"] * 2, "it is set aside on both sides")
        more(statuses)
        stack.ask("/log?text=others%20go%20on")
        stack.lines_with("others go on")
    assert set(statuses) == {200}
    assert [one["errors"] for one in running(stack, "rogue")] == [1, 1]
    assert states(stack, "syslog") == ["running"] * 2
    for program in (stack.app, stack.web):
        assert "plugin rogue: request_begin failed" in program.text
        assert 'rogue_plugin.py", line' in program.text, "with its own frames"
        assert where in program.text
        assert "plugin rogue did not return from request_begin and is set aside for 60 s" in program.text
        assert program.text.count("Traceback") == 1
        assert " is down" not in program.text, "the association lives through it"
    assert "1 error" in fcgi_sctp(stack, "plugins", "list")


@pytest.mark.parametrize("does", ["flood", "leak"])
def test_a_plugin_that_floods_or_leaks_loses_only_its_own_items(start: Start, rogue: None, does: str) -> None:
    stack = start("applications:plain", plugins={"syslog": {}, "rogue": {"does": does}})
    with under_load(stack) as statuses:
        wait_until(lambda: len(statuses) >= 60, "requests are answered")
        stack.ask("/log?text=others%20go%20on")
        stack.lines_with("others go on")
    assert set(statuses) == {200}
    wait_until(
        lambda: all(channel["streams"] <= 1 for channel in running(stack, "rogue")[1]["channels"]),
        "streams are given back",
    )
    if does == "flood":
        assert sum(channel["dropped"] for channel in running(stack, "rogue")[1]["channels"]) > 0

    def balance() -> tuple[int, int]:
        web, app = running(stack, "rogue")
        return app["channels"][1]["sent"], web["channels"][1]["received"]

    wait_until(lambda: balance()[0] == balance()[1] > 60, "what was sent of requests arrives")


def test_a_plugin_as_plugins_new_writes_it_runs_at_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([COMMAND, "plugins", "new", "slow_ones", "--in", tmp_path], check=True, capture_output=True)
    words = ["install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target", tmp_path / "installed"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, tmp_path / "slow_ones"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    stack = start("applications:plain", plugins={"slow_ones": {"over": 0.05, "hosts": {"blog.example": {"over": 60}}}})
    stack.ask("/sleep?seconds=0.1", host="shop.example")
    (line,) = stack.lines_with("/sleep?seconds=0.1 took 0.1")
    assert (line["server_name"], line["application"], line["severity"]) == ("shop.example", "slow_ones", 4)
    picture = fcgi_sctp(stack, "plugins", "show", "slow_ones")
    assert "over: number, default 1.0" in picture
    assert picture.count("slow_ones 0.1  running") == 2


def test_a_plugin_that_the_web_side_has_not_enabled_is_reported_by_both_and_stderr_is_not_lost(start: Start) -> None:
    stack = start("applications:plain", plugins={"syslog": {"scope": "association"}})
    stack.web.stop()
    without = stack.write("web", {"web": stack._web, **stack._common, "plugins": {}})
    stack.web = stack.run("web", COMMAND, "web", "--config", without)
    stack.web.says("ready")
    for side, said in ((stack.web, "here nothing, there syslog;"), (stack.app, "there nothing; enable it")):
        side.says("plugin syslog: this side and ")
        assert said in side.text
    web, app = running(stack, "syslog")
    assert (web["state"], app["state"]) == ("only there", "disagrees")
    assert "declares other channels" in fcgi_sctp(stack, "plugins", "list")
    stack.ask("/errors?text=kept")
    log = stack.folder / "nginx-error.log"
    wait_until(lambda: "kept" in log.read_text(errors="replace"), "the web server has what nothing else takes")
    # and with it again all is as it was
    stack.web.stop()
    stack.start_web()
    wait_until(lambda: states(stack, "syslog") == ["running", "running"], "they agree")
    stack.ask("/log?text=heard%20again")
    stack.lines_with("heard again")
