"""Plugins are found by entry point, and verified with their options before any of them runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from ..common.model_problems import meant, model_problems, shown, written_path
from ..errors import ConfigError, PluginError
from ..plugin import API_VERSION, Half, Plugin
from ..plugin.hooks import MAY_BE_SET_BY_PEER
from ..protocol.channels import Channel

__all__ = ["ENTRY_POINT_GROUP", "EnabledPlugin", "from_peer", "installed_plugins", "load_plugins", "verify_half"]

ENTRY_POINT_GROUP = "fcgi_sctp.plugins"
RESERVED = ("hosts", "enabled")
"""Names in the configuration of every plugin in addition to its options."""


@dataclass(frozen=True, slots=True)
class EnabledPlugin:
    """A plugin with its checked options and the channels that follow from them."""

    plugin: Plugin
    options: Any
    channels: tuple[Channel, ...]
    raw: Mapping[str, Any]
    """The options as they were written, without `hosts`."""
    hosts: Mapping[str, Any]
    """By SERVER_NAME: the checked options of that virtual host."""
    raw_hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By SERVER_NAME: the options of that virtual host alone, as they were written."""
    on: bool = True
    """False if it is off until it is switched on."""

    def changed(self, changes: Mapping[str, Any], server_name: str | None = None) -> Any:
        """Returns the checked options after `changes`, for one virtual host if named. ConfigError if they are wrong."""
        base = self.raw if server_name is None else {**self.raw, **self.raw_hosts.get(server_name, {})}
        problems: list[str] = []
        options = _options(self.plugin, {**base, **changes}, ("plugins", self.plugin.name), problems)
        if problems:
            raise ConfigError(problems)
        return options

    def with_options(self, options: Any, changes: Mapping[str, Any], server_name: str | None) -> EnabledPlugin:
        """Returns this plugin after a change that was checked and accepted."""
        if server_name is None:
            return replace(self, options=options, raw={**self.raw, **changes}, hosts=self.hosts_with(changes))
        own = {**self.raw_hosts.get(server_name, {}), **changes}
        return replace(self, hosts={**self.hosts, server_name: options}, raw_hosts={**self.raw_hosts, server_name: own})

    def hosts_with(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the options of each virtual host after `changes` of the plugin's. ConfigError if they do not fit."""
        problems: list[str] = []
        where = ("plugins", self.plugin.name, "hosts")
        hosts = _hosts(self.plugin, {**self.raw, **changes}, self.raw_hosts, where, problems)
        if problems:
            raise ConfigError(problems)
        return hosts


def from_peer(plugin: Plugin) -> list[str]:
    """Returns the options that a web side may change in an application, `enabled` included if the plugin allows it."""
    fields = plugin.Options.model_fields
    options = [name for name, field in fields.items() if MAY_BE_SET_BY_PEER in field.metadata]
    return [*options, "enabled"] if plugin.switched_by_peer else options


def name_problem(plugin: str, channel: Channel) -> str:
    """Returns what is wrong with a channel's name; '' if nothing is."""
    if channel.name == plugin or channel.name.startswith(f"{plugin}."):
        return ""
    return f"channel {channel.name!r} must be called {plugin!r}, or begin with {plugin + '.'!r}"


def checked_channels(plugin: Plugin, options: Any) -> tuple[Channel, ...]:
    """Returns the channels that follow from options. ConfigError lists all that is wrong with them."""
    name = plugin.name
    try:
        channels = tuple(plugin.channels(options))
    except (Exception, SystemExit) as error:  # a plugin's own code
        raise ConfigError([f"plugins.{name}: its channels() failed: {error!r}"]) from error
    if strange := [one for one in channels if not isinstance(one, Channel)]:
        raise ConfigError([f"plugins.{name}: {strange[0]!r} is not a Channel"])
    names = [channel.name for channel in channels]
    wrong = [problem for channel in channels if (problem := name_problem(name, channel))]
    wrong += [f"channel {one!r} is declared twice" for one in dict.fromkeys(names) if names.count(one) > 1]
    if wrong:
        raise ConfigError([f"plugins.{name}: {problem}" for problem in wrong])
    return channels


def installed_plugins() -> dict[str, Plugin | PluginError]:
    """Returns all plugins that entry points name, in the order of their names, or why a plugin is not fit to run."""
    found: dict[str, Plugin | PluginError] = {}
    for name in sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP)):
        try:
            found[name] = _verify(name, _find_entry_point(name))
        except PluginError as error:
            found[name] = error
    return found


def load_plugins(
    enabled: Mapping[str, Mapping[str, Any]], find: Callable[[str], Any] | None = None
) -> list[EnabledPlugin]:
    """Find and verify the plugins named in the configuration, in its order.

    ConfigError lists everything that is wrong: a name without an entry point, options that the plugin's model refuses,
    a wrong API version, methods with the wrong arguments, wrong names of channels.
    """
    find = find or _find_entry_point
    loaded = []
    problems: list[str] = []
    for name, raw_options in enabled.items():
        try:
            plugin = _verify(name, find(name))
        except PluginError as error:
            problems.append(f"{written_path(('plugins', name))}: {error}")
            continue
        raw = {key: value for key, value in raw_options.items() if key not in RESERVED}
        on = _switch(raw_options.get("enabled", True))
        if on is None:
            problems.append(f"plugins.{name}.enabled: is {shown(raw_options['enabled'])}; true or false was expected")
        options = _options(plugin, raw, ("plugins", name), problems)
        hosts = _hosts(plugin, raw, raw_options.get("hosts"), ("plugins", name, "hosts"), problems)
        if options is None:
            continue
        try:
            channels = checked_channels(plugin, options)
        except ConfigError as error:
            problems += error.problems
            continue
        own = {name: one or {} for name, one in raw_options["hosts"].items()} if hosts else {}
        loaded.append(EnabledPlugin(plugin, options, channels, raw, hosts, own, on is not False))
    if problems:
        raise ConfigError(problems)
    return loaded


def _options(plugin: Plugin, raw: Mapping[str, Any], where: tuple[str, ...], problems: list[str]) -> Any:
    """Returns the checked options. If they are wrong, adds to `problems` and returns None."""
    try:
        return plugin.Options.model_validate(dict(raw))
    except ValidationError as error:
        problems += model_problems(error, plugin.Options, where, RESERVED if len(where) == 2 else ())
    except Exception as error:  # a plugin's own code
        problems.append(f"{written_path(where)}: the options cannot be checked: {error!r}")
    return None


def _hosts(
    plugin: Plugin, base: Mapping[str, Any], hosts: Any, where: tuple[str, ...], problems: list[str]
) -> dict[str, Any]:
    """Returns checked options by SERVER_NAME: those of the plugin, replaced by those of the host where it has any."""
    if hosts is None:
        return {}
    if not isinstance(hosts, Mapping):
        problems.append(f"{'.'.join(where)}: is {shown(hosts)}; SERVER_NAMEs, each with options, were expected")
        return {}
    checked = {}
    for name, own in hosts.items():
        if own is None or isinstance(own, Mapping):
            checked[str(name)] = _options(plugin, {**base, **(own or {})}, (*where, str(name)), problems)
        else:
            problems.append(
                f"{written_path((*where, name))}: is {shown(own)}; options were expected, names with values"
            )
    return checked


def _find_entry_point(name: str) -> Any:
    found = entry_points(group=ENTRY_POINT_GROUP)
    try:
        entry_point = found[name]
    except KeyError:
        installed = ", ".join(sorted(point.name for point in found)) or "none"
        close = meant(name, found.names)
        raise PluginError(f"no such plugin is installed{close}; installed are: {installed}") from None
    try:
        return entry_point.load()
    except (Exception, SystemExit) as error:  # a plugin's own code
        raise PluginError(f"it cannot be imported: {error!r}") from error


def _switch(value: Any) -> bool | None:
    """Returns True or False, also for the texts of environment variables; None for other values."""
    return (
        {True: True, False: False, "true": True, "false": False}.get(value) if isinstance(value, bool | str) else None
    )


def _verify(name: str, found: Any) -> Plugin:
    """Returns the plugin if it is fit to run; only its constructor is called. PluginError says what is wrong."""
    try:
        plugin = found() if isinstance(found, type) else found
    except (Exception, SystemExit) as error:  # a plugin's own code
        raise PluginError(f"its constructor failed: {error!r}") from error
    if not isinstance(plugin, Plugin):
        raise PluginError(f"the entry point names {found!r}, which is not a fcgi_core.plugin.Plugin")
    if plugin.api_version != API_VERSION:
        raise PluginError(f"it is for plugin API {plugin.api_version}; this is {API_VERSION}: update the older one")
    if getattr(plugin, "name", None) != name:
        raise PluginError(f"it calls itself {getattr(plugin, 'name', None)!r}; entry point and name must be the same")
    model = plugin.Options
    if not (isinstance(model, type) and issubclass(model, Plugin.Options)):
        raise PluginError(f"its Options, {model!r}, are not derived from Plugin.Options")
    if taken := set(RESERVED) & set(model.model_fields):
        raise PluginError(f"its Options have {', '.join(sorted(taken))}, which are reserved")
    if wrong := wrong_hooks(plugin, Plugin):
        raise PluginError("; ".join(wrong))
    return plugin


def verify_half(half: Any, kind: type[Half]) -> None:
    """Verify a half before any of its hooks is called. PluginError lists all that is wrong with its type and hooks."""
    if not isinstance(half, kind):
        raise PluginError(f"{half!r} is not a {kind.__name__}")
    if wrong := wrong_hooks(half, kind):
        raise PluginError("; ".join(wrong))


def wrong_hooks(implementation: Any, base: type) -> list[str]:
    """Returns what is wrong with the methods of `base` in an object or a class: each must be a plain function that
    accepts the same arguments."""
    wrong = []
    for hook, declared in inspect.getmembers(base, inspect.isfunction):
        if hook.startswith("_"):
            continue
        given = getattr(implementation, hook)
        called = f"{hook}({', '.join(list(inspect.signature(declared).parameters)[1:])})"
        if not callable(given):
            wrong.append(f"{called} is {given!r}, which cannot be called")
            continue
        if (
            inspect.iscoroutinefunction(given)
            or inspect.isgeneratorfunction(given)
            or inspect.isasyncgenfunction(given)
        ):
            wrong.append(f"{called} must be a plain function: it is called on the event loop's thread")
            continue
        try:
            signature = inspect.signature(given)
        except (TypeError, ValueError):
            continue  # of a compiled module, whose signatures are unknown
        try:
            static = inspect.getattr_static(implementation, hook)
            bound = isinstance(static, (staticmethod, classmethod)) or not hasattr(type(static), "__get__")
            unbound = isinstance(implementation, type) and not bound
            signature.bind(*list(inspect.signature(declared).parameters)[0 if unbound else 1 :])
        except TypeError:
            wrong.append(f"{called} cannot be called: it is {hook}{signature}")
    return wrong
