"""Plugins switched off and on, channels and streams opened, while requests run: both sides, real protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fcgi_core.hosting.delivery import MAX_EXTRA_STREAMS
from fcgi_core.plugin import (
    ApplicationHalf,
    AssociationInfo,
    Channel,
    Direction,
    Host,
    Plugin,
    PluginError,
    RequestInfo,
    Scope,
    WebHalf,
    WhenFull,
)
from fcgi_core.protocol.channels import MAX_CHANNELS
from fcgi_core.testing import PluginHarness

Item = tuple[str, bytes, str]


class Sender(ApplicationHalf):
    def __init__(self, host: Host, plugin: Talk) -> None:
        self.host = host
        self.plugin = plugin
        plugin.senders.append(self)

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        self.plugin.down.append(item)

    def association_up(self, association: AssociationInfo) -> None:
        self.plugin.ups.append("application")

    def close(self) -> None:
        self.host.send("talk", b"the last word")


class Receiver(WebHalf):
    def __init__(self, host: Host, plugin: Talk) -> None:
        self.host = host
        self.plugin = plugin
        plugin.receivers.append(self)

    def association_up(self, association: AssociationInfo) -> None:
        self.plugin.ups.append("web")

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        self.plugin.up.append((channel, item, "" if request is None else request.server_name))


class Talk(Plugin):
    name = "talk"

    class Options(Plugin.Options):
        counted: bool = False
        spool: str | None = None

    def __init__(self) -> None:
        self.senders: list[Sender] = []
        self.receivers: list[Receiver] = []
        self.up: list[Item] = []
        self.down: list[bytes] = []
        self.ups: list[str] = []

    def channels(self, options: Any) -> list[Channel]:
        return [
            Channel("talk", counted=options.counted),
            Channel("talk.sure", acknowledged=True, spool=options.spool),
            Channel("talk.request", Scope.REQUEST),
            Channel("talk.down", direction=Direction.TO_APPLICATION),
        ]

    def application_half(self, host: Host, options: Any) -> ApplicationHalf:
        return Sender(host, self)

    def web_half(self, host: Host, options: Any) -> WebHalf:
        return Receiver(host, self)


OFF = {"talk.enabled": "false"}
ON = {"talk.enabled": "true"}


def items(plugin: Talk) -> list[bytes]:
    return [item for _, item, _ in plugin.up]


def test_off_and_on_again_on_both_sides() -> None:
    plugin = Talk()
    with PluginHarness(plugin) as harness:
        first = plugin.senders[0].host
        first.send("talk", b"one")
        harness.run()
        assert harness.change(OFF) == {}
        first.send("talk", b"nobody is there any more")
        harness.run()
        assert items(plugin) == [b"one", b"the last word"]
        assert harness.change(ON) == {}
        plugin.senders[1].host.send("talk", b"two")
        plugin.receivers[1].host.send("talk.down", b"down")
        harness.run()
        assert items(plugin)[2:] == [b"two"]
        assert plugin.down == [b"down"]
        assert harness.figures("talk") == {"sent": 3, "received": 3, "dropped": 1}


@pytest.mark.parametrize("web_first", [True, False])
def test_a_side_that_is_switched_on_alone_waits_for_the_other(web_first: bool) -> None:
    plugin = Talk()
    with PluginHarness(plugin) as harness:
        harness.change(OFF)
        harness.run()
        plugin.up.clear()
        harness.change(ON, web=web_first, application=not web_first)
        harness.run()
        if not web_first:
            plugin.senders[1].host.send("talk", b"early")
            plugin.senders[1].host.send("talk.sure", b"sure")
            harness.run(5.0)
            assert items(plugin) == []
        harness.change(ON, web=not web_first, application=web_first)
        harness.run()
        if web_first:
            plugin.senders[1].host.send("talk", b"early")
            plugin.senders[1].host.send("talk.sure", b"sure")
        harness.run()
        assert sorted(items(plugin)) == [b"early", b"sure"]


def test_the_web_side_alone_off_for_a_while_loses_nothing_that_is_acknowledged() -> None:
    plugin = Talk()
    with PluginHarness(plugin, loss=0.2, seed=3) as harness:
        sender = plugin.senders[0].host
        for number in range(300):
            sender.send("talk.sure", b"%d" % number)
            sender.send("talk", b"x")
            if number in (50, 150):
                harness.change(OFF, application=False)
            if number in (100, 250):
                harness.change(ON, application=False)
            harness.run(0.02)
        harness.run(30.0)
        sure = [item for channel, item, _ in plugin.up if channel == "talk.sure"]
        assert sorted(set(sure), key=int) == [b"%d" % number for number in range(300)]
        figures = harness.figures("talk")
        assert figures["sent"] == figures["received"] + figures["dropped"]
        assert len([item for item in items(plugin) if item == b"x"]) + figures["dropped"] == 300


def test_items_in_a_spool_wait_until_the_plugin_is_on_again(tmp_path: Path) -> None:
    for spool in (None, str(tmp_path)):
        plugin = Talk()
        with PluginHarness(plugin, {"spool": spool}) as harness:
            harness.change(OFF, application=False)
            harness.run()
            plugin.senders[0].host.send("talk.sure", b"kept")
            harness.change(OFF)
            harness.run(5.0)
            assert harness.change(ON) == {}
            harness.run()
            assert items(plugin).count(b"kept") == 1


def test_a_channel_of_another_kind_starts_without_the_old_items() -> None:
    plugin = Talk()
    with PluginHarness(plugin) as harness:
        plugin.senders[0].host.send("talk", b"\0\0\0\7 but not counted")
        harness.change({"talk.counted": "true"}, application=False)
        harness.run()
        plugin.senders[0].host.send("talk", b"not counted, and the web side takes no such")
        harness.run()
        assert items(plugin) == [b"\0\0\0\7 but not counted"][:0]
        assert harness.change({"talk.counted": "true"}, web=False) == {}
        plugin.senders[1].host.send("talk", b"\0\0\0\5 counted")
        harness.run()
        assert items(plugin) == [b"\0\0\0\5 counted"]


def test_a_request_that_runs_keeps_its_streams_while_a_plugin_goes_and_comes() -> None:
    plugin = Talk()
    with PluginHarness(plugin) as harness:
        request = harness.begin()
        plugin.senders[0].host.send("talk.request", b"before", request=request)
        harness.run()
        harness.change(OFF)
        harness.run()
        harness.change(ON)
        harness.run()
        plugin.senders[1].host.send("talk.request", b"after", request=request)
        harness.run()
        harness.end(request)
        harness.run()
        assert [one for one in plugin.up if one[0] == "talk.request"] == [
            ("talk.request", b"before", "www.example"),
            ("talk.request", b"after", "www.example"),
        ]


def test_a_channel_that_is_opened_while_running() -> None:
    plugin = Talk()
    with PluginHarness(plugin) as harness:
        sender, receiver = plugin.senders[0].host, plugin.receivers[0].host
        profile = Channel("talk.profile", Scope.REQUEST)
        more = Channel("talk.more")
        request = harness.begin()
        for channel in (profile, more):
            sender.open_channel(channel)
        sender.send("talk.more", b"waits for the other side")
        sender.send("talk.profile", b"of a request: too early", request=request)
        harness.run()
        assert plugin.up == []
        for channel in (profile, more):
            receiver.open_channel(channel)
        harness.run()
        sender.send("talk.profile", b"now", request=request)
        harness.run()
        assert plugin.up == [
            ("talk.more", b"waits for the other side", ""),
            ("talk.profile", b"now", "www.example"),
        ]
        assert harness.figures("talk.profile") == {"sent": 1, "received": 1, "dropped": 1}
        harness.disconnect()
        harness.connect()
        sender.send("talk.more", b"on the next association, too")
        harness.run()
        assert plugin.up[-1][1] == b"on the next association, too"
        sender.close_channel("talk.more")
        sender.send("talk.more", b"not any more")
        harness.run()
        assert plugin.up[-1][1] == b"on the next association, too"
        sender.open_channel(more)
        sender.send("talk.more", b"again")
        harness.run()
        assert plugin.up[-1][1] == b"again"
        harness.change(OFF)
        with pytest.raises(PluginError, match="is not running any more"):
            sender.open_channel(Channel("talk.late"))


@pytest.mark.parametrize(
    ("channel", "why"),
    [
        (Channel("other"), "must be called 'talk'"),
        (Channel("talk.sure"), "exists already"),
        (Channel("talk.disk", acknowledged=True, spool="/dev/null/nowhere"), "cannot be opened"),
    ],
)
def test_a_channel_that_cannot_be_opened(channel: Channel, why: str) -> None:
    plugin = Talk()
    with PluginHarness(plugin) as harness:
        with pytest.raises(PluginError, match=why):
            plugin.senders[0].host.open_channel(channel)
        for name in ("talk", "talk.nothing"):
            with pytest.raises(PluginError, match="was not opened"):
                plugin.senders[0].host.close_channel(name)
        plugin.senders[0].host.send("talk", b"all is well")
        harness.run()
        assert items(plugin) == [b"all is well"]


def test_more_channels_than_an_association_can_number() -> None:
    plugin = Talk()
    with PluginHarness(plugin) as harness:
        for number in range(MAX_CHANNELS - 3):
            plugin.senders[0].host.open_channel(Channel(f"talk.n{number}"))
        with pytest.raises(PluginError, match="more than 96 channels"):
            plugin.senders[0].host.open_channel(Channel("talk.n"))
        plugin.senders[0].host.send("talk", b"all is well")
        harness.run()
        assert items(plugin) == [b"all is well"]


def test_one_more_stream_for_a_request() -> None:
    plugin = Talk()
    with PluginHarness(plugin) as harness:
        host = plugin.senders[0].host
        request, other = harness.begin(), harness.begin({"SERVER_NAME": "other.example"})
        streams = [host.open_stream("talk.request", request) for _ in range(3)]
        host.send("talk.request", b"as ever", request=request)
        for number, stream in enumerate(streams):
            stream.send(bytes(30_000) + b"%d" % number)
        host.open_stream("talk.request", other).send(b"another's")
        harness.run()
        assert harness.streams("talk.request") == 5
        assert sorted((item.strip(b"\0"), name) for _, item, name in plugin.up) == [
            (b"0", "www.example"),
            (b"1", "www.example"),
            (b"2", "www.example"),
            (b"another's", "other.example"),
            (b"as ever", "www.example"),
        ]
        assert {len(item) for _, item, _ in plugin.up} == {30_001, 9, 7}
        harness.end(request)
        harness.run()
        assert harness.streams("talk.request") == 1, "given back"
        streams[0].send(b"late")
        harness.run()
        assert plugin.up[-1] == ("talk.request", b"late", "www.example")
        assert harness.figures("talk.request") == {"sent": 6, "received": 6, "dropped": 0}


def test_a_request_cannot_have_all_the_streams() -> None:
    plugin = Talk()
    with PluginHarness(plugin) as harness:
        host = plugin.senders[0].host
        request = harness.begin()
        for _ in range(MAX_EXTRA_STREAMS):
            host.open_stream("talk.request", request)
        with pytest.raises(PluginError, match="a request can have at most 16 additional streams"):
            host.open_stream("talk.request", request)
        for name in ("talk", "talk.down", "nothing"):
            with pytest.raises(PluginError, match="at request scope"):
                host.open_stream(name, request)


def test_a_stream_of_a_request_does_not_wait_for_another_of_it() -> None:
    """One item is lost on its way, a second or so; what the same request sends on its other stream is there before."""
    arrived = False
    for seed in range(40):
        plugin = Talk()
        with PluginHarness(plugin, loss=0.3, seed=seed) as harness:
            host = plugin.senders[0].host
            request = harness.begin()
            stream = host.open_stream("talk.request", request)
            host.send("talk.request", b"first", request=request)
            harness.run(0.0)
            stream.send(b"second")
            harness.run(0.05)
            arrived = arrived or items(plugin) == [b"second"]
            harness.run(5.0)
            assert sorted(items(plugin)) == [b"first", b"second"]
    assert arrived


def test_association_up_is_called_when_the_other_half_is_switched_on() -> None:
    plugin = Talk()
    with PluginHarness(plugin) as harness:
        assert sorted(plugin.ups) == ["application", "web"]
        plugin.ups.clear()
        harness.change(OFF, application=False)
        harness.run()
        assert plugin.ups == []
        harness.change(ON, application=False)
        harness.run()
        assert plugin.ups[:1] == ["web"], "it is new"
        assert "application" in plugin.ups, "it can send what a newcomer should know"


@pytest.mark.parametrize(("when_full", "kept"), [(WhenFull.OLDEST, range(4, 8)), (WhenFull.NEWEST, range(4))])
def test_items_that_wait_for_the_other_side_are_bounded_as_declared(when_full: WhenFull, kept: range) -> None:
    plugin = Talk()
    with PluginHarness(plugin) as harness:
        few = Channel("talk.few", queue_bytes=1024, when_full=when_full)
        plugin.senders[0].host.open_channel(few)
        for number in range(8):
            plugin.senders[0].host.send("talk.few", b"%d" % number * 250)
        harness.run()
        plugin.receivers[0].host.open_channel(few)
        harness.run()
        assert [int(item[:1]) for item in items(plugin)] == list(kept)
        assert harness.figures("talk.few") == {"sent": 4, "received": 4, "dropped": 4}
