"""Plugins at work: halves made and verified, items taken over."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

import pytest

from fcgi_core.errors import ConfigError, PluginError
from fcgi_core.hosting.discovery import load_plugins
from fcgi_core.hosting.supervisor import Supervisor
from fcgi_core.plugin import (
    ApplicationHalf,
    AssociationInfo,
    Host,
    OutputFigures,
    Plugin,
    RequestInfo,
    WebHalf,
)
from fcgi_core.protocol.channels import Channel, Direction, Scope
from fcgi_core.protocol.settings import Settings
from tests.hosting.supervised import Example, Recorder, VirtualLoop, linked, start
from tests.protocol.helpers import ROOM, Pair, idle


def test_items_are_acknowledged_when_they_are_stored() -> None:
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


def test_a_member_with_anothers_instance_gets_nothing_else_of_it() -> None:
    """Its items are not repetitions of the other's, and it finds none of the other's requests."""
    supervisor, half, _ = start()
    links = []
    for number, member in enumerate(("hostile", "shop", "shop")):
        settings = Settings(instance="web", association=number)
        pair = Pair(settings, Settings(instance="same"), channels=tuple(supervisor.channels))
        links.append(supervisor.association_up(idle(pair.web), number, "peer", member))
        for item in (b"one", b"two"):
            supervisor.feedback("example.sure", len(half.items).to_bytes(8, "big") + item, None, links[-1])
    assert half.items == [b"one", b"two"] * 3
    supervisor.feedback("example.sure", (2).to_bytes(8, "big") + b"again", None, links[1])
    assert half.items == [b"one", b"two"] * 3
    hostile, shop, other_shop = links
    request = shop.connection.begin_request(b"", body=b"")
    request.context = object()
    number = shop.mark | request.id << 8 | request.generation
    assert supervisor.find_requests([number]) == [request.context]
    assert supervisor.find_requests([number], hostile.info) == [None]
    assert supervisor.find_requests([number], other_shop.info) == [request.context], (
        "another association of the process"
    )


def test_all_problems_of_plugins_are_reported_at_once() -> None:
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


def test_a_slow_commit_acknowledges_when_it_is_done() -> None:
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


def test_files_are_reopened() -> None:
    supervisor, half, _ = start()
    calls: list[str] = []
    half.reopen = lambda: calls.append("reopen")  # type: ignore[method-assign]
    supervisor.reopen()
    assert calls == ["reopen"]


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
    assert "channels(options) cannot be called: it is channels()" in told
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
    assert "request_end(request, outcome) cannot be called: it is request_end(request" in told
    assert "tick() must be a plain function" in told
    assert "feedback" not in told
    assert "association_up" not in told
    with pytest.raises(PluginError, match="is not a WebHalf"):
        start_half(ApplicationHalf())
    start_half(WebHalf())


def acknowledged_by(pair: Any) -> list[int]:
    pair.run()
    return [event.number for event in pair.app_events if type(event).__name__ == "ItemsAcknowledged"]


@pytest.mark.parametrize("way", ["raises", "the future fails", "the future is cancelled"])
def test_storing_is_retried_without_further_items(way: str) -> None:
    """The sender's spool may be full: without an acknowledgement it takes nothing any more."""
    supervisor, half, loop = start()
    failing = True

    def commit() -> Future[None] | None:
        if failing and way == "raises":
            raise OSError("disk full")
        done: Future[None] = Future()
        if failing and way == "the future is cancelled":
            done.cancel()
        elif failing:
            done.set_exception(OSError("disk full"))
        else:
            done.set_result(None)
        return done

    half.commit = commit  # type: ignore[method-assign, assignment]
    pair, link = linked(supervisor)
    supervisor.feedback("example.sure", (1).to_bytes(8, "big") + b"one", None, link)
    loop.pass_time(3)
    assert acknowledged_by(pair) == []
    failing = False
    loop.pass_time(2)
    assert acknowledged_by(pair) == [1]
    loop.pass_time(10)
    assert acknowledged_by(pair) == [1], "once"


@pytest.mark.parametrize("goes", ["association", "plugin"])
def test_storing_is_not_retried_for_a_plugin_or_association_that_is_gone(goes: str) -> None:
    supervisor, half, loop = start()
    calls = 0

    def commit() -> None:
        nonlocal calls
        calls += 1
        raise OSError("disk full")

    half.commit = commit  # type: ignore[method-assign]
    _, link = linked(supervisor)
    supervisor.feedback("example.sure", (1).to_bytes(8, "big") + b"one", None, link)
    loop.pass_time(3)
    assert calls == 3
    if goes == "association":
        supervisor.association_down(link, "")
    else:
        entry = supervisor.running("example")
        assert entry is not None
        supervisor.stop(entry)
    loop.pass_time(5)
    assert calls == 3


def test_items_of_requests_that_wait_when_an_association_ends_are_counted() -> None:
    class OfRequests(Example):
        def channels(self, options: Any) -> list[Channel]:
            return [Channel("example", Scope.REQUEST, direction=Direction.TO_APPLICATION)]

    supervisor = Supervisor(
        load_plugins({"example": {}}, {"example": OfRequests()}.__getitem__),
        VirtualLoop(),
        lambda call: call(),
        web=True,
    )
    pair, link = linked(supervisor)
    under_way = pair.web.begin_request(b"", body=b"")
    over = pair.web.begin_request(b"", body=b"")
    pair.run()
    for request in (under_way, over):
        for _ in range(3):
            assert pair.web.send_feedback("example", b"x", request)
    pair.app.end_request(pair.app.requests[over.key])
    pair.web.receive(pair.app.take(ROOM), 0.0)
    assert len(pair.web.requests) == 1
    supervisor.association_down(link, "")
    (totals,) = supervisor.transport().channels
    assert (totals.sent, totals.dropped) == (0, 6)


def test_a_plugin_that_ends_the_process_where_it_is_imported_or_made_is_an_error() -> None:
    class Exits(Wrong):
        def __init__(self) -> None:
            raise SystemExit(0)

    class Asked(Wrong):
        def channels(self, options: Any) -> list[Channel]:
            raise SystemExit(0)

    assert "its constructor failed: SystemExit(0)" in wrong_because(Exits)
    assert "its channels() failed: SystemExit(0)" in wrong_because(Asked)


def test_outputs_of_a_half_are_in_the_figures() -> None:
    disk = OutputFigures("/var/log/shop", "failing", "No space left on device", 3, 10, 5, 500, 2, 20, 1)

    class Writer(Recorder):
        def output_figures(self) -> list[OutputFigures]:
            if self.broken:
                raise RuntimeError("broken")
            return [disk]

    class Writing(Example):
        def web_half(self, host: Host, options: Any) -> WebHalf:
            self.half = Writer(options)
            return self.half

    plugin = Writing()
    enabled = load_plugins({"example": {}}, {"example": plugin}.__getitem__)
    supervisor = Supervisor(enabled, VirtualLoop(), lambda call: call(), web=True)
    assert supervisor.statistics()[0]["outputs"] == [asdict(disk)]
    assert supervisor.transport().outputs == [("example", disk)]
    plugin.half.broken = True
    (figures,) = supervisor.statistics()
    assert figures["outputs"] == []
    assert supervisor.statistics()[0]["errors"] == 1
    assert start()[0].statistics()[0]["outputs"] == []
