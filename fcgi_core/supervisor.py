"""Plugins at work: found, verified, called, and kept from doing harm.

One `Supervisor` runs the halves of one side in one process. A hook that raises is logged and counted, and its plugin is
set aside for a while when it keeps failing; content goes on. What halves send may come from any thread: it is put into
a queue and picked up on the loop, many items to a wake-up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from .channels import Channel, Direction
from .delivery import Delivery, Gathering, Link
from .discovery import EnabledPlugin, verify_half
from .driver import Driver, Handle, Loop
from .errors import ConfigError, PluginError
from .figures import ChannelLedger, association_figures, streams_of
from .plugin import (
    ApplicationHalf,
    AssociationInfo,
    FeedEntry,
    Half,
    Make,
    Outcome,
    RequestInfo,
    TransportFigures,
    WebHalf,
)
from .receipts import Acknowledger
from .traffic import Traffic

__all__ = ["Supervisor"]

FAILURES_ALLOWED = 10
"""Failed hooks in a row after which a plugin is set aside."""
SET_ASIDE_FOR = 60.0
"""Seconds that it is set aside; then it gets another chance."""
TICK = 1.0
"""Seconds between ticks."""


@dataclass(slots=True, eq=False)
class _Entry:
    """One running half and how it fares."""

    enabled: EnabledPlugin
    half: Half
    errors: int = 0
    failures: int = 0
    """Failed hooks in a row."""
    aside_until: float = 0.0
    enabled_now: bool = True
    """False while it is switched off: no hook of it is called."""

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
        self._supervisor.delivery.queue(channel, item, request, urgency)

    def broadcast(self, channel: str, item: bytes) -> None:
        for link in tuple(self._supervisor.links):
            if link.connection.takes(channel):
                self._supervisor.delivery.queue(channel, item, link, 6)

    def gather(self, channel: str, make: Make) -> Gathering:
        return self._supervisor.delivery.gather(channel, make)

    def associations(self) -> Sequence[AssociationInfo]:
        return tuple(link.info for link in self._supervisor.links)

    def association_of(self, request: RequestInfo) -> AssociationInfo | None:
        link: Link | None = getattr(request, "link", None)
        return None if link is None else link.info

    def transport(self) -> TransportFigures:
        return self._supervisor.transport()

    def traffic(self) -> Traffic:
        return self._supervisor.follow_traffic()

    def publish(self, entry: FeedEntry) -> None:
        self._supervisor.publish_all((entry,))

    def publish_all(self, entries: Iterable[FeedEntry]) -> None:
        self._supervisor.publish_all(entries)


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
        publish_all: Callable[[Iterable[FeedEntry]], None] = lambda entries: None,
    ) -> None:
        """`wake_loop` is asyncio's call_soon_threadsafe. PluginError if a half cannot be made."""
        self.process_name = process_name
        self.publish_all = publish_all
        self.channels: list[Channel] = []
        self.traffic: Traffic | None = None
        """Figures by virtual host, once somebody wants them."""
        self._ledger = ChannelLedger()
        self._loop = loop
        self._wake_loop = wake_loop
        self._log = logging.getLogger("fcgi_sctp.plugins")
        self._acknowledger: Acknowledger[_Entry] = Acknowledger(
            loop, wake_loop, lambda entry: self._call(entry, entry.half.commit, failed=False)
        )
        self._by_channel: dict[str, tuple[_Entry, Channel]] = {}
        self._entries: list[_Entry] = []
        self._tick_handle: Handle | None = None
        enabled = [one for one in enabled if one.on]
        kind: type[Half] = WebHalf if web else ApplicationHalf
        sends = Direction.TO_APPLICATION if web else Direction.TO_WEB
        self.delivery = Delivery(
            (channel for one in enabled for channel in one.channels if channel.direction is sends),
            wake_loop,
            lambda delay, call: loop.call_at(loop.time() + delay, call),
        )
        for one in enabled:
            host = _HalfHost(self, one.plugin.name)
            make = one.plugin.web_half if web else one.plugin.application_half
            try:
                half = make(host, one.options)
                if half is not None:
                    verify_half(half, kind)
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
            for server_name, options in one.hosts.items():
                self._call(entry, half.configure, options, server_name)
        self._request_begin = self._having("request_begin", kind)
        self._request_end = self._having("request_end", kind)
        self._stderr = self._having("stderr", kind)
        self._tick = self._having("tick", kind)
        if self._tick:
            self._tick_handle = loop.call_at(loop.time() + TICK, self._on_tick)

    @property
    def halves(self) -> list[Half]:
        """The running halves, in the order of the configuration."""
        return [entry.half for entry in self._entries]

    @property
    def links(self) -> list[Link]:
        """The associations that are up."""
        return self.delivery.links

    # ---- associations

    def association_up(self, driver: Driver[Any], identity: int, peer: str) -> Link:
        """The peer's SETTINGS have come."""
        settings = driver.connection.peer_settings
        assert settings is not None
        link = Link(driver, AssociationInfo(identity, peer, settings.name, settings.instance))
        self.delivery.add(link)
        for entry in self._entries:
            self._call(entry, entry.half.association_up, link.info)
        return link

    def association_down(self, link: Link, reason: str) -> None:
        if link in self.links:
            self.delivery.remove(link)
            self._acknowledger.forget(link)
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
        known = self._by_channel.get(channel)
        if known is None:
            return
        entry, declared = known
        if declared.acknowledged:
            number, item = int.from_bytes(item[:8], "big"), item[8:]
            if not self._acknowledger.received(entry, channel, link, number) or not item:
                return  # it came before, by an association that was lost before we could say so
        self._call(entry, entry.half.feedback, channel, item, request, link.info)

    def reopen(self) -> None:
        """SIGUSR1: whoever writes files has to open them anew."""
        for entry in self._entries:
            self._call(entry, entry.half.reopen)

    def stop_ticks(self) -> None:
        """Call no more ticks."""
        if self._tick_handle is not None:
            self._tick_handle.cancel()
            self._tick_handle = None

    def close(self) -> None:
        """Call each half's `close`, and send what it still had to say; nothing is called after it."""
        self.stop_ticks()
        for entry in self._entries:
            self._call(entry, entry.half.close)
        self.delivery.close()

    # ---- configuration

    def change(self, changes: Mapping[str, str]) -> dict[str, str]:
        """Change options while plugins run: ``PLUGIN.OPTION`` or ``PLUGIN.OPTION@SERVER_NAME``, with a value as YAML.

        The option `enabled` belongs to every plugin. Answers for each name '' or the reason why it was not taken. The
        options of one plugin (and host) are checked together, and change together or not at all.
        """
        results: dict[str, str] = {}
        grouped: dict[tuple[str, str | None], dict[str, Any]] = {}
        for written, text in changes.items():
            path, _, server_name = written.partition("@")
            plugin, _, option = path.partition(".")
            try:
                if not option:
                    raise ValueError("write PLUGIN.OPTION=VALUE")
                value = yaml.safe_load(text)
            except (ValueError, yaml.YAMLError) as error:
                results[written] = str(error)
                continue
            grouped.setdefault((plugin, server_name or None), {})[option] = value
        for (plugin, host), options in grouped.items():
            reason = ""
            try:
                self._configure(plugin, dict(options), host)
            except ConfigError as error:
                reason = "; ".join(error.problems)
            for option in options:
                results[f"{plugin}.{option}" + (f"@{host}" if host else "")] = reason
        return results

    def adopt(self, enabled: Iterable[EnabledPlugin]) -> list[str]:
        """Take over the options of a configuration that was read anew; what cannot be changed while running is told."""
        problems = []
        now = {one.plugin.name: one for one in enabled}
        for entry in self._entries:
            fresh = now.pop(entry.name, None)
            if fresh is None:
                entry.enabled_now = False
                continue
            entry.enabled_now = True
            if fresh.channels != entry.enabled.channels:
                problems.append(f"plugins.{entry.name}: its channels would change, which takes a restart")
                continue
            try:
                if fresh.raw != entry.enabled.raw:
                    entry.half.configure(fresh.options)
                for server_name in {**entry.enabled.hosts, **fresh.hosts}:  # those that have none any more, too
                    entry.half.configure(fresh.hosts.get(server_name, fresh.options), server_name)
            except Exception as error:
                problems.append(f"plugins.{entry.name}: {error}")
                continue
            entry.enabled = fresh
        problems += [f"plugins.{name}: a plugin that was not enabled at the start takes a restart" for name in now]
        return problems

    def _configure(self, name: str, changes: dict[str, Any], server_name: str | None) -> None:
        entry = next((entry for entry in self._entries if entry.name == name), None)
        if entry is None:
            raise ConfigError([f"plugin {name} is not enabled here"])
        switch = changes.pop("enabled", None) if server_name is None else None
        if switch is not None and not isinstance(switch, bool):
            raise ConfigError([f"plugins.{name}.enabled: is {switch!r}; true or false was expected"])
        if changes:
            options = entry.enabled.changed(changes, server_name)
            if server_name is None and tuple(entry.enabled.plugin.channels(options)) != entry.enabled.channels:
                raise ConfigError([f"plugins.{name}: this would change its channels, which takes a restart"])
            hosts = entry.enabled.hosts_with(changes) if server_name is None else {}
            try:
                entry.half.configure(options, server_name)
                for name_of_host, its_options in hosts.items():
                    entry.half.configure(its_options, name_of_host)
            except Exception as error:
                raise ConfigError([f"plugins.{name}: {error}"]) from error
            entry.enabled = entry.enabled.with_options(options, changes, server_name)
        if switch is not None:
            entry.enabled_now = switch

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
            [self._ledger.totals(one, connections, self.delivery.lost.get(one.name, 0)) for one in self.channels],
        )

    def statistics(self) -> list[dict[str, Any]]:
        """One entry a plugin, for people and programs."""
        connections = [link.connection for link in self.links]
        now = self._loop.time()
        return [
            {
                "name": entry.name,
                "version": entry.enabled.plugin.version,
                "state": _state(entry, now),
                "errors": entry.errors,
                "channels": [
                    {
                        **asdict(self._ledger.totals(one, connections, self.delivery.lost.get(one.name, 0))),
                        "streams": sum(streams_of(connection, one.name) for connection in connections),
                    }
                    for one in entry.enabled.channels
                ],
            }
            for entry in self._entries
        ]

    # ---- isolation

    def _having(self, hook: str, base: type[Half]) -> list[tuple[_Entry, Callable[..., Any]]]:
        """The halves that implement the hook: what is left out costs nothing."""
        return [
            (entry, getattr(entry.half, hook))
            for entry in self._entries
            if getattr(type(entry.half), hook) is not getattr(base, hook)
        ]

    def _call(self, entry: _Entry, hook: Callable[..., Any], *args: Any, failed: Any = None) -> Any:
        """Call a hook; `failed` if it raised, or its plugin is set aside."""
        if not entry.enabled_now:
            return failed
        if entry.aside_until:
            if self._loop.time() < entry.aside_until:
                return failed
            entry.aside_until = 0.0
        try:
            result = hook(*args)
        except Exception:
            self._failed(entry, hook.__name__)
            return failed
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


def _state(entry: _Entry, now: float) -> str:
    if not entry.enabled_now:
        return "off"
    return "set aside" if entry.aside_until > now else "running"
