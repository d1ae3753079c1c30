"""``fcgi-sctp plugins``: which are installed and what they can be told, and how those that run fare.

Exit status: 0; 1 if there is no such plugin, or it cannot be loaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from fcgi_core.common.text import escape

from .admin import AdminClient, add_admin_argument, ask_once, sockets, understood
from .status import plugin_rows

__all__ = ["add_arguments", "run", "type_text"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "The plugins that are installed, and those that run."
    commands = parser.add_subparsers(metavar="COMMAND", dest="plugins_command")
    listing = commands.add_parser("list", help="the plugins installed, and how those that run fare")
    listing.set_defaults(show=_list)
    showing = commands.add_parser("show", help="what a plugin does, and its options")
    showing.add_argument("name", metavar="NAME")
    showing.set_defaults(show=_show)
    new = commands.add_parser("new", help="write a plugin's folder, which installs, tests and runs at once")
    new.add_argument("name", metavar="NAME")
    new.add_argument("--in", dest="where", default=".", metavar="DIRECTORY", help="where to write it (here)")
    new.set_defaults(show=_new)
    for one in (listing, showing):
        add_admin_argument(one)
        one.add_argument("-o", "--output", choices=("pretty", "json"), default="pretty")
    parser.set_defaults(show=_list, admin=None, output="pretty")


def run(args: argparse.Namespace) -> int:
    status: int = args.show(args)
    return status


def _list(args: argparse.Namespace) -> int:
    from fcgi_core.hosting.discovery import installed_plugins

    installed: list[dict[str, Any]] = []
    for name, found in installed_plugins().items():
        if isinstance(found, Exception):
            installed.append({"name": name, "error": str(found)})
        else:
            installed.append({"name": name, "version": found.version, "about": _about(found)})
    running = _running(args)
    if args.output == "json":
        print(json.dumps({"installed": installed, "running": running}, indent=2))
        return 0
    print("installed" if installed else "no plugin is installed")
    width = max((len(f"{one['name']} {one.get('version', '')}") for one in installed), default=0)
    for one in installed:
        title = f"{one['name']} {one.get('version', '')}".ljust(width)
        print(f"  {escape(title)}  {escape(one.get('about') or 'CANNOT BE LOADED: ' + one.get('error', ''))}")
    _print_running(running, None)
    return 0


def _new(args: argparse.Namespace) -> int:
    from pathlib import Path

    from .plugin_template import write_plugin

    try:
        files = write_plugin(args.name, Path(args.where))
    except FileExistsError as error:
        print(f"fcgi-sctp plugins: {escape(error.filename)} is there already", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"fcgi-sctp plugins: {escape(str(error))}", file=sys.stderr)
        return 1
    for path in files:
        print(escape(str(path)))
    folder = escape(str(Path(args.where) / args.name))
    print(f"next: pip install -e {folder}; then `plugins: {{{args.name}: {{}}}}` on both sides")
    return 0


def _show(args: argparse.Namespace) -> int:
    from fcgi_core.hosting.discovery import installed_plugins

    plugins = installed_plugins()
    plugin: Any = plugins.get(args.name)
    if plugin is None or isinstance(plugin, Exception):
        known = ", ".join(plugins) or "none"
        why = f"no such plugin is installed; installed are: {known}" if plugin is None else str(plugin)
        print(f"fcgi-sctp plugins: {escape(args.name)}: {escape(why)}", file=sys.stderr)
        return 1
    import textwrap  # imported here, for the command `logs` starts quickly and has no need of it

    options = list(_options(plugin))
    try:
        declared = plugin.channels(plugin.Options())
    except Exception as error:  # a plugin's own code, or an option without a default
        print(f"fcgi-sctp plugins: {plugin.name}: no channels without options: {escape(repr(error))}", file=sys.stderr)
        declared = ()
    channels = [
        {"name": one.name, "scope": one.scope.value, "priority": one.priority.name.lower(), "lifetime": one.lifetime}
        for one in declared
    ]
    running = _running(args)
    if args.output == "json":
        told = {"name": plugin.name, "version": plugin.version, "about": _about(plugin), "options": options}
        print(json.dumps({**told, "channels": channels, "running": running}, indent=2))
        return 0
    print(f"{plugin.name} {plugin.version}, plugin API {plugin.api_version}")
    print(textwrap.fill(_about(plugin), 100, initial_indent="  ", subsequent_indent="  "))
    print("options" if options else "it has no options")
    for option in options:
        changed = "; web sides may change it" if option["by_web_sides"] else ""
        print(f"  {option['name']}: {option['type']}, default {json.dumps(option['default'])}{changed}")
        if option["help"]:
            print(textwrap.fill(option["help"], 100, initial_indent="      ", subsequent_indent="      "))
    print("channels, with these defaults" if channels else "it has no channels")
    for channel in channels:
        lifetime = "" if channel["lifetime"] is None else f", lifetime {channel['lifetime']:g} s"
        print(f"  {channel['name']}: {channel['scope']}, {channel['priority']}{lifetime}")
    _print_running(running, plugin.name)
    return 0


def _about(plugin: Any) -> str:
    import inspect

    return " ".join((inspect.getdoc(type(plugin)) or "").split())


def _options(plugin: Any) -> Iterator[dict[str, Any]]:
    from fcgi_core.hosting.discovery import from_peer

    by_web_sides = from_peer(plugin)
    schema = plugin.Options.model_json_schema()
    for name, field in schema.get("properties", {}).items():
        yield {
            "name": name,
            "type": type_text(field, schema.get("$defs", {})),
            "default": field.get("default"),
            "help": " ".join(field.get("description", "").split()),
            "by_web_sides": name in by_web_sides,
        }


_SIMPLE = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


def type_text(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON Schema in words."""
    if "$ref" in schema:
        return type_text(definitions.get(schema["$ref"].rpartition("/")[2], {}), definitions)
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(type_text(one, definitions) for one in schema["anyOf"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of ({type_text(schema.get('items', {}), definitions)})"
    if kind == "object" and "properties" in schema:
        return "{" + ", ".join(schema["properties"]) + "}"
    if kind == "object":
        return "names with values"
    text = _SIMPLE.get(str(kind), "any value")
    least, most = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if least is not None and most is not None:
        return f"{text} from {least:g} to {most:g}"
    if least is not None:
        return f"{text} {'above' if 'exclusiveMinimum' in schema else 'from'} {least:g}"
    return text


def _running(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Each process that answers, with its plugins."""
    answers, errors = ask_once([AdminClient(path) for path in sockets(args.admin)], "status", streams=False)
    for error in errors:
        print(f"fcgi-sctp plugins: {escape(error)}", file=sys.stderr)
    with understood():
        return [{name: one[name] for name in ("side", "name", "pid", "plugins")} for one in answers]


def _print_running(running: list[dict[str, Any]], name: str | None) -> None:
    with understood():
        lines = list(_running_lines(running, name))
    for line in lines:
        print(line)


def _running_lines(running: list[dict[str, Any]], name: str | None) -> Iterator[str]:
    for process in running:
        yield escape(f"running in {process['side']} {process['name']}, process {process['pid']}")
        rows = [row for one in process["plugins"] if name in (None, one["name"]) for row in plugin_rows(one)]
        widths = [max((len(row[column]) for row in rows if column < len(row)), default=0) for column in range(6)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
            yield escape("  " + "  ".join(cells)).rstrip()
        if not rows:
            yield "  none" if name is None else "  it is not enabled there"
