"""Hooks called and kept from doing harm: those that fail, and those that are slow."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from fcgi_core.discovery import load_plugins
from fcgi_core.isolation import (
    BLOCKING_ALLOWED,
    BLOCKING_WITHIN,
    FAILURES_ALLOWED,
    SET_ASIDE_FOR,
    SLOW,
    TELL_SLOW_EVERY,
)
from fcgi_core.plugin import ApplicationHalf, Host, Outcome, RequestInfo, WebHalf
from fcgi_core.supervisor import Supervisor
from tests.core.supervised import ANY, OVER, Example, Recorder, VirtualLoop, linked, start


def test_a_plugin_that_keeps_failing_is_set_aside_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    supervisor, half, loop = start()
    _, link = linked(supervisor)
    half.broken = True
    for _ in range(FAILURES_ALLOWED + 5):
        supervisor.feedback("example", b"x", None, link)
    (figures,) = supervisor.statistics()
    assert figures["state"] == "set aside"
    assert figures["errors"] == FAILURES_ALLOWED
    assert "RuntimeError: broken" in caplog.text, "with the plugin's own frames"
    half.broken = False
    supervisor.feedback("example", b"too early", None, link)
    loop.pass_time(SET_ASIDE_FOR + 1)
    supervisor.feedback("example", b"again", None, link)
    assert half.items == [b"again"]


def test_what_comes_while_a_plugin_is_set_aside_is_kept_or_counted() -> None:
    supervisor, half, loop = start()
    pair, link = linked(supervisor)
    half.broken = True
    for _ in range(FAILURES_ALLOWED):
        supervisor.feedback("example", b"x", None, link)
    half.broken = False
    for number in (1, 2):
        supervisor.feedback("example.sure", number.to_bytes(8, "big") + b"%d" % number, None, link)
        supervisor.feedback("example", b"lost", None, link)
    loop.pass_time(SET_ASIDE_FOR / 2)
    pair.run()
    assert not [event for event in pair.app_events if type(event).__name__ == "ItemsAcknowledged"]
    totals = {one.name: one for one in supervisor.transport().channels}
    assert (totals["example"].dropped, totals["example.sure"].dropped) == (2, 0)
    loop.pass_time(SET_ASIDE_FOR)
    assert half.items == [b"1", b"2"], "and they do not wait for another one to come"
    pair.run()
    assert [event.number for event in pair.app_events if type(event).__name__ == "ItemsAcknowledged"] == [2]  # type: ignore[attr-defined]


@pytest.fixture
def perf(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock that hooks are measured by; what is put in front is how long each next hook takes."""
    durations: list[float] = []
    now = 0.0
    running = False

    def counter() -> float:
        nonlocal now, running
        if durations:
            if running:
                now += durations.pop(0)
            running = not running
        return now

    for module in ("supervisor", "isolation"):
        monkeypatch.setattr(f"fcgi_core.{module}.perf_counter", counter)
    return durations


def test_hooks_are_measured_and_slow_ones_told(perf: list[float], caplog: pytest.LogCaptureFixture) -> None:
    supervisor, _, loop = start()
    _, link = linked(supervisor)
    before = supervisor.statistics()[0]["hooks"]["calls"]
    perf += [SLOW / 2, SLOW * 2, SLOW * 3]
    for _ in range(3):
        supervisor.feedback("example", b"x", None, link)
    hooks = supervisor.statistics()[0]["hooks"]
    assert hooks["calls"] == before + 3
    assert hooks == {**hooks, "seconds": pytest.approx(SLOW * 5.5), "slowest": pytest.approx(SLOW * 3), "slow": 2}
    assert caplog.messages == [
        "plugin example: feedback took 100 ms, and everything waited (1 slow hooks since this was last said)"
    ]
    loop.pass_time(TELL_SLOW_EVERY)
    perf += [SLOW * 4]
    supervisor.feedback("example", b"x", None, link)
    assert caplog.messages[1:] == [
        "plugin example: feedback took 200 ms, and everything waited (2 slow hooks since this was last said)"
    ]


def test_a_plugin_that_blocks_is_set_aside(perf: list[float], caplog: pytest.LogCaptureFixture) -> None:
    supervisor, half, loop = start()
    _, link = linked(supervisor)
    perf += [BLOCKING_ALLOWED * 0.6]
    supervisor.feedback("example", b"1", None, link)
    loop.pass_time(BLOCKING_WITHIN + 1)
    perf += [BLOCKING_ALLOWED * 0.6]
    supervisor.feedback("example", b"2", None, link)
    assert supervisor.statistics()[0]["state"] == "running", "the first one was long ago"
    perf += [BLOCKING_ALLOWED * 0.6]
    supervisor.feedback("example", b"3", None, link)
    assert supervisor.statistics()[0]["state"] == "set aside"
    assert "held everything up for 2.4 s and is set aside" in caplog.text
    supervisor.feedback("example", b"4", None, link)
    loop.pass_time(SET_ASIDE_FOR + 1)
    supervisor.feedback("example", b"5", None, link)
    assert half.items == [b"1", b"2", b"3", b"5"]


class OfRequests(Recorder):
    """Hears of requests too."""

    def request_begin(self, request: RequestInfo) -> None:
        self.feedback("", b"begin", request, ANY)

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        self.feedback("", b"end", request, ANY)


class ExampleOfRequests(Example):
    def web_half(self, host: Host, options: Any) -> WebHalf:
        self.half = OfRequests(options)
        return self.half


@pytest.mark.parametrize("hook", ["request_begin", "request_end"])
def test_hooks_of_requests_are_measured_and_set_aside_as_others_are(
    perf: list[float], caplog: pytest.LogCaptureFixture, hook: str
) -> None:
    plugin = ExampleOfRequests()
    loop = VirtualLoop()
    plugins = load_plugins({"example": {}}, {"example": plugin}.__getitem__)
    supervisor = Supervisor(plugins, loop, lambda call: call(), web=True)
    assert supervisor.follows_requests

    def call() -> None:
        if hook == "request_begin":
            supervisor.request_begin(ANY)
        else:
            supervisor.request_end(ANY, OVER)

    perf += [SLOW / 2, SLOW * 2]
    call()
    call()
    hooks = supervisor.statistics()[0]["hooks"]
    assert hooks == {"calls": 2, "seconds": pytest.approx(SLOW * 2.5), "slowest": pytest.approx(SLOW * 2), "slow": 1}
    assert caplog.messages == [
        f"plugin example: {hook} took 100 ms, and everything waited (1 slow hooks since this was last said)"
    ]
    plugin.half.broken = True
    for _ in range(FAILURES_ALLOWED - 1):
        call()
    plugin.half.broken = False
    call()  # so that they were not in a row
    plugin.half.broken = True
    for _ in range(FAILURES_ALLOWED + 5):
        call()
    (figures,) = supervisor.statistics()
    assert (figures["state"], figures["errors"]) == ("set aside", 2 * FAILURES_ALLOWED - 1)
    assert f"plugin example: {hook} failed" in caplog.messages
    plugin.half.broken = False
    call()
    assert len(plugin.half.items) == 3
    loop.pass_time(SET_ASIDE_FOR + 1)
    call()
    assert len(plugin.half.items) == 4


def test_a_hook_that_keeps_failing_is_not_excused_by_others_that_work(caplog: pytest.LogCaptureFixture) -> None:
    plugin = ExampleOfRequests()
    loop = VirtualLoop()
    supervisor = Supervisor(
        load_plugins({"example": {}}, {"example": plugin}.__getitem__), loop, lambda call: call(), web=True
    )
    for _ in range(FAILURES_ALLOWED):
        supervisor.request_begin(ANY)
        supervisor.reopen()
        plugin.half.broken = True
        supervisor.request_end(ANY, OVER)
        plugin.half.broken = False
    assert supervisor.statistics()[0]["state"] == "set aside"
    assert f"plugin example failed {FAILURES_ALLOWED} times in a row and is set aside for 60 s" in caplog.messages


def test_a_slow_hook_on_a_thread_of_the_application_holds_up_that_thread_alone() -> None:
    class Slow(ApplicationHalf):
        def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
            time.sleep(SLOW + 0.01)
            return True

    class Writes(Example):
        def application_half(self, host: Host, options: Any) -> ApplicationHalf:
            return Slow()

    enabled = load_plugins({"example": {}}, {"example": Writes()}.__getitem__)
    supervisor = Supervisor(enabled, VirtualLoop(), lambda call: call(), web=False)
    for _ in range(2):
        thread = threading.Thread(target=supervisor.stderr, args=(None, b"x"))
        thread.start()
        thread.join(10)
    hooks = supervisor.statistics()[0]["hooks"]
    assert (hooks["calls"], hooks["slow"]) == (2, 0)
    assert supervisor.stderr(None, b"x")
    assert supervisor.statistics()[0]["hooks"]["slow"] == 1
