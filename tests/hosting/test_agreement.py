"""Two sides that declare the channels of a plugin in different ways: nothing is lost without a word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from fcgi_core.hosting.agreement import (
    MOST_UNKNOWN,
    SAME_DISAGREEMENT_EVERY,
    TELL_DISAGREEMENT_AFTER,
    Disagreement,
    disagreements,
)
from fcgi_core.hosting.discovery import load_plugins
from fcgi_core.hosting.links import Link
from fcgi_core.hosting.supervisor import Supervisor
from fcgi_core.hosting.switching import change_plugins
from fcgi_core.plugin import ApplicationHalf, Host, Plugin, RequestInfo, WebHalf
from fcgi_core.protocol.channels import ASIDE, Channel, Direction, Priority, Scope
from fcgi_core.protocol.connection import Connection
from fcgi_core.protocol.events import Event, FeedbackReceived, PeerChanged
from fcgi_core.protocol.settings import Settings
from tests.hosting.supervised import VirtualLoop
from tests.protocol.helpers import Pair, idle

LINES = Channel("lines", counted=True)
BACK = Channel("lines.back", direction=Direction.TO_APPLICATION)


def of(peer_channels: tuple[str, ...], peer_accepts: tuple[str, ...], *channels: Channel) -> dict[str, Disagreement]:
    settings = Settings(channels=peer_channels, accepts=peer_accepts)
    return disagreements(channels, Direction.TO_WEB, settings)


def test_channels_that_are_declared_alike_agree() -> None:
    assert of((BACK.describe(),), (LINES.describe(),), LINES, BACK) == {}
    assert of((), ("lines",), LINES) == {}, "by name alone"
    assert of((), (LINES.describe() + ASIDE,), LINES) == {}, "set aside there, and declared alike"
    assert of((), (replace(LINES, priority=Priority.URGENT).describe(),), LINES) == {}
    assert of((), ()) == {}
    assert of(("lines.opened;request;ordinary",), (LINES.describe(),), LINES) == {}, "by a half that runs there"


@pytest.mark.parametrize("other", [replace(LINES, scope=Scope.REQUEST), replace(LINES, acknowledged=True),
                                   replace(LINES, counted=False)])  # fmt: skip
def test_channels_that_are_declared_differently_disagree(other: Channel) -> None:
    (found,) = of((), (other.describe(),), LINES).values()
    assert str(found) == f"here {LINES.describe()}, there {other.describe()}"
    assert found.loses
    (found,) = of((other.describe(),), (), replace(LINES, direction=Direction.TO_APPLICATION)).values()
    assert not found.loses, "it is the other side that sends"


def test_a_plugin_on_one_side_only() -> None:
    assert str(of((), (), LINES, BACK)["lines"]) == f"here {LINES.describe()}, {BACK.describe()}, there nothing"
    found = of(("other;association;ordinary",), ("other.back;request;urgent",), LINES)
    assert str(found["other"]) == "here nothing, there other.back;request;urgent, other;association;ordinary"
    assert not found["other"].loses
    assert found["lines"].loses


def test_declarations_of_a_peer_are_bounded_and_harmless() -> None:
    found = of((), tuple(f"p{number};\x1b[31m{'x' * 1000}" for number in range(1000)))
    assert len(found) == MOST_UNKNOWN
    assert all("\x1b" not in str(one) and len(str(one)) < 400 for one in found.values())


class Half(ApplicationHalf):
    """Takes STDERR, and sends it as lines."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
        self.host.send("lines", data, request=request)
        return True


class Lines(Plugin):
    name = "lines"

    class Options(Plugin.Options):
        scope: Scope = Scope.ASSOCIATION

    half: Half

    def channels(self, options: Any) -> list[Channel]:
        return [Channel("lines", options.scope)]

    def application_half(self, host: Host, options: Any) -> ApplicationHalf:
        self.half = Half(host)
        return self.half

    def web_half(self, host: Host, options: Any) -> WebHalf:
        return WebHalf()


class Sides:
    """Two supervisors with an association between them."""

    def __init__(self, web: Mapping[str, Any] | None, app: Mapping[str, Any] | None) -> None:
        self.loop = VirtualLoop()
        self.plugin = Lines()
        self.web = self._supervisor(web, web=True)
        self.app = self._supervisor(app, web=False)
        self.pair = Pair()
        for connection, supervisor in self._ends():
            connection.set_channels(supervisor.channels)
        self.pair.run()
        named = {"name": "the other"}
        for connection, _ in self._ends():
            assert connection.peer_settings is not None
            connection.peer_settings = replace(connection.peer_settings, **named)
        self.web_link = self.web.association_up(idle(self.pair.web), 1, "app:9000")
        self.app_link = self.app.association_up(idle(self.pair.app), 1, "web:49152")
        self.run()

    def _supervisor(self, options: Mapping[str, Any] | None, *, web: bool) -> Supervisor:
        plugins = load_plugins({} if options is None else {"lines": options}, lambda name: self.plugin)
        return Supervisor(plugins, self.loop, lambda call: call(), web=web)

    def _ends(self) -> list[tuple[Connection, Supervisor]]:
        return [(self.pair.web, self.web), (self.pair.app, self.app)]

    def run(self) -> None:
        for _ in range(4):
            self.pair.run()
            for supervisor, link, events in (
                (self.web, self.web_link, self.pair.take_web()),
                (self.app, self.app_link, self.pair.take_app()),
            ):
                for event in events:
                    self._on_event(supervisor, link, event)

    @staticmethod
    def _on_event(supervisor: Supervisor, link: Link, event: Event) -> None:
        if isinstance(event, PeerChanged):
            supervisor.peer_changed(link)
        elif isinstance(event, FeedbackReceived):
            supervisor.feedback(event.channel, event.data, None, link)


def test_both_sides_report_it_when_they_meet_and_show_it(caplog: pytest.LogCaptureFixture) -> None:
    sides = Sides(web={"scope": "request"}, app={"scope": "association"})
    here, there = "lines;association;ordinary", "lines;request;ordinary"
    told = (
        "plugin lines: this side and the other at {} declare different channels, and nothing is sent on those:"
        " here {}, there {}; enable it on both sides, with the same options"
    )
    assert caplog.messages == [told.format("app:9000", there, here), told.format("web:49152", here, there)]
    (web,), (app,) = sides.web.statistics(), sides.app.statistics()
    assert (web["state"], app["state"]) == ("disagrees", "disagrees")
    assert app["disagreements"] == [{"association": 1, "peer": "web:49152", "here": here, "there": there}]
    assert sides.app.transport().disagreements == {"lines": 1}
    again = sides.app.association_up(idle(sides.pair.app), 4, "web:49155")
    assert sides.app.transport().disagreements == {"lines": 1}, "another association with the same process"
    sides.app.association_down(again, "")
    sides.loop.pass_time(3 * TELL_DISAGREEMENT_AFTER)
    assert len(caplog.messages) == 2, "once"
    sides.app.association_down(sides.app_link, "")
    sides.app.association_up(idle(sides.pair.app), 2, "web:49153")
    assert len(caplog.messages) == 2, "nor for each association"
    sides.app.association_down(sides.app.links[0], "")
    sides.loop.pass_time(SAME_DISAGREEMENT_EVERY)
    sides.app.association_up(idle(sides.pair.app), 3, "web:49154")
    assert len(caplog.messages) == 3


def test_a_plugin_that_is_only_there_is_shown_too(caplog: pytest.LogCaptureFixture) -> None:
    sides = Sides(web=None, app={})
    assert len(caplog.messages) == 2
    (web,), (app,) = sides.web.statistics(), sides.app.statistics()
    assert (web["name"], web["state"], web["channels"]) == ("lines", "only there", [])
    assert app["state"] == "disagrees"
    assert sides.web.transport().disagreements == {"lines": 1}


def test_a_plugin_that_is_off_here_and_on_there_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    sides = Sides(web={"enabled": False}, app={})
    (web,) = sides.web.statistics()
    assert (web["state"], len(web["disagreements"])) == ("off", 1)
    assert len(caplog.messages) == 2


def test_lines_that_cannot_go_stay_on_stderr_and_are_counted() -> None:
    sides = Sides(web=None, app={})
    assert not sides.plugin.half.host.is_taken("lines")
    assert sides.app.stderr(None, b"kept") is False, "so that it goes as FCGI_STDERR, or to stderr"
    (app,) = sides.app.statistics()
    (channel,) = app["channels"]
    assert (channel["sent"], channel["waiting"]) == (0, 1)
    sides.app.close()
    assert sides.app.delivery.lost == {"lines": 1}

    agreed = Sides(web={}, app={})
    assert agreed.plugin.half.host.is_taken("lines")
    assert agreed.app.stderr(None, b"sent") is True
    assert agreed.app.statistics()[0]["state"] == "running"


def test_of_a_request_its_own_association_says_whether_lines_can_go() -> None:
    sides = Sides(web=None, app={})
    other = Pair(channels=tuple(sides.app.channels))
    good = sides.app.association_up(idle(other.app), 2, "web:2")
    assert sides.app.stderr(None, b"another web side takes them") is True

    class Request:
        def __init__(self, link: Link) -> None:
            self.link = link

    of_request: Any = Request(sides.app_link)
    assert sides.app.stderr(of_request, b"x") is False
    of_request = Request(good)
    assert sides.app.stderr(of_request, b"x") is True
    sides.app.association_down(good, "")
    assert sides.app.stderr(None, b"x") is False


def test_sides_that_change_together_are_not_reported_and_those_that_stay_apart_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sides = Sides(web={}, app={})
    assert change_plugins(sides.app, {"lines.scope": "request"}) == {"lines.scope": ""}
    sides.run()
    assert [one["state"] for side in (sides.web, sides.app) for one in side.statistics()] == ["disagrees"] * 2
    sides.loop.pass_time(TELL_DISAGREEMENT_AFTER / 2)
    assert caplog.messages == []
    change_plugins(sides.web, {"lines.scope": "request"})
    sides.run()
    assert [one["state"] for side in (sides.web, sides.app) for one in side.statistics()] == ["running"] * 2
    sides.loop.pass_time(2 * TELL_DISAGREEMENT_AFTER)
    assert caplog.messages == []
    change_plugins(sides.app, {"lines.enabled": "false"})
    sides.run()
    sides.loop.pass_time(2 * TELL_DISAGREEMENT_AFTER)
    assert len(caplog.messages) == 2
    change_plugins(sides.app, {"lines.enabled": "true"})
    sides.run()
    assert sides.web.transport().disagreements == {}


def test_a_plugin_that_is_set_aside_there_does_not_disagree(caplog: pytest.LogCaptureFixture) -> None:
    sides = Sides(web={}, app={})
    entry = sides.web.running("lines")
    assert entry is not None
    sides.web._set_aside(entry, entry, "was told to be quiet")
    sides.run()
    assert not sides.plugin.half.host.is_taken("lines")
    sides.loop.pass_time(2 * TELL_DISAGREEMENT_AFTER)
    assert sides.app.statistics()[0]["state"] == "running"
    assert [record for record in caplog.records if "declare" in record.getMessage()] == []
