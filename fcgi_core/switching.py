"""Plugins switched on and off, and their options changed, while they run: one by one, or as a file that was read anew
says. What cannot be taken over is told, and stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import yaml

from .discovery import EnabledPlugin, checked_channels
from .errors import ConfigError, PluginError, StartAnew
from .isolation import Entry
from .supervisor import Supervisor

__all__ = ["adopt_plugins", "change_plugins", "switches_off"]


def switches_off(changes: Mapping[str, str]) -> bool:
    """Whether a plugin is switched off: then applications are told first, so that what it says last still arrives."""
    return any(
        name.endswith(".enabled") and text.strip().lower() in ("false", "no", "off") for name, text in changes.items()
    )


def change_plugins(supervisor: Supervisor, changes: Mapping[str, str]) -> dict[str, str]:
    """Change options: ``PLUGIN.OPTION`` or ``PLUGIN.OPTION@SERVER_NAME``, with a value as YAML.

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
            _change(supervisor, plugin, dict(options), host)
        except ConfigError as error:
            reason = "; ".join(error.problems)
        for option in options:
            results[f"{plugin}.{option}" + (f"@{host}" if host else "")] = reason
    return results


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
    configure = entry.half.configure
    if fresh.raw != entry.enabled.raw:
        supervisor.bounded(configure, fresh.options, None)
    for server_name in {**entry.enabled.hosts, **fresh.hosts}:  # those that have none any more, too
        supervisor.bounded(configure, fresh.hosts.get(server_name, fresh.options), server_name)
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
    configure = entry.half.configure
    supervisor.bounded(configure, after.options if server_name is None else after.hosts[server_name], server_name)
    for name_of_host, its_options in after.hosts.items() if server_name is None else ():
        supervisor.bounded(configure, its_options, name_of_host)
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
