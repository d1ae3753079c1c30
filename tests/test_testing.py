"""The test kit itself, on the plugins that ship and on plugins that break the contract."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.errors import PluginError
from fcgi_core.plugin import (
    MAX_ITEM,
    ApplicationHalf,
    AssociationInfo,
    Channel,
    FeedEntry,
    Host,
    Outcome,
    Plugin,
    Priority,
    RequestInfo,
    Scope,
    WebHalf,
    WebHost,
    current_request,
    values_of,
)
from fcgi_core.testing import PluginHarness, check_contract


class Told(ApplicationHalf):
    def __init__(self, host: Host, options: Any) -> None:
        self.host = host
        self.over = options.over

    def configure(self, options: Any, server_name: str | None = None) -> None:
        self.over = options.over

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        if outcome.duration > self.over:
            self.host.send("slow", f"{request.params['SERVER_NAME']} {outcome.duration:.1f}".encode(), request=request)


class Shown(WebHalf):
    def __init__(self, host: WebHost) -> None:
        self.host = host

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo) -> None:
        self.host.publish(FeedEntry(0.0, 4, item.decode(), request=request.identity if request else ""))


class Slow(Plugin):
    name = "slow"

    class Options(Plugin.Options):
        over: float = 0.5

    def channels(self, options: Any) -> list[Channel]:
        return [Channel("slow", Scope.REQUEST)]

    def application_half(self, host: Host, options: Any) -> ApplicationHalf:
        return Told(host, options)

    def web_half(self, host: WebHost, options: Any) -> WebHalf:
        return Shown(host)


def test_items_of_the_application_half_arrive_with_their_request() -> None:
    with PluginHarness(Slow(), {"over": 1.0}) as harness:
        quick, slow = harness.begin({"SERVER_NAME": "quick.example"}), harness.begin({"SERVER_NAME": "slow.example"})
        harness.end(quick)
        harness.run(2.0)
        harness.end(slow)
        harness.run(1.0)
        (entry,) = harness.published
        assert entry.message.startswith("slow.example 2.")
        assert entry.request == slow.identity
        assert harness.figures("slow") == {"sent": 1, "received": 1, "dropped": 0}
        assert isinstance(harness.application_half, Told)


def test_options_change_while_running() -> None:
    with PluginHarness(Slow()) as harness:
        assert harness.change({"slow.over": "0.01"}) == {}
        assert "number" in harness.change({"slow.over": "fast"})["slow.over"]
        harness.end(harness.begin())
        harness.run(1.0)
        assert len(harness.published) == 1


def test_the_contract_of_a_good_plugin() -> None:
    check_contract(Slow(), {"over": 0.1})


def test_the_plugins_that_ship_keep_the_contract(tmp_path: Path) -> None:
    from fcgi_metrics import plugin as metrics
    from fcgi_syslog import plugin

    check_contract(plugin())
    for scope in ("stream", "association"):
        check_contract(plugin(), {"scope": scope, "outputs": [{"file": f"{tmp_path}/{{server_name}}.log"}]})
    check_contract(plugin(), {"delivery": "acknowledged", "spool": str(tmp_path)})

    async def on_a_loop() -> None:
        check_contract(metrics(), {"listen": f"unix:{tmp_path}/page", "interval": 1})

    asyncio.run(on_a_loop())


def test_an_item_of_association_scope_names_requests() -> None:
    class Names(ApplicationHalf):
        def __init__(self, host: Host) -> None:
            self.host = host

        def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
            assert request.reference is not None
            association, number = request.reference
            assert association.peer == "test"
            assert 0 < number < 1 << 56
            self.host.send("slow", number.to_bytes(8, "big"))

    class Finds(WebHalf):
        def __init__(self, host: WebHost) -> None:
            self.host = host

        def feedback(
            self, channel: str, item: bytes, request: RequestInfo | None, association: AssociationInfo
        ) -> None:
            number = int.from_bytes(item, "big")
            found = self.host.find_requests([number, number, number + 1, 0])
            names = [request and values_of(request.raw_params, (b"SERVER_NAME",))[0] for request in found]
            self.host.publish(FeedEntry(0.0, 6, str(names)))

    class Plugin(Slow):
        def channels(self, options: Any) -> list[Channel]:
            return [Channel("slow")]

        def application_half(self, host: Host, options: Any) -> ApplicationHalf:
            return Names(host)

        def web_half(self, host: WebHost, options: Any) -> WebHalf:
            return Finds(host)

    with PluginHarness(Plugin()) as harness:
        harness.end(harness.begin({"SERVER_NAME": "a.example"}))
        harness.run(1.0)
        late = harness.begin({"SERVER_NAME": "b.example"})
        harness.disconnect()
        harness.connect()
        harness.end(harness.begin({"SERVER_NAME": "c.example"}))
        # another association knows nothing of it, though it has a request with the same id
        harness.end(late)
        harness.run(1.0)
        assert [entry.message for entry in harness.published] == [
            "['a.example', 'a.example', None, None]",
            "['c.example', 'c.example', None, None]",
            "[None, None, None, None]",
        ]


def test_a_plugin_that_raises_breaks_it() -> None:
    class Raises(Slow):
        def application_half(self, host: Host, options: Any) -> ApplicationHalf:
            class Half(ApplicationHalf):
                def request_begin(self, request: RequestInfo) -> None:
                    raise RuntimeError("no")

            return Half()

    with pytest.raises(AssertionError, match="a hook raised"):
        check_contract(Raises())


@pytest.mark.parametrize("hook", ["reopen", "close"])
def test_a_plugin_that_cannot_be_reopened_or_switched_off_breaks_it(hook: str) -> None:
    class Raises(Slow):
        def web_half(self, host: WebHost, options: Any) -> WebHalf:
            def broken() -> None:
                raise RuntimeError("no")

            half = Shown(host)
            setattr(half, hook, broken)
            return half

    with pytest.raises(AssertionError, match="a hook raised"):
        check_contract(Raises())


def test_lines_are_bound_to_the_request_that_the_application_works_for() -> None:
    with PluginHarness(Slow()) as harness:
        request = harness.begin()
        with harness.bound(request):
            assert current_request() is request
        assert current_request() is None


def test_unhandled_stderr_travels_and_a_missing_half_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    class Web(Slow):
        heard: list[bytes] = []  # noqa: RUF012  one plugin, one test

        def application_half(self, host: Host, options: Any) -> None:  # type: ignore[override]
            return None

        def web_half(self, host: WebHost, options: Any) -> WebHalf:
            heard = self.heard

            class Half(WebHalf):
                def stderr(self, request: RequestInfo, data: bytes) -> None:
                    heard.append(data)

            return Half()

    plugin = Web()
    with caplog.at_level(logging.ERROR), PluginHarness(plugin) as harness:
        request = harness.begin()
        assert harness.stderr(request, b"oh\n") is False
        harness.run(1.0)
        harness.end(request)
        with pytest.raises(PluginError, match="no ApplicationHalf"):
            _ = harness.application_half
    assert plugin.heard == [b"oh\n"]
    assert not caplog.records


@pytest.mark.parametrize("priority", [Priority.URGENT, Priority.ORDINARY])
def test_the_longest_item_arrives_whatever_its_priority_and_nothing_else_need_move(priority: Priority) -> None:
    class Says(ApplicationHalf):
        def __init__(self, host: Host) -> None:
            self.host = host

    class Long(Slow):
        def channels(self, options: Any) -> list[Channel]:
            return [Channel("slow", priority=priority, queue_bytes=4 << 20)]

        def application_half(self, host: Host, options: Any) -> ApplicationHalf:
            return Says(host)

    with PluginHarness(Long()) as harness:
        harness.stop_ticks()
        half = harness.application_half
        assert isinstance(half, Says)
        for _ in range(3):
            half.host.send("slow", bytes(MAX_ITEM))
        harness.run(5.0)
        assert harness.figures("slow") == {"sent": 3, "received": 3, "dropped": 0}


def test_a_request_that_cannot_arrive_is_an_error_and_not_waited_for() -> None:
    with PluginHarness(Slow()) as harness:
        harness.disconnect()
        with pytest.raises(AssertionError, match="call connect"):
            harness.begin()
        harness.connect()
        harness._on_event = lambda *args: None  # type: ignore[method-assign]
        with pytest.raises(AssertionError, match="has not arrived after 60 s"):
            harness.begin()
