"""Probes of the web side: an application that hangs, whose SCTP is well, gets no requests until it answers again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.app.servers import php_fpm
from tests.system.stack import Stack, in_background, wait_until

QUICK = {"interval": 0.3, "timeout": 0.3, "fall": 2}


def states(stack: Stack) -> list[str]:
    """Of the applications, as `fcgi-sctp status` has them."""
    return [one["state"] for one in stack.status()["upstreams"]]


def test_one_of_two_applications_hangs(start: Callable[..., Stack], tmp_path: Path) -> None:
    """Its only thread is held; its process answers SCTP as ever."""
    health = {"uri": "/hello", **QUICK}
    stack = start("applications:plain", endpoints=2, app={"threads": 1}, web={"health": health, "slow_start": 0})
    latch = tmp_path / "latch"
    latch.touch()
    wait_until(lambda: states(stack) == ["up", "up"], "both are well")
    with in_background(lambda: stack.ask(f"/hold?while={latch}")) as held:
        wait_until(lambda: sorted(states(stack)) == ["out", "up"], "the one that hangs is out")
        sick = next(one for one in stack.status()["upstreams"] if one["state"] == "out")
        assert sick["last_error"] == "probes: no answer within 0.3 s"
        stack.web.says(f"application {sick['address']} is out of the balance, by its probes: no answer within 0.3 s")
        answers = [stack.ask("/process") for _ in range(30)]
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
        assert states(stack).count("out") == 1, "it is out as long as it hangs"
        latch.unlink()
        assert held()[0].status == 200, "the request inside it was not given up"
    wait_until(lambda: states(stack) == ["up", "up"], "it is back")
    stack.web.says(f"application {sick['address']} answers its probes again")
    with in_background(*[lambda: stack.ask("/sleep?seconds=0.2")] * 2) as both:
        assert [answer.status for answer in both()] == [200, 200]


def test_one_of_two_applications_is_stopped(start: Callable[..., Stack]) -> None:
    """With the kernel's SCTP, which goes on answering for it, probes alone tell."""
    web = {"health": {"uri": "/hello", **QUICK}, "slow_start": 0}
    stack = start("applications:plain", endpoints=2, web=web)
    stack.app.send(signal.SIGSTOP)
    wait_until(lambda: states(stack) == ["out", "up"], "probes find out")
    assert {stack.ask("/process").body for _ in range(20)} == {str(stack.apps[1].pid).encode()}
    stack.app.send(signal.SIGCONT)
    wait_until(lambda: states(stack) == ["up", "up"], "it is back")


def test_php_fpm_has_its_own_ping(start: Callable[..., Stack], tmp_path: Path) -> None:
    """Behind the bridge; its only child is busy for too long, which nothing tells but the probe."""
    (tmp_path / "slow.php").write_text("<?php sleep(3); echo 'done';")
    scripts = f"fastcgi_param SCRIPT_FILENAME {tmp_path}$fastcgi_script_name;"
    with php_fpm(tmp_path, children=1, lines="ping.path = /ping") as socket:
        health = {"uri": "/ping", "params": {"SCRIPT_FILENAME": "/ping"}, **QUICK}
        bridge = {"address": f"unix:{socket}", "connections": 2}
        stack = start(app={"application": None, "fastcgi": bridge}, web={"health": health}, nginx=scripts)
        with in_background(lambda: stack.ask("/slow.php")) as slow:
            wait_until(lambda: states(stack) == ["out"], "probes find out")
            assert slow()[0].body == b"done"
        wait_until(lambda: states(stack) == ["up"], "it answers again")


@pytest.mark.parametrize("uri", ["/nowhere", "/hello?full=1"])
def test_answers_under_500_are_good(start: Callable[..., Stack], uri: str) -> None:
    stack = start(web={"health": {"uri": uri, **QUICK, "fall": 1}})
    # the application counts what it is asked, and takes the probes for what they are: requests
    wait_until(lambda: stack.seen("localhost") >= 5, "probes come")
    assert states(stack) == ["up"]
    assert "out of the balance" not in stack.web.text
