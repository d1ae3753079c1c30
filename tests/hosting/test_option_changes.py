"""Options that change at run time: one by one, by a new file, by a peer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fcgi_core.errors import NO_EFFECT, ConfigError
from fcgi_core.hosting.discovery import load_plugins
from fcgi_core.hosting.supervisor import Supervisor
from fcgi_core.hosting.switching import (
    CHANGES_A_SECOND,
    MAX_CHANGES,
    MAX_HOSTS,
    MAX_NAME,
    PeerChanges,
    adopt_plugins,
    change_plugins,
)
from fcgi_core.plugin import (
    ApplicationHalf,
    AssociationInfo,
    Host,
    OptionsByHost,
    Plugin,
    PluginError,
    WebHalf,
)
from tests.hosting.supervised import Example, Recorder, VirtualLoop, linked, start

# ---- options of one side, one by one or by a new file


def test_options_change_while_running_and_each_name_is_answered() -> None:
    supervisor, half, _ = start()
    answers = change_plugins(supervisor, {"example.level": "high", "example.level@a.test": "low", "nobody.level": "1"})
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
        ("example.level", "[", "expected one value"),
    ],
)
def test_a_wrong_change_is_reported_and_changes_nothing(name: str, value: str, reason: str) -> None:
    supervisor, half, _ = start()
    assert reason in change_plugins(supervisor, {name: value})[name]
    assert half.options[None].level == "low"
    assert change_plugins(supervisor, {"example.level": "high"}) == {"example.level": ""}


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
    assert change_plugins(supervisor, {"example.enabled": "false"}) == {"example.enabled": ""}
    assert half.closed
    supervisor.feedback("example", b"unheard", None, link)
    assert supervisor.statistics()[0]["state"] == "off"
    assert change_plugins(supervisor, {"example.level": "high"}) == {"example.level": ""}, "for the next time"
    assert change_plugins(supervisor, {"example.enabled": "false"}) == {"example.enabled": ""}, "it is already"
    assert change_plugins(supervisor, {"example.enabled": "true"}) == {"example.enabled": ""}
    supervisor.feedback("example", b"heard", None, link)
    (again,) = supervisor.halves
    assert isinstance(again, Recorder)
    assert again is not half
    assert (half.items, again.items) == ([], [b"heard"])
    assert again.options[None].level == "high"
    assert again.up == 1, "it hears of the association that was there before it"


def test_a_new_file_is_applied() -> None:
    plugin = Example()
    supervisor = Supervisor(
        load_plugins({"example": {}}, lambda name: plugin), VirtualLoop(), lambda call: call(), web=True
    )
    half = plugin.half
    find = {"example": plugin}.__getitem__
    assert adopt_plugins(supervisor, load_plugins({"example": {"level": "high"}}, find)) == []
    assert half.options[None].level == "high"
    assert adopt_plugins(supervisor, load_plugins({"example": {"wide": True}}, find)) == []
    assert half.closed, "other channels: it starts anew"
    assert "example.more" in {channel.name for channel in supervisor.channels}
    assert adopt_plugins(supervisor, load_plugins({"example": {"enabled": False}}, find)) == []
    assert supervisor.statistics()[0]["state"] == "off"
    assert plugin.half.closed
    assert supervisor.channels == []
    assert adopt_plugins(supervisor, []) == []
    assert supervisor.statistics() == []
    assert "does not name it" in change_plugins(supervisor, {"example.enabled": "true"})["example.enabled"]
    assert adopt_plugins(supervisor, load_plugins({"example": {"level": "high"}}, find)) == []
    assert plugin.half.options[None].level == "high"
    assert supervisor.statistics()[0]["state"] == "running"


def test_a_hosts_own_options_stay_when_the_plugins_change() -> None:
    supervisor, half, _ = start({"hosts": {"a.test": {"level": "high"}, "b.test": {"wide": False}}})
    assert change_plugins(supervisor, {"example.level": "high", "example.wide@a.test": "false"}) == {
        "example.level": "",
        "example.wide@a.test": "",
    }
    assert {name: options.level for name, options in half.options.items()} == {
        None: "high",
        "a.test": "high",
        "b.test": "high",
    }
    assert change_plugins(supervisor, {"example.level": "low"}) == {"example.level": ""}
    assert {name: options.level for name, options in half.options.items()} == {
        None: "low",
        "a.test": "high",
        "b.test": "low",
    }
    assert adopt_plugins(supervisor, load_plugins({"example": {}}, lambda name: Example())) == []
    assert half.options["a.test"].level == "low", "it has none of its own any more"


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
    assert "no such device" in change_plugins(supervisor, {"example.enabled": "true"})["example.enabled"]
    assert (supervisor.channels, supervisor.statistics()[0]["state"]) == ([], "off")
    assert change_plugins(supervisor, {"example.level": "low", "example.enabled": "true"})["example.enabled"] == ""
    first = plugin.half
    told = change_plugins(supervisor, {"example.wide": "true"})["example.wide"]
    assert "TypeError('a bug')" in told
    assert first.closed
    assert plugin.half is not first, "made again as it was"
    assert not plugin.half.options[None].wide
    assert supervisor.statistics()[0]["state"] == "running"
    (problem,) = adopt_plugins(supervisor, load_plugins({"example": {"wide": True, "level": "high"}}, find))
    assert "no such device" in problem
    assert change_plugins(supervisor, {"example.level": "low"}) == {"example.level": ""}
    assert not plugin.half.options[None].wide


def test_options_change_on_a_side_without_a_half() -> None:
    class WebOnly(Example):
        def application_half(self, host: Host, options: Any) -> ApplicationHalf | None:  # type: ignore[override]
            return None

    supervisor = Supervisor(
        load_plugins({"example": {}}, lambda name: WebOnly()), VirtualLoop(), lambda call: call(), web=False
    )
    assert supervisor.halves == []
    assert change_plugins(supervisor, {"example.level": "high"}) == {"example.level": ""}
    assert supervisor.statistics()[0]["state"] == "running"


def test_options_that_take_another_half() -> None:
    plugin = Example()
    find = {"example": plugin}.__getitem__
    supervisor = Supervisor(load_plugins({"example": {}}, find), VirtualLoop(), lambda call: call(), web=True)
    first = plugin.half
    assert change_plugins(supervisor, {"example.level": "anew"}) == {"example.level": ""}
    second = plugin.half
    assert first.closed
    assert second is not first
    assert second.options[None].level == "anew"
    assert adopt_plugins(supervisor, load_plugins({"example": {"level": "low"}}, find)) == []
    assert plugin.half is second
    assert adopt_plugins(supervisor, load_plugins({"example": {"level": "anew"}}, find)) == []
    assert second.closed
    assert plugin.half.options[None].level == "anew"


def test_a_plugin_that_starts_with_neither_options_is_off_with_both_reasons() -> None:
    class Once(Example):
        starts = 0

        def web_half(self, host: Host, options: Any) -> WebHalf:
            self.starts += 1
            if self.starts > 1:
                raise OSError(f"no licence for {options.level}")
            return super().web_half(host, options)

    supervisor = Supervisor(
        load_plugins({"example": {}}, {"example": Once()}.__getitem__), VirtualLoop(), lambda call: call(), web=True
    )
    (reason,) = change_plugins(supervisor, {"example.level": "anew"}).values()
    assert "no licence for anew" in reason
    assert "it does not start with its former options either" in reason
    assert "no licence for low" in reason
    assert supervisor.statistics()[0]["state"] == "off"


@pytest.mark.parametrize("error", [SystemExit(0), asyncio.CancelledError()])
def test_a_plugin_that_ends_the_process_when_it_is_configured_is_refused(error: BaseException) -> None:
    class Exits(Recorder):
        def configure(self, options: Any, server_name: str | None = None) -> None:
            raise error

    class Plugin(Example):
        def web_half(self, host: Host, options: Any) -> WebHalf:
            self.half = Exits(options)
            return self.half

    supervisor = Supervisor(
        load_plugins({"example": {}}, {"example": Plugin()}.__getitem__), VirtualLoop(), lambda call: call(), web=True
    )
    (reason,) = change_plugins(supervisor, {"example.level": "high"}).values()
    assert reason == f"configure raised {error!r}"


class Deaf(WebHalf):
    """It looks at its options once."""

    def __init__(self, options: Any) -> None:
        self.level = options.level
        self.up = 0

    def association_up(self, association: AssociationInfo) -> None:
        self.up += 1


class HardOfHearing(Example):
    """Its web half has no `configure`; on the other side it has a half, too."""

    halves: list[Deaf]

    def web_half(self, host: Host, options: Any) -> WebHalf:
        self.halves = [*getattr(self, "halves", []), Deaf(options)]
        return self.halves[-1]


class WebAlone(Plugin):
    name = "example"

    class Options(Example.Options):
        pass

    def web_half(self, host: Host, options: Any) -> WebHalf:
        return Deaf(options)


def test_a_half_without_configure_is_made_again_when_options_change() -> None:
    plugin = HardOfHearing()
    find = {"example": plugin}.__getitem__
    supervisor = Supervisor(load_plugins({"example": {}}, find), VirtualLoop(), lambda call: call(), web=True)
    linked(supervisor)
    assert change_plugins(supervisor, {"example.level": "high"}) == {"example.level": ""}
    assert [half.level for half in plugin.halves] == ["low", "high"]
    assert plugin.halves[-1].up == 1, "it hears of what is there"
    assert adopt_plugins(supervisor, load_plugins({"example": {"level": "low"}}, find)) == []
    assert [half.level for half in plugin.halves] == ["low", "high", "low"]
    assert adopt_plugins(supervisor, load_plugins({"example": {"level": "low"}}, find)) == []
    assert len(plugin.halves) == 3, "nothing has changed"


def test_options_of_a_host_that_concern_the_other_half_alone() -> None:
    plugin = HardOfHearing()
    enabled = load_plugins({"example": {"hosts": {"a.test": {"level": "high"}}}}, lambda name: plugin)
    supervisor = Supervisor(enabled, VirtualLoop(), lambda call: call(), web=True)
    told = change_plugins(supervisor, {"example.level@a.test": "low"})
    assert told["example.level@a.test"].startswith(f"{NO_EFFECT}: ")
    assert adopt_plugins(supervisor, enabled) == []
    assert len(plugin.halves) == 1


def test_options_of_a_host_that_would_never_be_looked_at_are_refused() -> None:
    with_host = load_plugins({"example": {"hosts": {"a.test": {"level": "high"}}}}, lambda name: WebAlone())
    why = "it takes no options of one virtual host: its half has no `configure`"
    with pytest.raises(PluginError, match=f"plugin example cannot start: {why}"):
        Supervisor(with_host, VirtualLoop(), lambda call: call(), web=True)
    supervisor = Supervisor(
        load_plugins({"example": {}}, lambda name: WebAlone()), VirtualLoop(), lambda call: call(), web=True
    )
    told = change_plugins(supervisor, {"example.level@a.test": "low"})
    assert told == {"example.level@a.test": f"plugins.example: {why}"}
    assert adopt_plugins(supervisor, with_host) == [f"plugins.example: {why}"]


def test_a_host_is_named_in_letters_of_any_case() -> None:
    supervisor, half, _ = start({"hosts": {"a.test": {"wide": False}}})
    assert change_plugins(supervisor, {"example.level@A.Test": "high"}) == {"example.level@A.Test": ""}
    assert half.options["a.test"].level == "high"
    assert half.options[None].level == "low"


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
    assert options["A.Test"] == "own"
    options.change("another")
    assert (options["a.test"], options["b.test"]) == ("own", "another")
    assert options.values() == ["another", "own"]
    options.change("another", "a.test")
    assert options.values() == ["another"]


# ---- what a peer may change


def test_a_peer_changes_what_the_plugin_lets_it() -> None:
    supervisor, half, _ = start()
    peer = PeerChanges(supervisor, True)
    assert peer.change({"example.level": "high", "example.level@a.test": "low"}, 0.0) == {
        "example.level": "",
        "example.level@a.test": "",
    }
    for name, value in (("example.wide", "true"), ("example.enabled", "false"), ("example.wide@a.test", "true")):
        (reason,) = peer.change({name: value}, 0.0).values()
        assert "a web side may change level; change it in this application's own file" in reason
    both = peer.change({"example.level": "low", "example.wide": "true"}, 0.0)
    assert all(both.values()), "the options of a plugin change together or not at all"
    assert half.options[None].level == "high"
    assert not half.closed
    assert "not enabled" in peer.change({"nobody.level": "1"}, 0.0)["nobody.level"]
    for value in ("[high]", "{a: 1}", "[" * 1000, "x" * 2000, "&a [*a]"):
        assert peer.change({"example.level": value}, 0.0)["example.level"]
    assert half.options[None].level == "high"


def test_a_plugin_may_let_a_peer_switch_it() -> None:
    class Switched(Example):
        switched_by_peer = True

    plugin = Switched()
    supervisor = Supervisor(
        load_plugins({"example": {}}, lambda name: plugin), VirtualLoop(), lambda call: call(), web=True
    )
    assert PeerChanges(supervisor, True).change({"example.enabled": "false"}, 0.0) == {"example.enabled": ""}
    assert plugin.half.closed


def test_a_peer_changes_nothing_where_it_may_not() -> None:
    supervisor, half, _ = start()
    (reason,) = PeerChanges(supervisor, False).change({"example.level": "high"}, 0.0).values()
    assert "app.remote_changes" in reason
    assert half.options[None].level == "low"


def test_changes_of_a_peer_are_bounded() -> None:
    supervisor, half, _ = start()
    peer = PeerChanges(supervisor, True)
    for number in range(MAX_CHANGES):
        assert peer.change({"example.level": ("low", "high")[number % 2]}, 100.0) == {"example.level": ""}
    assert "too many changes" in peer.change({"example.level": "low"}, 100.0)["example.level"]
    assert half.options[None].level == "high"
    assert peer.change({"example.level": "low"}, 100.0 + 1 / CHANGES_A_SECOND) == {"example.level": ""}
    many = {f"example.level@{number}": "low" for number in range(MAX_CHANGES + 1)}
    assert all(peer.change(many, 10_000.0).values())
    assert set(half.options) == {None}


def test_hosts_that_a_peer_names_are_bounded() -> None:
    supervisor, half, _ = start()
    peer = PeerChanges(supervisor, True)
    for number in range(MAX_HOSTS):
        assert peer.change({f"example.level@{number}.test": "high"}, 1000.0 * number) != {"": ""}
    assert len(half.options) == 1 + MAX_HOSTS
    (reason,) = peer.change({"example.level@more.test": "high"}, 1e9).values()
    assert f"{MAX_HOSTS} virtual hosts" in reason
    assert peer.change({"example.level@1.test": "low"}, 1e9) == {"example.level@1.test": ""}
    assert len(half.options) == 1 + MAX_HOSTS
    (reason,) = peer.change({f"example.level@{'x' * MAX_NAME}": "high"}, 1e9).values()
    assert f"more than {MAX_NAME} characters" in reason
