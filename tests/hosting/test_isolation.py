"""Hooks called and kept from doing harm: those that fail, and those that are slow."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from fcgi_core.hosting.delivery import Delivery
from fcgi_core.hosting.discovery import load_plugins
from fcgi_core.hosting.isolation import (
    BLOCKING_ALLOWED,
    BLOCKING_WITHIN,
    FAILURES_ALLOWED,
    SET_ASIDE_FOR,
    SHARE_ALLOWED,
    SHARE_TOLD,
    SHARE_WINDOW,
    SLOW,
    TELL_SLOW_EVERY,
)
from fcgi_core.hosting.links import Link
from fcgi_core.hosting.supervisor import Supervisor
from fcgi_core.plugin import ApplicationHalf, AssociationInfo, Host, Outcome, RequestInfo, WebHalf
from fcgi_core.protocol.events import FeedbackReceived, ItemsAcknowledged, PeerChanged
from tests.hosting.supervised import ANY, OVER, Example, Recorder, VirtualLoop, linked, start
from tests.protocol.helpers import idle


def test_an_association_whose_items_keep_failing_is_set_aside_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    supervisor, half, loop = start()
    _, link = linked(supervisor)
    half.broken = True
    for _ in range(FAILURES_ALLOWED + 5):
        supervisor.feedback("example", b"x", None, link)
    (figures,) = supervisor.statistics()
    assert (figures["state"], figures["aside"]) == ("running", [{"peer": "peer", "seconds": SET_ASIDE_FOR}])
    assert figures["errors"] == FAILURES_ALLOWED
    assert "RuntimeError: broken" in caplog.text, "with the plugin's own frames"
    assert caplog.messages[-1] == (
        "plugin example failed 10 times in a row on items from peer, which is set aside for this plugin for 60 s"
    )
    half.broken = False
    supervisor.feedback("example", b"too early", None, link)
    loop.pass_time(SET_ASIDE_FOR + 1)
    supervisor.feedback("example", b"again", None, link)
    assert half.items == [b"again"]
    assert supervisor.statistics()[0]["aside"] == []


def test_one_association_has_a_plugin_set_aside_for_itself_alone() -> None:
    supervisor, half, loop = start()
    _, bad = linked(supervisor)
    _, good = linked(supervisor, "good")
    half.broken = True
    for _ in range(FAILURES_ALLOWED):
        supervisor.feedback("example", b"x", None, bad)
    half.broken = False
    supervisor.feedback("example", b"from another", None, good)
    assert half.items == [b"from another"]
    # it does not help to come again
    supervisor.association_down(bad, "")
    loop.pass_time(2)
    _, again = linked(supervisor)
    supervisor.feedback("example", b"x", None, again)
    assert half.items == [b"from another"]
    supervisor.association_down(again, "")
    loop.pass_time(SET_ASIDE_FOR + 2)
    assert list(supervisor.running("example").peers) == ["good"], "it is forgotten when its time is over"  # type: ignore[union-attr]


def test_items_for_a_set_aside_plugin_wait_at_the_sender_or_are_counted_once() -> None:
    supervisor, half, loop = start()
    pair, link = linked(supervisor)
    sender = Delivery(Example().channels(load_plugins({"example": {}}, {"example": Example()}.__getitem__)[0].options),
                      VirtualLoop(), lambda call: call())  # fmt: skip
    sending = Link(idle(pair.app), AssociationInfo(1, "web", "", "instance"))
    sender.add(sending)

    def carry() -> None:
        """Everything goes over, as often as it brings something."""
        for _ in range(5):
            pair.run()
            for event in pair.take_web():
                if isinstance(event, FeedbackReceived):
                    supervisor.feedback(event.channel, event.data, None, link)
            for event in pair.take_app():
                if isinstance(event, PeerChanged):
                    sender.changed(sending)
                elif isinstance(event, ItemsAcknowledged):
                    sender.acknowledged(sending, event)

    half.broken = True
    for number in range(FAILURES_ALLOWED + 3):  # one batch: the last three are under way when it is set aside
        sender.queue("example", b"plain %d" % number, None, 6)
    sender.queue("example.sure", b"under way", None, 6)
    carry()
    assert supervisor.statistics()[0]["aside"] != []
    half.broken = False
    for number in (1, 2):
        sender.queue("example.sure", b"%d" % number, None, 6)
        sender.queue("example", b"waits %d" % number, None, 6)
    loop.pass_time(SET_ASIDE_FOR / 2)
    carry()
    assert half.items == []
    assert sender.waiting("example.sure") == 3
    assert sender.waiting("example") == 2
    loop.pass_time(SET_ASIDE_FOR)
    carry()
    assert sorted(half.items) == [b"1", b"2", b"under way", b"waits 1", b"waits 2"]
    loop.pass_time(1)
    carry()
    assert sender.waiting("example.sure") == 0
    totals = {one.name: one for one in supervisor.transport().channels}
    for name in ("example", "example.sure"):
        sent = pair.app.feedback.figures[name].sent
        assert sent == totals[name].received + totals[name].dropped
    assert totals["example"].dropped == 3
    assert sender.lost == {}


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

    monkeypatch.setattr("fcgi_core.hosting.isolation.perf_counter", counter)
    return durations


def test_hooks_are_measured_and_slow_hooks_reported(perf: list[float], caplog: pytest.LogCaptureFixture) -> None:
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
        "plugin example: feedback took 100 ms and blocked the loop (1 slow hooks since the last report)"
    ]
    loop.pass_time(TELL_SLOW_EVERY)
    perf += [SLOW * 4]
    supervisor.feedback("example", b"x", None, link)
    assert caplog.messages[1:] == [
        "plugin example: feedback took 200 ms and blocked the loop (2 slow hooks since the last report)"
    ]


def test_an_association_whose_items_block_is_set_aside(perf: list[float], caplog: pytest.LogCaptureFixture) -> None:
    supervisor, half, loop = start()
    _, link = linked(supervisor)
    perf += [BLOCKING_ALLOWED * 0.6]
    supervisor.feedback("example", b"1", None, link)
    loop.pass_time(BLOCKING_WITHIN + 1)
    perf += [BLOCKING_ALLOWED * 0.6]
    supervisor.feedback("example", b"2", None, link)
    assert supervisor.statistics()[0]["aside"] == [], "the first one was long ago"
    perf += [BLOCKING_ALLOWED * 0.6]
    supervisor.feedback("example", b"3", None, link)
    assert supervisor.statistics()[0]["aside"] != []
    assert "plugin example blocked the loop for 2.4 s on items from peer" in caplog.text
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
    assert hooks == {**hooks, "calls": 2, "seconds": pytest.approx(SLOW * 2.5), "slow": 1}
    assert hooks["slowest"] == pytest.approx(SLOW * 2)
    assert caplog.messages == [
        f"plugin example: {hook} took 100 ms and blocked the loop (1 slow hooks since the last report)"
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


# ---- the share of the loop's time


def of_requests() -> tuple[Supervisor, OfRequests, VirtualLoop]:
    plugin = ExampleOfRequests()
    loop = VirtualLoop()
    supervisor = Supervisor(
        load_plugins({"example": {}}, {"example": plugin}.__getitem__), loop, lambda call: call(), web=True
    )
    assert isinstance(plugin.half, OfRequests)
    return supervisor, plugin.half, loop


def test_hooks_that_are_quick_each_and_many_are_reported_and_set_aside(
    perf: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor, half, loop = of_requests()
    quick = SLOW * 0.9

    def requests(count: int) -> None:
        perf.extend([quick] * count)
        for _ in range(count):
            supervisor.request_end(ANY, OVER)

    told = int(SHARE_TOLD * SHARE_WINDOW / quick)
    requests(told)
    assert caplog.messages == []
    requests(1)
    (message,) = caplog.messages
    assert message == (
        "plugin example: its hooks, request_end and others, take 10 % of the loop's time (1.0 s of 10 s)"
    )
    loop.pass_time(SHARE_WINDOW + 1)
    hooks = supervisor.statistics()[0]["hooks"]
    assert hooks["share"] == pytest.approx((told + 1) * quick / SHARE_WINDOW, rel=0.1)
    requests(told + 2)
    assert len(caplog.messages) == 1, "once a minute"
    loop.pass_time(SHARE_WINDOW + 1)

    allowed = int(SHARE_ALLOWED * SHARE_WINDOW / quick)
    requests(allowed)
    assert supervisor.statistics()[0]["state"] == "running"
    requests(2)
    assert supervisor.statistics()[0]["state"] == "set aside"
    assert "plugin example took 50 % of the loop's time and is set aside for 60 s" in caplog.messages
    calls = len(half.items)
    supervisor.request_end(ANY, OVER)
    assert len(half.items) == calls
    assert supervisor.statistics()[0]["hooks"]["slow"] == 0
    loop.pass_time(SET_ASIDE_FOR + 1)
    supervisor.request_end(ANY, OVER)
    assert len(half.items) == calls + 1


def test_a_window_that_ends_late_is_a_long_one(perf: list[float]) -> None:
    supervisor, _, loop = of_requests()
    supervisor.stop_ticks()
    loop.pass_time(3 * SHARE_WINDOW)
    for _ in range(int(2 * SHARE_ALLOWED * SHARE_WINDOW / SLOW)):
        perf.append(SLOW * 0.9)
        supervisor.request_end(ANY, OVER)
    assert supervisor.statistics()[0]["state"] == "running", "a third of the time"


def test_the_association_whose_items_take_most_of_the_time_is_set_aside(
    perf: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor, half, loop = start()
    links = {name: linked(supervisor, name)[1] for name in ("small", "large", "middle")}

    def send(name: str, seconds: float) -> None:
        for _ in range(int(seconds / SLOW)):
            perf.append(SLOW)
            supervisor.feedback("example", name.encode(), None, links[name])

    send("small", 0.5)
    send("large", 3.0)
    send("middle", 2.0)
    assert [one["peer"] for one in supervisor.statistics()[0]["aside"]] == ["large"]
    assert supervisor.statistics()[0]["state"] == "running"
    before = len(half.items)
    supervisor.feedback("example", b"no more", None, links["large"])
    supervisor.feedback("example", b"as before", None, links["small"])
    assert half.items[before:] == [b"as before"]
    assert any("on items from large" in message for message in caplog.messages)
    perf.clear()
    loop.pass_time(SET_ASIDE_FOR + 1)
    supervisor.feedback("example", b"again", None, links["large"])
    assert half.items[-1] == b"again"


def test_a_plugin_with_slow_hooks_is_set_aside_whatever_its_items_cost(perf: list[float]) -> None:
    supervisor, _, _ = of_requests()
    _, link = linked(supervisor)
    perf += [SLOW] * 130
    for _ in range(30):
        supervisor.feedback("example", b"x", None, link)
    for _ in range(100):
        supervisor.request_end(ANY, OVER)
    figures = supervisor.statistics()[0]
    assert (figures["state"], figures["aside"]) == ("set aside", [])


def test_a_slow_hook_on_another_thread_does_not_count(perf: list[float], caplog: pytest.LogCaptureFixture) -> None:
    class Half(ApplicationHalf):
        def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
            return True

    class Taking(Example):
        def application_half(self, host: Host, options: Any) -> ApplicationHalf:
            return Half()

    supervisor = Supervisor(
        load_plugins({"example": {}}, {"example": Taking()}.__getitem__), VirtualLoop(), lambda call: call(), web=False
    )
    perf += [100.0] * 10
    thread = threading.Thread(target=lambda: [supervisor.stderr(None, b"x") for _ in range(10)])
    thread.start()
    thread.join()
    figures = supervisor.statistics()[0]
    assert (figures["state"], figures["hooks"]["calls"], figures["hooks"]["slow"]) == ("running", 10, 0)
    assert caplog.messages == []


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
