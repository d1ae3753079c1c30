"""Plugins at work: hooks called and kept from doing harm, options changed while running, items taken over."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Literal

import pytest

from fcgi_core.channels import Channel
from fcgi_core.delivery import Link
from fcgi_core.discovery import load_plugins
from fcgi_core.errors import ConfigError, PluginError, StartAnew
from fcgi_core.plugin import (
    ApplicationHalf,
    AssociationInfo,
    Host,
    OptionsByHost,
    Outcome,
    Plugin,
    RequestInfo,
    WebHalf,
)
from fcgi_core.supervisor import (
    BLOCKING_ALLOWED,
    BLOCKING_WITHIN,
    FAILURES_ALLOWED,
    SET_ASIDE_FOR,
    SLOW,
    TELL_SLOW_EVERY,
    Supervisor,
)
from tests.core.helpers import Pair, idle

ANY: Any = object()
OVER = Outcome(status=200, duration=0.1, first_byte=None, bytes_in=0, bytes_out=0)


class VirtualLoop:
    """A loop whose time is moved by the test."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], Any], list[bool]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Any:
        alive = [True]
        heapq.heappush(self._due, (when, len(self._due) + int(when * 1e6), lambda: callback(*args), alive))

        class Handle:
            def cancel(self) -> None:
                alive[0] = False

        return Handle()

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Any:
        return self.call_at(self.now, callback, *args)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, call, alive = heapq.heappop(self._due)
            if alive[0]:
                call()
        self.now = until


class Recorder(WebHalf):
    def __init__(self, options: Any) -> None:
        self.options = {None: options}
        self.items: list[bytes] = []
        self.committed = 0
        self.broken = False
        self.closed = False
        self.up = 0

    def association_up(self, association: AssociationInfo) -> None:
        self.up += 1

    def close(self) -> None:
        self.closed = True

    def configure(self, options: Any, server_name: str | None = None) -> None:
        if options.level == "forbidden":
            raise ValueError("not this one")
        if options.level == "anew":
            raise StartAnew("it takes another half")
        self.options[server_name] = options

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        if self.broken:
            raise RuntimeError("broken")
        self.items.append(item)

    def commit(self) -> None:
        if self.broken:
            raise OSError("disk full")
        self.committed += 1


class Example(Plugin):
    name = "example"

    class Options(Plugin.Options):
        level: Literal["low", "high", "forbidden", "anew"] = "low"
        wide: bool = False

    half: Recorder

    def channels(self, options: Any) -> list[Channel]:
        more = [Channel("example.more")] if options.wide else []
        return [Channel("example"), Channel("example.sure", acknowledged=True), *more]

    def web_half(self, host: Host, options: Any) -> WebHalf:
        self.half = Recorder(options)
        return self.half

    def application_half(self, host: Host, options: Any) -> ApplicationHalf:
        return ApplicationHalf()


def start(options: Mapping[str, Any] | None = None) -> tuple[Supervisor, Recorder, VirtualLoop]:
    plugin = Example()
    loop = VirtualLoop()
    supervisor = Supervisor(
        load_plugins({"example": options or {}}, {"example": plugin}.__getitem__), loop, lambda call: call(), web=True
    )
    return supervisor, plugin.half, loop


def linked(supervisor: Supervisor) -> tuple[Pair, Link]:
    pair = Pair(channels=tuple(supervisor.channels))
    return pair, supervisor.association_up(idle(pair.web), 1, "peer")


def test_options_change_while_running_and_each_name_is_answered() -> None:
    supervisor, half, _ = start()
    answers = supervisor.change({"example.level": "high", "example.level@a.test": "low", "nobody.level": "1"})
    assert answers["example.level"] == ""
    assert answers["example.level@a.test"] == ""
    assert "nobody is not enabled" in answers["nobody.level"]
    assert half.options[None].level == "high"
    assert half.options["a.test"].level == "low"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("example.level", "medium", "plugins.example.level: is 'medium'"),
        ("example.level", "forbidden", "not this one"),
        ("example.colour", "red", "no such name here"),
        ("example.enabled", "perhaps", "true or false"),
        ("example", "x", "PLUGIN.OPTION"),
        ("example.level", "[", "while parsing"),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(name: str, value: str, reason: str) -> None:
    supervisor, half, _ = start()
    assert reason in supervisor.change({name: value})[name]
    assert half.options[None].level == "low"
    assert supervisor.change({"example.level": "high"}) == {"example.level": ""}


def test_options_of_hosts_come_from_the_file_and_are_checked() -> None:
    _, half, _ = start({"level": "low", "hosts": {"a.test": {"level": "high"}}})
    assert half.options["a.test"].level == "high"
    with pytest.raises(ConfigError, match=r"plugins\.example\.hosts\.a\.test\.level"):
        start({"hosts": {"a.test": {"level": "deep"}}})
    with pytest.raises(ConfigError, match="SERVER_NAMEs"):
        start({"hosts": ["a.test"]})


def test_a_plugin_can_be_switched_off_and_on() -> None:
    supervisor, half, _ = start()
    _, link = linked(supervisor)
    assert supervisor.change({"example.enabled": "false"}) == {"example.enabled": ""}
    assert half.closed
    supervisor.feedback("example", b"unheard", None, link)
    assert supervisor.statistics()[0]["state"] == "off"
    assert supervisor.change({"example.level": "high"}) == {"example.level": ""}, "for the next time"
    assert supervisor.change({"example.enabled": "false"}) == {"example.enabled": ""}, "it is already"
    assert supervisor.change({"example.enabled": "true"}) == {"example.enabled": ""}
    supervisor.feedback("example", b"heard", None, link)
    (again,) = supervisor.halves
    assert isinstance(again, Recorder)
    assert again is not half
    assert (half.items, again.items) == ([], [b"heard"])
    assert again.options[None].level == "high"
    assert again.up == 1, "it hears of the association that was there before it"


def test_a_new_file_is_taken_over() -> None:
    plugin = Example()
    supervisor = Supervisor(
        load_plugins({"example": {}}, lambda name: plugin), VirtualLoop(), lambda call: call(), web=True
    )
    half = plugin.half
    find = {"example": plugin}.__getitem__
    assert supervisor.adopt(load_plugins({"example": {"level": "high"}}, find)) == []
    assert half.options[None].level == "high"
    assert supervisor.adopt(load_plugins({"example": {"wide": True}}, find)) == []
    assert half.closed, "other channels: it starts anew"
    assert "example.more" in {channel.name for channel in supervisor.channels}
    assert supervisor.adopt(load_plugins({"example": {"enabled": False}}, find)) == []
    assert supervisor.statistics()[0]["state"] == "off"
    assert plugin.half.closed
    assert supervisor.channels == []
    assert supervisor.adopt([]) == []
    assert supervisor.statistics() == []
    assert "does not name it" in supervisor.change({"example.enabled": "true"})["example.enabled"]
    assert supervisor.adopt(load_plugins({"example": {"level": "high"}}, find)) == []
    assert plugin.half.options[None].level == "high"
    assert supervisor.statistics()[0]["state"] == "running"


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


def test_what_came_on_an_acknowledged_channel_is_acknowledged_when_it_is_taken_over() -> None:
    supervisor, half, loop = start()
    pair, link = linked(supervisor)
    for number in (1, 2, 2, 3):
        supervisor.feedback("example.sure", number.to_bytes(8, "big") + b"%d" % number, None, link)
    assert half.items == [b"1", b"2", b"3"], "a repetition is passed on once"
    pair.run()
    assert not [event for event in pair.app_events if type(event).__name__ == "ItemsAcknowledged"]
    half.broken = True
    loop.pass_time(1)
    pair.run()
    assert not [event for event in pair.app_events if type(event).__name__ == "ItemsAcknowledged"]
    half.broken = False
    supervisor.feedback("example.sure", (3).to_bytes(8, "big") + b"3", None, link)
    loop.pass_time(1)
    pair.run()
    (event,) = [event for event in pair.app_events if type(event).__name__ == "ItemsAcknowledged"]
    assert (event.channel, event.number) == ("example.sure", 3)  # type: ignore[union-attr]
    assert half.committed == 1


def test_what_is_wrong_with_plugins_is_told_all_at_once() -> None:
    class Wrong(Example):
        name = "wrong"

    class Old(Example):
        name = "old"
        api_version = 0

    found = {"wrong": Wrong(), "old": Old(), "text": "text"}

    def find(name: str) -> Any:
        if name not in found:
            raise PluginError("no such plugin is installed")
        return found[name]

    with pytest.raises(ConfigError) as caught:
        load_plugins({"wrong": {}, "old": {}, "text": {}, "missing": {}}, find)
    told = "\n".join(caught.value.problems)
    for part in (
        "wrong: channel 'example'",
        "old: it is for plugin API 0",
        "text: the entry point",
        "missing: no such",
    ):
        assert part in told


def test_what_takes_long_is_acknowledged_when_it_is_done() -> None:
    supervisor, half, loop = start()
    futures: list[Future[None]] = []

    def commit() -> Future[None]:
        futures.append(Future())
        return futures[-1]

    half.commit = commit  # type: ignore[method-assign, assignment]
    pair, link = linked(supervisor)
    supervisor.feedback("example.sure", (1).to_bytes(8, "big") + b"one", None, link)
    loop.pass_time(1)
    supervisor.feedback("example.sure", (2).to_bytes(8, "big") + b"two", None, link)
    loop.pass_time(1)

    def acknowledged() -> list[int]:
        pair.run()
        return [event.number for event in pair.app_events if type(event).__name__ == "ItemsAcknowledged"]  # type: ignore[attr-defined]

    assert acknowledged() == []
    futures[0].set_result(None)
    assert acknowledged() == [1]
    futures[1].set_exception(OSError("disk full"))
    assert acknowledged() == [1]


def test_files_are_opened_anew() -> None:
    supervisor, half, _ = start()
    calls: list[str] = []
    half.reopen = lambda: calls.append("reopen")  # type: ignore[method-assign]
    supervisor.reopen()
    assert calls == ["reopen"]


def test_what_a_host_has_of_its_own_stays_when_the_rest_changes() -> None:
    supervisor, half, _ = start({"hosts": {"a.test": {"level": "high"}, "b.test": {"wide": False}}})
    assert supervisor.change({"example.level": "high", "example.wide@a.test": "false"}) == {
        "example.level": "",
        "example.wide@a.test": "",
    }
    assert {name: options.level for name, options in half.options.items()} == {
        None: "high",
        "a.test": "high",
        "b.test": "high",
    }
    assert supervisor.change({"example.level": "low"}) == {"example.level": ""}
    assert {name: options.level for name, options in half.options.items()} == {
        None: "low",
        "a.test": "high",
        "b.test": "low",
    }
    assert supervisor.adopt(load_plugins({"example": {}}, lambda name: Example())) == []
    assert half.options["a.test"].level == "low", "it has none of its own any more"


# ---- verified before it runs


class Wrong(Plugin):
    name = "wrong"


def wrong_because(plugin: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_plugins({"wrong": {}}, lambda name: plugin)
    return "\n".join(caught.value.problems)


def test_a_plugin_whose_methods_cannot_be_called_is_not_loaded() -> None:
    class Channels(Wrong):
        def channels(self) -> list[Channel]:  # type: ignore[override]
            return []

        async def web_half(self, host: Host, options: Any) -> WebHalf:  # type: ignore[override]
            return WebHalf()

        application_half = None  # type: ignore[assignment]

    told = wrong_because(Channels)
    assert "channels(options) cannot be called like that: it is channels()" in told
    assert "web_half(host, options) must be a plain function" in told
    assert "application_half(host, options) is None, which cannot be called" in told


def test_a_plugin_that_cannot_be_made_or_has_another_model_is_not_loaded() -> None:
    class Broken(Wrong):
        def __init__(self) -> None:
            raise OSError("no licence")

    class Model(Wrong):
        Options = dict  # type: ignore[assignment]

    class Taken(Wrong):
        class Options(Plugin.Options):
            enabled: bool = True

    assert "no licence" in wrong_because(Broken)
    assert "not derived from Plugin.Options" in wrong_because(Model)
    assert "its Options have enabled" in wrong_because(Taken)


def start_half(half: Any) -> None:
    class Given(Wrong):
        def web_half(self, host: Host, options: Any) -> WebHalf:
            made: WebHalf = half
            return made

    Supervisor(load_plugins({"wrong": {}}, lambda name: Given), VirtualLoop(), lambda call: call(), web=True).close()


def test_a_half_whose_hooks_cannot_be_called_is_not_started() -> None:
    class Half(WebHalf):
        def request_end(self, request: RequestInfo) -> None:  # type: ignore[override]
            raise AssertionError("it is never called")

        async def tick(self) -> None:  # type: ignore[override]
            raise AssertionError("it is never called")

        def feedback(self, *arguments: Any) -> None:
            pass

        def association_up(self, association: AssociationInfo, more: int = 1) -> None:
            pass

    with pytest.raises(PluginError) as caught:
        start_half(Half())
    told = str(caught.value)
    assert "request_end(request, outcome) cannot be called like that: it is request_end(request" in told
    assert "tick() must be a plain function" in told
    assert "feedback" not in told
    assert "association_up" not in told
    with pytest.raises(PluginError, match="is no WebHalf"):
        start_half(ApplicationHalf())
    start_half(WebHalf())


# ---- what cannot be switched, and what a plugin does while it is set aside


class Choosy(Example):
    """It cannot start with the level `high`, and with `wide` not twice."""

    def web_half(self, host: Host, options: Any) -> WebHalf:
        if options.level == "high":
            raise OSError("no such device")
        if options.wide:
            raise TypeError("a bug")
        return super().web_half(host, options)


def test_a_plugin_that_cannot_start_leaves_everything_as_it_was() -> None:
    plugin = Choosy()
    find = {"example": plugin}.__getitem__
    supervisor = Supervisor(
        load_plugins({"example": {"enabled": False, "level": "high"}}, find),
        VirtualLoop(),
        lambda call: call(),
        web=True,
    )
    assert "no such device" in supervisor.change({"example.enabled": "true"})["example.enabled"]
    assert (supervisor.channels, supervisor.statistics()[0]["state"]) == ([], "off")
    assert supervisor.change({"example.level": "low", "example.enabled": "true"})["example.enabled"] == ""
    first = plugin.half
    told = supervisor.change({"example.wide": "true"})["example.wide"]
    assert "TypeError('a bug')" in told
    assert first.closed
    assert plugin.half is not first, "made again as it was"
    assert not plugin.half.options[None].wide
    assert supervisor.statistics()[0]["state"] == "running"
    (problem,) = supervisor.adopt(load_plugins({"example": {"wide": True, "level": "high"}}, find))
    assert "no such device" in problem
    assert supervisor.change({"example.level": "low"}) == {"example.level": ""}
    assert not plugin.half.options[None].wide


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

    monkeypatch.setattr("fcgi_core.supervisor.perf_counter", counter)
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


def test_a_side_that_a_plugin_has_no_half_for_takes_its_options_all_the_same() -> None:
    class WebOnly(Example):
        def application_half(self, host: Host, options: Any) -> ApplicationHalf | None:  # type: ignore[override]
            return None

    supervisor = Supervisor(
        load_plugins({"example": {}}, lambda name: WebOnly()), VirtualLoop(), lambda call: call(), web=False
    )
    assert supervisor.halves == []
    assert supervisor.change({"example.level": "high"}) == {"example.level": ""}
    assert supervisor.statistics()[0]["state"] == "running"


def test_options_that_take_another_half() -> None:
    plugin = Example()
    find = {"example": plugin}.__getitem__
    supervisor = Supervisor(load_plugins({"example": {}}, find), VirtualLoop(), lambda call: call(), web=True)
    first = plugin.half
    assert supervisor.change({"example.level": "anew"}) == {"example.level": ""}
    second = plugin.half
    assert first.closed
    assert second is not first
    assert second.options[None].level == "anew"
    assert supervisor.adopt(load_plugins({"example": {"level": "low"}}, find)) == []
    assert plugin.half is second
    assert supervisor.adopt(load_plugins({"example": {"level": "anew"}}, find)) == []
    assert second.closed
    assert plugin.half.options[None].level == "anew"


def test_options_of_a_host_that_a_plugin_refuses_end_the_start() -> None:
    plugin = Example()
    with pytest.raises(PluginError, match="plugin example cannot start: not this one"):
        Supervisor(
            load_plugins({"example": {"hosts": {"a.test": {"level": "forbidden"}}}}, lambda name: plugin),
            VirtualLoop(),
            lambda call: call(),
            web=True,
        )
    assert plugin.half.closed


def test_options_by_host() -> None:
    options = OptionsByHost("common")
    options.change("own", "a.test")
    assert [options["a.test"], options["b.test"], options[""]] == ["own", "common", "common"]
    options.change("another")
    assert (options["a.test"], options["b.test"]) == ("own", "another")
    assert options.values() == ["another", "own"]
    options.change("another", "a.test")
    assert options.values() == ["another"]
