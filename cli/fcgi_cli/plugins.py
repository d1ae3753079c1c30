"""``fcgi-sctp plugins``: lists the plugins, describes one with its options, writes the folder of a new one."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from fcgi_core.common.text import escape

from .admin import add_admin_argument, ask_once, understood
from .output import add_output_argument, complain
from .status import plugin_rows, table

__all__ = ["add_arguments", "run", "type_text"]

COMMAND = "fcgi-sctp plugins"
EPILOG = """
Without a COMMAND it lists.

Exit status:
    0  success
    1  the plugin is not installed, cannot be loaded, or cannot be written
   64  usage error
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "List the plugins that are installed and that run, describe one, or write a new one."
    parser.epilog = EPILOG
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")

    listing = command("list", "list the installed plugins, and the state of those that run")
    listing.set_defaults(show=_list)
    showing = command("show", "describe a plugin, its options and its channels")
    showing.add_argument("name", metavar="NAME", help="the plugin")
    showing.set_defaults(show=_show)
    new = command("new", "write the folder of a new plugin, ready to install and test")
    new.add_argument("name", metavar="NAME", help="the new plugin's name: lower-case letters, digits and _")
    new.add_argument(
        "--in", dest="where", default=".", metavar="DIRECTORY", help="write the folder in this directory (.)"
    )
    new.set_defaults(show=_new)
    for one in (listing, showing):
        add_admin_argument(one)
        add_output_argument(one)
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
        complain(COMMAND, f"{error.filename} exists already")
        return 1
    except (ValueError, OSError) as error:
        complain(COMMAND, str(error))
        return 1
    for path in files:
        print(escape(str(path)))
    folder = escape(str(Path(args.where) / args.name))
    print(f"next: pip install -e {folder}, then write `plugins: {{{args.name}: {{}}}}` in the files of both sides")
    return 0


def _show(args: argparse.Namespace) -> int:
    from fcgi_core.hosting.discovery import installed_plugins

    plugins = installed_plugins()
    plugin: Any = plugins.get(args.name)
    if plugin is None or isinstance(plugin, Exception):
        known = ", ".join(plugins) or "none"
        why = f"not installed; installed plugins are: {known}" if plugin is None else str(plugin)
        complain(COMMAND, f"{args.name}: {why}")
        return 1
    options = list(_options(plugin))
    try:
        declared = plugin.channels(plugin.Options())
    except Exception as error:  # a plugin's own code, or an option without a default
        complain(COMMAND, f"{plugin.name}: cannot list its channels without options: {error!r}")
        declared = ()
    channels = [
        {"name": one.name, "scope": one.scope.value, "priority": one.priority.name.lower(), "lifetime": one.lifetime}
        for one in declared
    ]
    running = _running(args)
    if args.output == "json":
        facts = {"name": plugin.name, "version": plugin.version, "about": _about(plugin), "options": options}
        print(json.dumps({**facts, "channels": channels, "running": running}, indent=2))
        return 0
    print(f"{plugin.name} {plugin.version}, plugin API {plugin.api_version}")
    print(textwrap.fill(_about(plugin), 100, initial_indent="  ", subsequent_indent="  "))
    print("options" if options else "no options")
    for option in options:
        changed = "; a web side may change it" if option["by_web_sides"] else ""
        print(f"  {option['name']}: {option['type']}, default {json.dumps(option['default'])}{changed}")
        if option["help"]:
            print(textwrap.fill(option["help"], 100, initial_indent="      ", subsequent_indent="      "))
    print("channels, with the default options" if channels else "no channels")
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
    """A JSON Schema as a short text, such as ``number from 1 to 5``."""
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
    """Each process that answers, and its plugins."""
    answers = ask_once(COMMAND, args.admin, "status", optional=True, streams=False)
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
        yield from map(escape, table(rows, indent=2))
        if not rows:
            yield "  no plugins" if name is None else "  not enabled"
