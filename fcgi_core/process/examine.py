"""What `fcgi-sctp check` examines besides the file itself: what the configuration needs on this machine, and whether
the two sides of a site fit together. The application's module is imported; nothing is started, no file is written.
"""

from __future__ import annotations

import dis
import grp
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from ..app.imported_application import load_application
from ..app.virtual_environment import adopt_environment
from ..errors import ConfigError
from ..hosting.discovery import EnabledPlugin, wrong_hooks
from ..plugin import ApplicationHalf, Half, Plugin, WebHalf
from ..sctp.carrier import Address
from ..sctp.endpoints import shifted
from .config import AUTO, AppConfig, Config, WebConfig

__all__ = ["contradictions", "doubts", "doubts_between", "examine"]

RUNTIME = "/run/"
"""Folders below this one may be made when a service starts."""


def examine(config: Config, *, imports: bool = True) -> list[str]:
    """Return a sentence for each thing that is missing on this machine, with the path of the option first. Without
    `imports` the application's module is not imported."""
    problems: list[str] = []
    if config.web is not None:
        problems += _web(config.web)
    if config.app is not None:
        problems += _app(config.app, imports)
    for one in config.load_plugins():
        sides: list[type[Half]] = [
            kind for kind, side in ((WebHalf, config.web), (ApplicationHalf, config.app)) if side is not None
        ]
        problems += (f"plugins.{one.plugin.name}{problem}" for problem in _plugin(one, sides))
    return problems


def contradictions(web: Config, app: Config) -> list[str]:
    """Return a sentence for each reason why the web side of one file and the application of another do not fit."""
    problems = []
    assert web.web is not None
    assert app.app is not None
    named = any(one.srv is not None for one in web.web.connect)  # its records say the ports
    reached = [Address.parse(str(one)) for one in web.web.connect if one.srv is None]
    listens = [
        shifted(Address.parse(text), worker) for text in app.app.listen for worker in range(app.app.workers or 1)
    ]
    carriers = {web.sctp.carrier, app.sctp.carrier}
    udp = "userspace" in carriers
    if not named and not any(_meet(there, here, udp) for there in reached for here in listens):
        problems.append(
            f"web.connect names {', '.join(map(str, reached))}, but this application listens at "
            f"{', '.join(app.app.listen)} (app.listen)"
        )
    if carriers == {"kernel", "userspace"} and not web.sctp.udp_encapsulation:
        problems.append(
            "sctp.carrier: one side has kernel and the other userspace, in UDP: set sctp.udp_encapsulation for web"
        )
    return [*problems, *_channel_contradictions(web, app)]


def doubts(config: Config) -> Iterator[str]:
    """Yield a sentence for each pair of time limits of one file that work against each other, though it may be
    meant."""
    web, app, dead_after = config.web, config.app, config.sctp.dead_after
    if web is not None and web.request_timeout <= dead_after:
        yield (
            f"web.request_timeout: is {web.request_timeout:g} s, not more than sctp.dead_after ({dead_after:g} s): a "
            "request gets 504 before a dead application is noticed and another can take it"
        )
    limit = None if app is None else app.request_limit
    if app is None or limit is None:
        return
    if app.fastcgi is not None and app.fastcgi.timeout > limit:
        yield (
            f"app.fastcgi.timeout: is {app.fastcgi.timeout:g} s, more than app.request_limit ({limit:g} s), which ends "
            "a silent request before"
        )


def doubts_between(web_file: Config, app_file: Config) -> Iterator[str]:
    """Yield a sentence for each time limit of the application in one file that the web side of another does not wait
    for."""
    web, app = web_file.web, app_file.app
    assert web is not None
    assert app is not None
    for option, limit in (
        ("app.request_limit", app.request_limit),
        ("app.fastcgi.timeout", None if app.fastcgi is None else app.fastcgi.timeout),
    ):
        if limit is not None and limit > web.request_timeout:
            yield (
                f"{option}: is {limit:g} s, more than web.request_timeout ({web.request_timeout:g} s), which ends a "
                "silent request before"
            )


def _meet(there: Address, here: Address, udp: bool) -> bool:
    """Return whether a connection to `there` may reach a listener at `here`; a host name can be any address."""
    if there.port != here.port or (udp and there.udp_port != here.udp_port):
        return False
    anywhere = {"0.0.0.0", "::"}
    if not (there.is_numeric() and here.is_numeric()) or anywhere & set(here.hosts):
        return True
    return bool(set(there.hosts) & set(here.hosts))


def _channel_contradictions(web: Config, app: Config) -> Iterator[str]:
    """Yield the plugins whose items one side sends and the other cannot read."""
    sides = {}
    for side, config in (("web", web), ("app", app)):
        plugins = (one for one in config.load_plugins() if one.on)
        sides[side] = {one.plugin.name: {channel.name: channel for channel in one.channels} for one in plugins}
    for name in {**sides["web"], **sides["app"]}:
        here, there = sides["web"].get(name), sides["app"].get(name)
        if here is None or there is None:
            if here or there:
                yield f"plugins.{name}: is enabled for {'app' if here is None else 'web'} only; enable it on both sides"
            continue
        for channel in {**here, **there}:
            one, other = here.get(channel), there.get(channel)
            if one is None or other is None or not one.is_described_by(other.describe()):
                yield (
                    f"plugins.{name}: its options differ so that channel {channel} is "
                    f"{one.describe() if one else 'not there'} for web and "
                    f"{other.describe() if other else 'not there'} for app"
                )


def _web(web: WebConfig) -> Iterator[str]:
    yield from web.missing()
    for number, listen in enumerate(web.listen):
        if listen.startswith("unix:"):
            yield from _socket(f"web.listen.{number}", listen.removeprefix("unix:"))
    if "feed" in web.model_fields_set:
        yield from _socket("web.feed", web.feed)
    yield from _socket("web.admin", web.admin)
    for name in ("socket_group", "feed_group", "admin_group"):
        yield from _group(f"web.{name}", getattr(web, name))


def _app(app: AppConfig, imports: bool) -> Iterator[str]:
    yield from _socket("app.admin", app.admin)
    yield from _group("app.admin_group", app.admin_group)
    if app.path is not None and not os.path.isdir(app.path):
        yield f"app.path: is {app.path!r}; there is no such folder"
    elif app.application is not None and imports:
        yield from _application(app.application, app.path or os.getcwd(), app.virtualenv)


def _application(name: str, path: str, virtualenv: str | None) -> Iterator[str]:
    before, known = list(sys.path), set(sys.modules)
    try:
        if virtualenv is not None:
            adopt_environment(virtualenv)
        sys.path.insert(0, path)
        load_application(name)
    except ConfigError as error:
        yield from error.problems
    except (Exception, SystemExit) as error:  # the application's own code
        frame = traceback.extract_tb(error.__traceback__)[-1]
        yield (
            f"app.application: {name!r} cannot be imported: {type(error).__name__}: {error} "
            f"({frame.filename}, line {frame.lineno})"
        )
    finally:
        sys.path[:] = before
        top = name.partition(":")[0].partition(".")[0]
        for module in set(sys.modules) - known:
            if module == top or module.startswith(f"{top}."):
                del sys.modules[module]  # the next file's application may have the same name


def _socket(option: str, path: str | None) -> Iterator[str]:
    folder = os.path.dirname(os.path.abspath(path)) if path not in (None, AUTO) else "/"
    if not os.path.isdir(folder) and (os.path.exists(folder) or not folder.startswith(RUNTIME)):
        yield f"{option}: is {path!r}; there is no folder {folder}"


def _group(option: str, name: str | None) -> Iterator[str]:
    try:
        grp.getgrnam(name or "root")
    except LookupError:
        yield f"{option}: is {name!r}; there is no such group"


# ---- plugins


def _plugin(one: EnabledPlugin, sides: list[type[Half]]) -> Iterator[str]:
    """Yield problems that begin with a colon, or with a dot and the name of an option."""
    plugin = one.plugin
    halves: list[type[Half]] = []
    for kind in sides:
        make = plugin.web_half if kind is WebHalf else plugin.application_half
        try:
            found = list(_halves_named(make, kind))
        except Exception as error:  # a plugin's own code
            yield f": its {_NAMES[kind]} cannot be imported: {error or error!r}"
            continue
        halves += found
        for half in found:
            yield from (f": {half.__name__}: {wrong}" for wrong in wrong_hooks(half, kind))
        yield from (f".{problem}" for problem in _needs(plugin, one.options, kind))
    if one.hosts and len(sides) == 2 and halves and not any(_configures(half) for half in halves):
        yield ".hosts: it takes no options of one virtual host: its halves have no `configure`"


_NAMES: dict[type[Half], str] = {WebHalf: "web half", ApplicationHalf: "application half"}


def _configures(half: type[Half]) -> bool:
    return half.configure is not Half.configure


def _needs(plugin: Plugin, options: Any, kind: type[Half]) -> Iterator[str]:
    try:
        yield from plugin.missing(options, kind is WebHalf)
    except Exception as error:  # a plugin's own code
        yield f"missing: raises {error!r}"


def _halves_named(make: Callable[..., Any], kind: type[Half]) -> Iterator[type[Half]]:
    """Yield the classes of halves that a plugin's method names, imports included: it may make them. A compiled method
    yields none. Errors of an import pass through."""
    function = getattr(make, "__func__", make)
    code = getattr(function, "__code__", None)
    if code is None:
        return
    spaces: list[dict[str, Any]] = [function.__globals__]
    package = function.__globals__.get("__package__")
    instructions = list(dis.get_instructions(code))
    for number, one in enumerate(instructions):
        if one.opname == "IMPORT_NAME":  # after its level and the names that it gives
            level = instructions[number - 2].argval
            spaces.append(vars(importlib.import_module("." * int(level or 0) + str(one.argval), package)))
    for name in code.co_names:
        for space in spaces:
            found = space.get(name)
            if isinstance(found, type) and issubclass(found, kind) and found is not kind:
                yield found
