"""Plugins are switched on and off, and their options changed, while they run: one by one, or by a configuration that
was read again. A change that fails is reported, and the plugin stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..common.plain_yaml import parse_value
from ..errors import NO_EFFECT, ConfigError, PluginError, StartAnew
from .discovery import EnabledPlugin, checked_channels, from_peer
from .isolation import Entry
from .supervisor import Supervisor

__all__ = ["PeerChanges", "adopt_plugins", "change_plugins", "switches_off"]

MAX_CHANGES = 256
"""Changes that a peer may make at once: an option for 256 virtual hosts."""
CHANGES_A_SECOND = 5.0
"""Changes that a peer may make over a longer time."""
MAX_HOSTS = 1000
"""Virtual hosts with their own options for a plugin, beyond which a peer cannot add one."""
MAX_NAME = 400
"""Characters of the name of a change: a plugin, an option, and a virtual host of 253."""


def switches_off(changes: Mapping[str, str]) -> bool:
    """Returns whether a plugin is switched off: then applications are informed first, so that its last items arrive."""
    return any(
        name.endswith(".enabled") and text.strip().lower() in ("false", "no", "off") for name, text in changes.items()
    )


class PeerChanges:
    """The changes of one peer, within bounds: options that their plugins allow it to change, and not too many."""

    __slots__ = ("_allowed", "_left", "_supervisor", "_when")

    def __init__(self, supervisor: Supervisor, allowed: bool) -> None:
        """`allowed`: whether peers may change anything at all."""
        self._supervisor = supervisor
        self._allowed = allowed
        self._left = float(MAX_CHANGES)
        self._when = 0.0

    def change(self, changes: Mapping[str, str], now: float) -> dict[str, str]:
        """Returns the answer for each name, as `change_plugins` does; `now` in seconds of a monotonic clock."""
        if not self._allowed:
            return dict.fromkeys(changes, "this application accepts no changes from a web side (app.remote_changes)")
        self._left = min(MAX_CHANGES, self._left + (now - self._when) * CHANGES_A_SECOND)
        self._when = now
        if len(changes) > self._left:
            many = f"{MAX_CHANGES} changes at once and {CHANGES_A_SECOND:g} a second over a longer time"
            return dict.fromkeys(changes, f"too many changes: a web side may make {many}; try again later")
        self._left -= len(changes)
        if any(len(name) > MAX_NAME for name in changes):
            return dict.fromkeys(changes, f"the name of a change has more than {MAX_NAME} characters")
        return change_plugins(self._supervisor, changes, by_peer=True)


def change_plugins(supervisor: Supervisor, changes: Mapping[str, str], *, by_peer: bool = False) -> dict[str, str]:
    """Change options: ``PLUGIN.OPTION`` or ``PLUGIN.OPTION@SERVER_NAME``, with a value for `parse_value`. Every plugin
    has the option `enabled`. `by_peer`: a web side asks for it, which may change the options that `FromPeer` marks.

    Returns '' for each name, or the reason why it was refused, which begins with `NO_EFFECT` if the change concerns
    only the other side. The options of one plugin (and host) are checked together, and change together or not at all.
    """
    results: dict[str, str] = {}
    grouped: dict[tuple[str, str | None], dict[str, Any]] = {}
    names: dict[tuple[str, str | None], list[str]] = {}
    for written, text in changes.items():
        path, _, server_name = written.partition("@")
        plugin, _, option = path.partition(".")
        try:
            if not option:
                raise ValueError("write PLUGIN.OPTION=VALUE")
            value = parse_value(text)
        except ValueError as error:
            results[written] = str(error)
            continue
        target = plugin, server_name.lower() or None  # DNS ignores case
        grouped.setdefault(target, {})[option] = value
        names.setdefault(target, []).append(written)
    for (plugin, host), options in grouped.items():
        reason = ""
        try:
            if by_peer:
                _check_peer(supervisor, plugin, options, host)
            _change(supervisor, plugin, dict(options), host)
        except ConfigError as error:
            reason = "; ".join(error.problems)
        results.update(dict.fromkeys(names[plugin, host], reason))
    return results


def _check_peer(supervisor: Supervisor, name: str, options: Iterable[str], host: str | None) -> None:
    """Raise ConfigError if a peer may not change one of the options."""
    known = supervisor.known.get(name)
    if known is None:
        return  # `_change` reports it
    allowed = from_peer(known.plugin)
    wrong = [option for option in options if option not in allowed]
    if wrong:
        theirs = ", ".join(allowed) or "none of its options"
        here = "in this application's own file, or with fcgi-sctp set on its host"
        raise ConfigError([f"{name}.{wrong[0]}: a web side may change {theirs}; change it {here}"])
    if host is not None and host not in known.raw_hosts and len(known.raw_hosts) >= MAX_HOSTS:
        raise ConfigError([f"{MAX_HOSTS} virtual hosts have their own options, which is the maximum"])


def adopt_plugins(supervisor: Supervisor, enabled: Iterable[EnabledPlugin]) -> list[str]:
    """Apply a configuration that was read again and checked: plugins start and stop, options change, and a plugin
    whose channels change is restarted. Returns the problems, one sentence each."""
    problems = []
    before, supervisor.known = supervisor.known, {one.plugin.name: one for one in enabled}
    for name in before:
        entry = supervisor.running(name)
        fresh = supervisor.known.get(name)
        if entry is not None and (fresh is None or not fresh.on):
            supervisor.stop(entry)
    for name, fresh in supervisor.known.items():
        if not fresh.on:
            continue
        running = supervisor.running(name)
        try:
            if running is None:
                supervisor.start(fresh)
            elif fresh.channels != running.enabled.channels:
                _restart(supervisor, running, fresh)
            else:
                try:
                    _configure(supervisor, running, fresh)
                except StartAnew:
                    _restart(supervisor, running, fresh)
        except Exception as error:
            problems.append(str(error) if isinstance(error, PluginError) else f"plugins.{name}: {error}")
            supervisor.known[name] = running.enabled if running is not None else before.get(name, fresh)
    supervisor.put_in_order()
    return problems


def _configure(supervisor: Supervisor, entry: Entry, fresh: EnabledPlugin) -> None:
    """Configure a half with what differs in a new configuration. Raises what its `configure` raises."""
    if fresh.raw != entry.enabled.raw:
        supervisor.configure(entry, fresh.options, None)
    for server_name in {**entry.enabled.hosts, **fresh.hosts}:  # also hosts that have no options any more
        supervisor.configure(entry, fresh.hosts.get(server_name, fresh.options), server_name)
    entry.enabled = fresh


def _change(supervisor: Supervisor, name: str, changes: dict[str, Any], server_name: str | None) -> None:
    """Change options of one plugin. ConfigError if that fails, and nothing has changed."""
    known = supervisor.known.get(name)
    if known is None:
        raise ConfigError([f"plugin {name} is not enabled here: the configuration does not name it"])
    entry = supervisor.running(name)
    switch = changes.pop("enabled", None) if server_name is None else None
    if switch is not None and not isinstance(switch, bool):
        raise ConfigError([f"plugins.{name}.enabled: is {switch!r}; true or false was expected"])
    after = known
    if changes:
        options = known.changed(changes, server_name)
        after = known.with_options(options, changes, server_name)
        if server_name is None:
            after = replace(after, channels=checked_channels(after.plugin, options))
    try:
        if switch is False:
            if entry is not None:
                supervisor.stop(entry)
        elif entry is None:
            if switch:
                supervisor.start(after)
        elif after.channels != known.channels:
            _restart(supervisor, entry, after)
        elif changes:
            try:
                _reconfigure(supervisor, entry, after, server_name)
            except StartAnew:
                _restart(supervisor, entry, after)
    except Exception as error:
        raise ConfigError([str(error) if isinstance(error, PluginError) else f"plugins.{name}: {error}"]) from error
    supervisor.known[name] = after


def _reconfigure(supervisor: Supervisor, entry: Entry, after: EnabledPlugin, server_name: str | None) -> None:
    """Configure a half with its options, or those of one host. Raises what its `configure` raises."""
    options = after.options if server_name is None else after.hosts[server_name]
    if not supervisor.configure(entry, options, server_name):
        raise PluginError(f"{NO_EFFECT}: the half of {entry.name} on this side has no options by virtual host")
    for name_of_host, its_options in after.hosts.items() if server_name is None else ():
        supervisor.configure(entry, its_options, name_of_host)
    entry.enabled = after


def _restart(supervisor: Supervisor, entry: Entry, fresh: EnabledPlugin) -> None:
    """Close a half and make one with other options. PluginError if that fails; then the old options apply again."""
    old = entry.enabled
    supervisor.stop(entry)
    try:
        supervisor.start(fresh)
    except PluginError as error:
        try:
            supervisor.start(old)
        except PluginError as again:
            raise PluginError(f"{error}; and it does not start with its former options either: {again}") from again
        raise
