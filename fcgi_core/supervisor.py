"""Plugins at work: found, verified, called, and kept from doing harm.

One `Supervisor` runs the halves of one side in one process. A hook that raises is logged and counted, and its plugin is
set aside for a while when it keeps failing; content goes on. What halves send may come from any thread: it is put into
a queue and picked up on the loop, many items to a wake-up.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

from pydantic import ValidationError

from .channels import Channel, Scope
from .connection import Connection
from .driver import Driver, Loop
from .errors import ConfigError, PluginError
from .figures import ChannelLedger, association_figures, streams_of
from .plugin import (
    API_VERSION,
    ApplicationHalf,
    AssociationInfo,
    FeedEntry,
    Half,
    Outcome,
    Plugin,
    RequestInfo,
    TransportFigures,
    WebHalf,
)
from .request import Request
from .traffic import Traffic

__all__ = ["ENTRY_POINT_GROUP", "EnabledPlugin", "Link", "RoutedRequest", "Supervisor", "load_plugins"]

ENTRY_POINT_GROUP = "fcgi_sctp.plugins"
FAILURES_ALLOWED = 10
"""Failed hooks in a row after which a plugin is set aside."""
SET_ASIDE_FOR = 60.0
"""Seconds that it is set aside; then it gets another chance."""
TICK = 1.0
"""Seconds between ticks."""


@dataclass(frozen=True, slots=True)
class EnabledPlugin:
    """A plugin with its checked options and the channels that follow from them."""

    plugin: Plugin
    options: Any
    channels: tuple[Channel, ...]


def load_plugins(
    enabled: Mapping[str, Mapping[str, Any]], find: Callable[[str], Any] | None = None
) -> list[EnabledPlugin]:
    """Find and verify the plugins named in the configuration, in its order.

    ConfigError lists everything that is wrong: a name that no entry point has, options that the plugin's model refuses,
    a wrong API version, channel names that are taken.
    """
    find = find or _find_entry_point
    loaded = []
    problems: list[str] = []
    owners: dict[str, str] = {}
    for name, raw_options in enabled.items():
        try:
            plugin = _verify(name, find(name))
        except PluginError as error:
            problems.append(f"plugins.{name}: {error}")
            continue
        try:
            options = plugin.Options.model_validate(raw_options)
        except ValidationError as error:
            for problem in error.errors():
                path = ".".join(str(part) for part in ("plugins", name, *problem["loc"]))
                problems.append(f"{path}: {problem['msg']}, not {problem.get('input')!r}")
            continue
        try:
            channels = tuple(plugin.channels(options))
        except Exception as error:  # a plugin's own code
            problems.append(f"plugins.{name}: its channels cannot be told: {error!r}")
            continue
        for channel in channels:
            if channel.name != name and not channel.name.startswith(f"{name}."):
                problems.append(
                    f"plugins.{name}: channel {channel.name!r} must be called {name!r}, or begin with {name + '.'!r}"
                )
            if channel.name in owners:
                problems.append(f"plugins.{name}: channel {channel.name!r} is declared twice")
            owners[channel.name] = name
        loaded.append(EnabledPlugin(plugin, options, channels))
    if problems:
        raise ConfigError(problems)
    return loaded


def _find_entry_point(name: str) -> Any:
    found = entry_points(group=ENTRY_POINT_GROUP)
    try:
        entry_point = found[name]
    except KeyError:
        installed = ", ".join(sorted(point.name for point in found)) or "none"
        raise PluginError(f"no such plugin is installed; installed are: {installed}") from None
    try:
        return entry_point.load()
    except Exception as error:  # a plugin's own code
        raise PluginError(f"it cannot be imported: {error!r}") from error


def _verify(name: str, found: Any) -> Plugin:
    plugin = found() if isinstance(found, type) else found
    if not isinstance(plugin, Plugin):
        raise PluginError(f"the entry point names {found!r}, which is no fcgi_core.plugin.Plugin")
    if plugin.api_version != API_VERSION:
        raise PluginError(f"it is for plugin API {plugin.api_version}; this is {API_VERSION}: update the older one")
    if plugin.name != name:
        raise PluginError(f"it calls itself {plugin.name!r}; entry point and name must be the same")
    return plugin


class RoutedRequest(RequestInfo, Protocol):
    """What the services' own request objects have beside what plugins see: where their feedback goes."""

    link: Link
    request: Request


@dataclass(slots=True, eq=False)
class Link:
    """An association whose SETTINGS have been exchanged."""

    driver: Driver[Any]
    info: AssociationInfo

    @property
    def connection(self) -> Connection:
        connection: Connection = self.driver.connection
        return connection


@dataclass(slots=True)
class _Entry:
    """One running half and how it fares."""

    enabled: EnabledPlugin
    half: Half
    errors: int = 0
    failures: int = 0
    """Failed hooks in a row."""
    aside_until: float = 0.0
    waiting: dict[str, deque[tuple[bytes, int]]] = field(default_factory=dict)
    """By channel: (item, urgency) that no association has taken yet."""

    @property
    def name(self) -> str:
        return self.enabled.plugin.name


class _HalfHost:
    """The host that one half sees."""

    def __init__(self, supervisor: Supervisor, name: str) -> None:
        self._supervisor = supervisor
        self.log = logging.getLogger(f"fcgi_sctp.plugin.{name}")
        self.name = supervisor.process_name

    def send(self, channel: str, item: bytes, *, request: RequestInfo | None = None, urgency: int = 6) -> None:
        self._supervisor.queue_item(channel, item, request, urgency)

    def broadcast(self, channel: str, item: bytes) -> None:
        for link in tuple(self._supervisor.links):
            if link.connection.takes(channel):
                self._supervisor.queue_item(channel, item, link, 6)

    def associations(self) -> Sequence[AssociationInfo]:
        return tuple(link.info for link in self._supervisor.links)

    def transport(self) -> TransportFigures:
        return self._supervisor.transport()

    def traffic(self) -> Traffic:
        return self._supervisor.follow_traffic()

    def publish(self, entry: FeedEntry) -> None:
        self._supervisor.publish(entry)


class Supervisor:
    """The running halves of one side."""

    def __init__(
        self,
        enabled: Iterable[EnabledPlugin],
        loop: Loop,
        wake_loop: Callable[[Callable[[], None]], object],
        *,
        web: bool,
        process_name: str = "",
        publish: Callable[[FeedEntry], None] = lambda entry: None,
    ) -> None:
        """`wake_loop` is asyncio's call_soon_threadsafe. PluginError if a half cannot be made."""
        self.links: list[Link] = []
        self.process_name = process_name
        self.publish = publish
        self.channels: list[Channel] = []
        self.traffic: Traffic | None = None
        """Figures by virtual host, once somebody wants them."""
        self._ledger = ChannelLedger()
        self._loop = loop
        self._wake_loop = wake_loop
        self._log = logging.getLogger("fcgi_sctp.plugins")
        self._queue: deque[tuple[str, bytes, RequestInfo | Link | None, int]] = deque()
        self._awake = False
        self._closed = False
        self._by_channel: dict[str, tuple[_Entry, Channel]] = {}
        self._entries: list[_Entry] = []
        self.lost: dict[str, int] = {}
        """Items by channel that found no association and no room to wait."""
        for one in enabled:
            host = _HalfHost(self, one.plugin.name)
            make = one.plugin.web_half if web else one.plugin.application_half
            try:
                half = make(host, one.options)
            except (OSError, ValueError, PluginError) as error:
                self.close()
                raise PluginError(f"plugin {one.plugin.name} cannot start: {error}") from error
            self.channels.extend(one.channels)
            if half is None:
                continue
            entry = _Entry(one, half)
            self._entries.append(entry)
            for channel in one.channels:
                self._by_channel[channel.name] = (entry, channel)
        kind: type[Half] = WebHalf if web else ApplicationHalf
        self._request_begin = self._having("request_begin", kind)
        self._request_end = self._having("request_end", kind)
        self._stderr = self._having("stderr", kind)
        self._tick = self._having("tick", kind)
        self._tick_handle = loop.call_at(loop.time() + TICK, self._on_tick) if self._tick else None

    # ---- associations

    def association_up(self, driver: Driver[Any], identity: int, peer: str) -> Link:
        """The peer's SETTINGS have come."""
        settings = driver.connection.peer_settings
        assert settings is not None
        link = Link(driver, AssociationInfo(identity, peer, settings.name, settings.instance))
        self.links.append(link)
        for entry in self._entries:
            self._call(entry, entry.half.association_up, link.info)
        self._send_waiting()
        return link

    def association_down(self, link: Link, reason: str) -> None:
        if link in self.links:
            self.links.remove(link)
            self._ledger.close(link.connection)
            for entry in self._entries:
                self._call(entry, entry.half.association_down, link.info, reason)

    # ---- hooks

    @property
    def follows_requests(self) -> bool:
        """Whether anybody wants to hear of the end of requests."""
        return bool(self._request_end) or self.traffic is not None

    def request_begin(self, request: RequestInfo) -> None:
        if self.traffic is not None:
            self.traffic.begin(request)
        for entry, hook in self._request_begin:
            self._call(entry, hook, request)

    def request_end(self, request: RequestInfo, outcome: Outcome) -> None:
        if self.traffic is not None:
            self.traffic.end(request, outcome)
        for entry, hook in self._request_end:
            self._call(entry, hook, request, outcome)

    def stderr(self, request: RequestInfo | None, data: bytes) -> bool:
        """True if a plugin took it. Any thread."""
        taken = False
        for entry, hook in self._stderr:
            taken = bool(self._call(entry, hook, request, data)) or taken
        return taken

    def feedback(self, channel: str, item: bytes, request: RequestInfo | None, link: Link) -> None:
        """An item from the other side."""
        entry, _ = self._by_channel.get(channel, (None, None))
        if entry is not None:
            self._call(entry, entry.half.feedback, channel, item, request, link.info)

    def close(self) -> None:
        """Call each half's `close`, and send what it still had to say; nothing is called after it."""
        if getattr(self, "_tick_handle", None) is not None:
            self._tick_handle.cancel()  # type: ignore[union-attr]
        for entry in self._entries:
            self._call(entry, entry.half.close)
        self._send_queued()
        self._closed = True

    # ---- figures

    def follow_traffic(self) -> Traffic:
        """Count requests by virtual host from now on."""
        if self.traffic is None:
            self.traffic = Traffic()
        return self.traffic

    def transport(self) -> TransportFigures:
        """How the associations and channels fare now."""
        connections = [link.connection for link in self.links]
        return TransportFigures(
            [association_figures(link.info, link.driver) for link in self.links],
            [self._ledger.totals(one, connections, self.lost.get(one.name, 0)) for one in self.channels],
        )

    def statistics(self) -> list[dict[str, Any]]:
        """One entry a plugin, for people and programs."""
        connections = [link.connection for link in self.links]
        now = self._loop.time()
        return [
            {
                "name": entry.name,
                "version": entry.enabled.plugin.version,
                "state": "set aside" if entry.aside_until > now else "running",
                "errors": entry.errors,
                "channels": [
                    {
                        **asdict(self._ledger.totals(one, connections, self.lost.get(one.name, 0))),
                        "streams": sum(streams_of(connection, one.name) for connection in connections),
                    }
                    for one in entry.enabled.channels
                ],
            }
            for entry in self._entries
        ]

    # ---- sending

    def queue_item(self, channel: str, item: bytes, target: RequestInfo | Link | None, urgency: int) -> None:
        """Queue an item for the loop to pick up. Any thread."""
        if channel not in self._by_channel:
            raise PluginError(f"channel {channel!r} was not declared")
        self._queue.append((channel, item, target, urgency))
        if not self._awake and not self._closed:
            self._awake = True
            self._wake_loop(self._send_queued)

    def _send_queued(self) -> None:
        self._awake = False
        queue = self._queue
        touched: set[Driver[Any]] = set()
        while queue:
            channel, item, target, urgency = queue.popleft()
            self._send(channel, item, target, urgency, touched)
        for driver in touched:
            driver.wake()

    def _send(
        self, name: str, item: bytes, target: RequestInfo | Link | None, urgency: int, touched: set[Driver[Any]]
    ) -> None:
        entry, channel = self._by_channel[name]
        request: Request | None = None
        if isinstance(target, Link):
            link: Link | None = target
        elif target is not None:
            # plugins hand back the object that they were given
            routed = cast(RoutedRequest, target)
            link = getattr(routed, "link", None)  # there is none yet if no application took the request
            if channel.scope is Scope.REQUEST:
                request = routed.request
        else:
            link = None
        if channel.scope is Scope.REQUEST and (request is None or link is None):
            self.lost[name] = self.lost.get(name, 0) + 1
            return
        if link is None or link not in self.links:
            link = next((one for one in self.links if one.connection.takes(name)), None)
            if link is None or channel.scope is Scope.REQUEST:
                self._wait(entry, channel, item, urgency)
                return
        link.connection.send_feedback(name, item, request, urgency)
        touched.add(link.driver)

    def _wait(self, entry: _Entry, channel: Channel, item: bytes, urgency: int) -> None:
        """Nobody takes the channel yet: keep the latest, within the channel's bound."""
        if channel.scope is Scope.REQUEST:
            self.lost[channel.name] = self.lost.get(channel.name, 0) + 1
            return
        waiting = entry.waiting.setdefault(channel.name, deque())
        waiting.append((item, urgency))
        size = sum(len(one) for one, _ in waiting) if len(waiting) % 64 == 0 or len(item) > 4096 else 0
        while size > channel.queue_bytes:
            size -= len(waiting.popleft()[0])
            self.lost[channel.name] = self.lost.get(channel.name, 0) + 1

    def _send_waiting(self) -> None:
        for entry in self._entries:
            waiting, entry.waiting = entry.waiting, {}
            for channel, items in waiting.items():
                for item, urgency in items:
                    self._queue.append((channel, item, None, urgency))
        if self._queue:
            self._send_queued()

    # ---- isolation

    def _having(self, hook: str, base: type[Half]) -> list[tuple[_Entry, Callable[..., Any]]]:
        """The halves that implement the hook: what is left out costs nothing."""
        return [
            (entry, getattr(entry.half, hook))
            for entry in self._entries
            if getattr(type(entry.half), hook) is not getattr(base, hook)
        ]

    def _call(self, entry: _Entry, hook: Callable[..., Any], *args: Any) -> Any:
        if entry.aside_until:
            if self._loop.time() < entry.aside_until:
                return None
            entry.aside_until = 0.0
        try:
            result = hook(*args)
        except Exception:
            self._failed(entry, hook.__name__)
            return None
        entry.failures = 0
        return result

    def _failed(self, entry: _Entry, hook: str) -> None:
        entry.errors += 1
        entry.failures += 1
        self._log.exception("plugin %s: %s failed", entry.name, hook)
        if entry.failures >= FAILURES_ALLOWED:
            entry.failures = 0
            entry.aside_until = self._loop.time() + SET_ASIDE_FOR
            self._log.error(
                "plugin %s failed %d times in a row and is set aside for %g s",
                entry.name,
                FAILURES_ALLOWED,
                SET_ASIDE_FOR,
            )

    def _on_tick(self) -> None:
        for entry, hook in self._tick:
            self._call(entry, hook)
        self._tick_handle = self._loop.call_at(self._loop.time() + TICK, self._on_tick)
