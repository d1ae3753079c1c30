"""Plugins switched on and off, and their options changed, while they run: one by one, or as a file that was read anew
says. What cannot be taken over is told, and stays as it was.
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
"""Changes that it may make over a longer time."""
MAX_HOSTS = 1000
"""Virtual hosts of a plugin with options of their own, beyond which a peer can name no further one."""
MAX_NAME = 400
"""Characters of the name of a change: a plugin, an option, and a virtual host of 253."""


def switches_off(changes: Mapping[str, str]) -> bool:
    """Whether a plugin is switched off: then applications are told first, so that what it says last still arrives."""
    return any(
        name.endswith(".enabled") and text.strip().lower() in ("false", "no", "off") for name, text in changes.items()
    )


class PeerChanges:
    """What one peer changes here, within bounds: options that their plugins say may be changed so, and not too many."""

    __slots__ = ("_allowed", "_left", "_supervisor", "_when")

    def __init__(self, supervisor: Supervisor, allowed: bool) -> None:
        """`allowed`: whether peers may change anything at all."""
        self._supervisor = supervisor
        self._allowed = allowed
        self._left = float(MAX_CHANGES)
        self._when = 0.0

    def change(self, changes: Mapping[str, str], now: float) -> dict[str, str]:
        """The answer for each name, as of `change_plugins`; `now` in seconds of a monotonic clock."""
        if not self._allowed:
            return dict.fromkeys(changes, "this application takes no changes from a web side (app.remote_changes)")
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
    """Change options: ``PLUGIN.OPTION`` or ``PLUGIN.OPTION@SERVER_NAME``, with a value as `parse_value` takes it.
    `by_peer`: a web side asks for it, which may change what `FromPeer` marks.

    The option `enabled` belongs to every plugin. Answers for each name '' or the reason why it was not taken;
    it begins with `NO_EFFECT` where the change concerns the other side alone. The
    options of one plugin (and host) are checked together, and change together or not at all.
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
        target = plugin, server_name.lower() or None  # DNS knows no capitals
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
    """ConfigError if one of the options is not a peer's to change."""
    known = supervisor.known.get(name)
    if known is None:
        return  # `_change` says so
    allowed = from_peer(known.plugin)
    wrong = [option for option in options if option not in allowed]
    if wrong:
        theirs = ", ".join(allowed) or "none of its options"
        here = "in this application's own file, or with fcgi-sctp set on its host"
        raise ConfigError([f"{name}.{wrong[0]}: a web side may change {theirs}; change it {here}"])
    if host is not None and host not in known.raw_hosts and len(known.raw_hosts) >= MAX_HOSTS:
        raise ConfigError([f"{MAX_HOSTS} virtual hosts have options of their own, and no further one is taken"])


def adopt_plugins(supervisor: Supervisor, enabled: Iterable[EnabledPlugin]) -> list[str]:
    """Take over a configuration that was read anew and checked: plugins start and end, options change; those whose
    channels change start anew. The problems, one sentence each."""
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
                _start_anew(supervisor, running, fresh)
            else:
                try:
                    _configure(supervisor, running, fresh)
                except StartAnew:
                    _start_anew(supervisor, running, fresh)
        except Exception as error:
            problems.append(str(error) if isinstance(error, PluginError) else f"plugins.{name}: {error}")
            supervisor.known[name] = running.enabled if running is not None else before.get(name, fresh)
    supervisor.put_in_order()
    return problems


def _configure(supervisor: Supervisor, entry: Entry, fresh: EnabledPlugin) -> None:
    """Tell a half what is different in a new configuration; whatever its `configure` raises."""
    if fresh.raw != entry.enabled.raw:
        supervisor.configure(entry, fresh.options, None)
    for server_name in {**entry.enabled.hosts, **fresh.hosts}:  # those that have none any more, too
        supervisor.configure(entry, fresh.hosts.get(server_name, fresh.options), server_name)
    entry.enabled = fresh


def _change(supervisor: Supervisor, name: str, changes: dict[str, Any], server_name: str | None) -> None:
    """Change options of one plugin. ConfigError says why not, and then nothing has changed."""
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
            _start_anew(supervisor, entry, after)
        elif changes:
            try:
                _tell(supervisor, entry, after, server_name)
            except StartAnew:
                _start_anew(supervisor, entry, after)
    except Exception as error:
        raise ConfigError([str(error) if isinstance(error, PluginError) else f"plugins.{name}: {error}"]) from error
    supervisor.known[name] = after


def _tell(supervisor: Supervisor, entry: Entry, after: EnabledPlugin, server_name: str | None) -> None:
    """Tell a half its options, or those of one host; whatever its `configure` raises."""
    options = after.options if server_name is None else after.hosts[server_name]
    if not supervisor.configure(entry, options, server_name):
        raise PluginError(f"{NO_EFFECT}: the half of {entry.name} on this side takes no options of one virtual host")
    for name_of_host, its_options in after.hosts.items() if server_name is None else ():
        supervisor.configure(entry, its_options, name_of_host)
    entry.enabled = after


def _start_anew(supervisor: Supervisor, entry: Entry, fresh: EnabledPlugin) -> None:
    """Close a half and make one of other options. PluginError if that cannot be; the old one is made again."""
    old = entry.enabled
    supervisor.stop(entry)
    try:
        supervisor.start(fresh)
    except PluginError as error:
        try:
            supervisor.start(old)
        except PluginError as again:
            raise PluginError(f"{error}; and as it was before it does not start again either: {again}") from again
        raise
