"""A test kit for plugin authors: both halves of a plugin on a simulated network, with a clock that the test moves.

    from fcgi_core.testing import PluginHarness, check_contract

    def test_a_slow_request_is_reported() -> None:
        with PluginHarness(SlowPlugin(), {"over": 0.5}) as harness:
            request = harness.begin({"SERVER_NAME": "shop.example"})
            harness.run(2.0)
            harness.end(request)
            harness.run(1.0)
            assert "2.0 s" in harness.published[0].message

    def test_contract() -> None:
        check_contract(SlowPlugin(), {"over": 0.5})

The real protocol core, supervisor and delivery work between the halves; only the web server, the application and the
SCTP stack are left out. Nothing sleeps, nothing opens a socket, and the same seed gives the same run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from .errors import PluginError
from .hosting.delivery import Link
from .hosting.discovery import EnabledPlugin, load_plugins
from .hosting.driver import Driver
from .hosting.supervisor import Supervisor
from .hosting.switching import change_plugins, switches_off
from .plugin import ApplicationHalf, FeedEntry, Half, Plugin, WebHalf, bound_to_request
from .protocol.application import ApplicationConnection
from .protocol.connection import Connection
from .protocol.events import (
    Event,
    FeedbackReceived,
    ItemsAcknowledged,
    PeerChanged,
    PeerReady,
    RequestEnded,
    RequestReceived,
    StderrReceived,
)
from .protocol.records import encode_pairs
from .protocol.settings import Settings
from .protocol.web import WebConnection
from .sctp.carrier import Address, CarrierOptions
from .sctp.memory import MemoryAssociation, MemoryNetwork, VirtualLoop
from .testing_request import HarnessRequest

__all__ = ["HarnessRequest", "PluginHarness", "check_contract"]

_ADDRESS = Address(("192.0.2.1",), 9000)
PATIENCE = 60.0
"""Seconds of the virtual clock that a request may take to arrive."""
DEFAULT_PARAMS = {
    "REQUEST_METHOD": "GET",
    "REQUEST_URI": "/",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/",
    "QUERY_STRING": "",
    "REMOTE_ADDR": "192.0.2.99",
    "SERVER_NAME": "www.example",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
}


class PluginHarness:
    """Runs both halves of a plugin. A context manager: at its end the halves are closed."""

    def __init__(
        self,
        plugin: Plugin,
        options: Mapping[str, Any] | None = None,
        *,
        delay: float = 0.01,
        loss: float = 0.0,
        seed: int = 1,
    ) -> None:
        """`delay` is one way, seconds; `loss` the share of messages that arrive late, after retransmission.

        ConfigError if the plugin or its options are wrong, PluginError if a half cannot start."""
        self.published: list[FeedEntry] = []
        """The lines that the web half added to the live feed."""
        self.requests: list[HarnessRequest] = []
        """The requests on the application side, in the order in which they came."""
        self.stderr_taken: list[bool] = []
        """For each `stderr`: whether the plugin handled it."""
        self._network = MemoryNetwork(seed=seed, delay=delay, loss=loss)
        self._loop = VirtualLoop(self._network)
        self.enabled: EnabledPlugin
        (self.enabled,) = load_plugins({plugin.name: options or {}}, {plugin.name: plugin}.__getitem__)
        self._web = self._supervise(web=True)
        self._application = self._supervise(web=False)
        self._web_requests: dict[tuple[int, int], HarnessRequest] = {}
        self._links: dict[bool, Link] = {}
        self._serial = 0
        self._carrier = self._network.carrier(CarrierOptions())
        self._carrier.listen(_ADDRESS, lambda peer: self._driver(web=False))
        self.connect()

    def __enter__(self) -> PluginHarness:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- the world

    @property
    def now(self) -> float:
        """The virtual clock, seconds."""
        return self._network.now

    def run(self, seconds: float = 1.0) -> None:
        """Let time pass: messages travel, ticks come."""
        self._network.run_until(self.now + seconds)

    def connect(self) -> None:
        """Set an association up (the first one is up from the start)."""
        self._carrier.connect(_ADDRESS, self._driver(web=True))
        self.run(1.0)

    def disconnect(self) -> None:
        """Lose the association, as if a cable were cut; `connect` brings another."""
        for link in tuple(self._links.values()):
            association = link.driver.association
            if isinstance(association, MemoryAssociation):
                association.lose("the test cut it")
        self.run(0.1)

    def reopen(self) -> None:
        """Have both halves open their files again, as SIGUSR1 does."""
        for supervisor in (self._application, self._web):
            supervisor.reopen()

    def stop_ticks(self) -> None:
        """Call no more ticks, so that items on their way can arrive."""
        for supervisor in (self._application, self._web):
            supervisor.stop_ticks()

    def close(self) -> None:
        """Close both halves, the application's first, and let their last items arrive."""
        self._application.close()
        self.run(1.0)
        self._web.close()
        self._carrier.close()

    # ---- the halves

    @property
    def application_half(self) -> ApplicationHalf:
        return _half(self._application, ApplicationHalf)

    @property
    def web_half(self) -> WebHalf:
        return _half(self._web, WebHalf)

    def figures(self, channel: str) -> dict[str, int]:
        """Returns the items of a channel ``sent``, ``received`` and ``dropped``, on both sides and all associations."""
        totals = {"sent": 0, "received": 0, "dropped": 0}
        for supervisor in (self._application, self._web):
            for plugin in supervisor.statistics():
                for one in plugin["channels"]:
                    if one["name"] == channel:
                        for name in totals:
                            totals[name] += one[name]
        return totals

    def change(self, changes: Mapping[str, str], *, web: bool = True, application: bool = True) -> dict[str, str]:
        """Change options while running, on both sides or one, as `fcgi-sctp set` does: ``{"NAME.enabled": "false"}``
        switches the plugin off. Returns the reasons of refused changes."""
        reasons: dict[str, str] = {}
        sides = [(web, self._web), (application, self._application)]
        if switches_off(changes):
            sides.reverse()
        for wanted, supervisor in sides:
            answers = change_plugins(supervisor, changes) if wanted else {}
            reasons |= {name: reason for name, reason in answers.items() if reason}
            self.run(0.1)
        return reasons

    def streams(self, channel: str) -> int:
        """Returns the number of SCTP streams that a channel holds, on both sides, for all requests together."""
        plugins = [plugin for one in (self._application, self._web) for plugin in one.statistics()]
        return sum(one["streams"] for plugin in plugins for one in plugin["channels"] if one["name"] == channel)

    # ---- requests

    def begin(self, params: Mapping[str, str] | None = None) -> HarnessRequest:
        """Begin a request with these CGI variables over `DEFAULT_PARAMS`; it has arrived when this returns.
        AssertionError if there is no association (`disconnect`, and no `connect`)."""
        link = self._links.get(True)
        assert link is not None, "there is no association: call connect() first"
        connection: WebConnection = link.driver.connection
        request = connection.begin_request(encode_pairs({**DEFAULT_PARAMS, **(params or {})}), body=b"")
        exchange = HarnessRequest(lambda: self.now, link, request)
        request.context = exchange
        self._web_requests[request.key] = exchange
        self._web.request_begin(exchange)
        link.driver.wake()
        known = len(self.requests)
        until = self.now + PATIENCE
        while len(self.requests) == known:
            assert self.now < until, f"the request has not arrived after {PATIENCE:g} s: is the association lost?"
            self.run(0.05)
        return self.requests[-1]

    def end(
        self, request: HarnessRequest, *, status: int = 200, body: bytes = b"", aborted: bool = False, error: str = ""
    ) -> None:
        """Answer a request. The web half's `request_end` is called when the answer has arrived there (`run`)."""
        head = f"Status: {status}\r\n\r\n".encode()
        connection: ApplicationConnection = request.link.driver.connection
        request.ended = True
        request.status = status
        request.first_byte = self.now
        request.bytes_out = len(head) + len(body)
        connection.send_output(request.request, head + body)
        self._application.delivery.send_waiting()
        connection.end_request(request.request)
        web = self._web_requests.get(request.request.key)
        if web is not None:
            web.status = status
            web.bytes_out = len(head) + len(body)
        self._application.request_end(request, request.outcome(aborted=aborted, error=error))
        request.link.driver.wake()

    def bound(self, request: HarnessRequest | None) -> Any:
        """Returns a context in which the application works for `request` (`fcgi_core.plugin.current_request`)."""
        return bound_to_request(request)

    def stderr(self, request: HarnessRequest | None, data: bytes) -> bool:
        """Write to STDERR as the application. Returns True if the plugin handles it; else it is sent as FCGI_STDERR."""
        taken = self._application.stderr(request, data)
        self.stderr_taken.append(taken)
        if not taken and request is not None:
            connection: ApplicationConnection = request.link.driver.connection
            connection.send_stderr(request.request, data)
            request.link.driver.wake()
        return taken

    # ---- the machinery

    def _supervise(self, *, web: bool) -> Supervisor:
        return Supervisor(
            [self.enabled],
            self._loop,
            self._loop.call_soon,
            web=web,
            process_name="web side" if web else "application",
            publish_all=self.published.extend,
        )

    def _driver(self, *, web: bool) -> Driver[Any]:
        supervisor = self._web if web else self._application
        make: type[Connection] = WebConnection if web else ApplicationConnection
        self._serial += 1
        serial = self._serial
        settings = Settings(instance="web" if web else "app", name="test", association=serial)
        connection = make(settings, channels=supervisor.channels)

        def on_events(events: Sequence[Event]) -> None:
            for event in events:
                self._on_event(web, driver, serial, event)

        def on_down(reason: str) -> None:
            link = self._links.get(web)
            if link is not None and link.driver is driver:
                del self._links[web]
                supervisor.association_down(link, reason)

        driver: Driver[Any] = Driver(connection, self._loop, on_events=on_events, on_down=on_down)
        return driver

    def _on_event(self, web: bool, driver: Driver[Any], serial: int, event: Event) -> None:
        supervisor = self._web if web else self._application
        if isinstance(event, PeerReady):
            self._links[web] = supervisor.association_up(driver, serial, "test")
        elif isinstance(event, PeerChanged):
            supervisor.peer_changed(self._links[web])
        elif isinstance(event, RequestReceived):
            exchange = HarnessRequest(lambda: self.now, self._links[False], event.request)
            event.request.context = exchange
            self.requests.append(exchange)
            supervisor.request_begin(exchange)
        elif isinstance(event, RequestEnded):
            ended: HarnessRequest = event.request.context
            supervisor.request_end(ended, ended.outcome())
        elif isinstance(event, FeedbackReceived):
            context = None if event.request is None else event.request.context
            supervisor.feedback(event.channel, event.data, context, self._links[web], event.number)
        elif isinstance(event, StderrReceived):
            supervisor.stderr(event.request.context, event.data)
        elif isinstance(event, ItemsAcknowledged):
            supervisor.delivery.acknowledged(self._links[web], event)


H = TypeVar("H", bound=Half)


def _half(supervisor: Supervisor, kind: type[H]) -> H:
    for half in supervisor.halves:
        if isinstance(half, kind):
            return half
    raise PluginError(f"the plugin has no {kind.__name__}")


class _Problems(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def check_contract(plugin: Plugin, options: Mapping[str, Any] | None = None) -> None:
    """Check the contract of every plugin; AssertionError says which part is broken.

    The plugin starts with its defaults or `options`, and closes. Each call of `channels` declares the same. No hook
    raises during requests, STDERR, lost and new associations, a lossy network, ticks and `reopen`. The plugin can be
    switched off and on again. On each channel every item that was sent was received, or is counted as dropped.
    """
    assert plugin.name, "a plugin has a name"
    checked = plugin.Options.model_validate(dict(options or {}))
    assert tuple(plugin.channels(checked)) == tuple(plugin.channels(checked)), "channels() is the same on each call"
    problems = _Problems()
    logger = logging.getLogger("fcgi_sctp")
    logger.addHandler(problems)
    try:
        for loss, cut in ((0.0, False), (0.2, False), (0.2, True)):
            _exercise(plugin, options, loss=loss, cut=cut)
        _exercise(plugin, options, loss=0.2, cut=False, switch=True)
    finally:
        logger.removeHandler(problems)
    told = [record.getMessage() for record in problems.records]
    assert not told, f"a hook raised, or the plugin reported errors: {told[:3]}"


def _exercise(
    plugin: Plugin, options: Mapping[str, Any] | None, *, loss: float, cut: bool, switch: bool = False
) -> None:
    """Run a plugin once. With `cut` the association is lost in the middle with the items on their way; with `switch`
    the plugin is switched off for a while, within a request and between two."""
    harness = PluginHarness(plugin, options, loss=loss, seed=7)
    for number in range(20):
        request = harness.begin({"SERVER_NAME": f"host{number % 3}.example", "REQUEST_URI": f"/{number}"})
        with harness.bound(request):
            harness.stderr(request, b"a line\nand half of ano")
            harness.stderr(request, b"ther\n")
        harness.run(0.3)
        harness.end(request, status=(200, 404, 500)[number % 3])
        if cut and number == 10:
            harness.disconnect()
            harness.connect()
        if switch and number in (5, 10):
            off = harness.change({f"{plugin.name}.enabled": "false"})
            if number == 5:
                harness.end(harness.begin())
            running = harness.begin()
            on = harness.change({f"{plugin.name}.enabled": "true"})
            harness.end(running)
            assert not off | on, f"it cannot be switched off and on: {off | on}"
    harness.reopen()
    harness.run(30.0)
    harness.stop_ticks()
    harness.run(30.0)
    for channel in harness.enabled.channels:
        figures = harness.figures(channel.name)
        told = f"channel {channel.name}: {figures}"
        assert figures["received"] <= figures["sent"], f"more items were received than sent: {told}"
        if switch:
            # the application side cannot know at once that the plugin is off on the web side
            assert figures["received"] + figures["dropped"] >= figures["sent"] or channel.lifetime, told
        elif not cut and channel.lifetime is None:
            assert figures["received"] == figures["sent"], f"items are neither received nor counted as dropped: {told}"
    harness.close()
