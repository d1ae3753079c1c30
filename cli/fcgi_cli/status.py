"""``fcgi-sctp status``: shows what each process does now, and the streams of each association as a picture."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from fcgi_core.common.text import escape

from .admin import add_admin_argument, ask_once, understood
from .output import add_output_argument
from .units import amount, duration, seconds, size

__all__ = ["STATES", "add_arguments", "picture", "plugin_rows", "render", "run", "table"]

EPILOG = """
Exit status:
    0  success
   69  no process answers
"""
ROW = 64
"""Streams in a row of the picture."""
MOST_USES = 24
"""Streams listed one by one without --all."""
STATES = {"up": "up", "out": "OUT", "down": "DOWN", "drained": "DRAINED", "leaving": "leaving"}
"""States of applications. OUT: connected, but set aside because its probes fail. DRAINED: by hand. leaving: removed;
its last requests end."""
LETTERS = "abdefghijkmnopqrtuvwxyz"
"""Letters of channels, in the order in which these appear; c is content, s STDERR, l late feedback."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show what each process does now: requests, applications, associations, streams, plugins."
    parser.epilog = EPILOG
    add_admin_argument(parser)
    parser.add_argument(
        "-a", "--all", action="store_true", help="list every stream and virtual host, however many there are"
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> int:
    answers = ask_once("fcgi-sctp status", args.admin, "status")
    if args.output == "json":
        print(json.dumps(answers, indent=2))
    elif answers:
        with understood():
            text = "\n\n".join("\n".join(render(answer, everything=args.all)) for answer in answers)
        print(text)
    return 0 if answers else os.EX_UNAVAILABLE


def render(status: dict[str, Any], *, everything: bool = False) -> Iterator[str]:
    """The answer of one process as lines, with control characters escaped."""
    yield from map(escape, _lines(status, everything))


def _lines(status: dict[str, Any], everything: bool) -> Iterator[str]:
    side = {"web": "web side", "app": "application"}.get(status["side"], status["side"])
    yield (
        f"{side} {status['name']}, fcgi-sctp {status['version']}, "
        f"process {status['pid']}, up {duration(status['uptime'])}"
    )
    requests = status["requests"]
    yield f"  {requests['in_flight']} requests in flight, {requests['waiting']} waiting, {requests['ended']} ended"
    if requests.get("over_limit"):
        yield f"  {requests['over_limit']} requests were ended by app.request_limit, {requests['hanging']} hang"
    if status.get("listen"):
        yield f"  listens at {', '.join(status['listen'])}"
    upstreams = status.get("upstreams", ())
    for site in status.get("sites", ()):
        yield (
            f"  {_name(site['name'])}: {site['in_flight']} requests in flight, {site['waiting']} waiting, "
            f"{site['ended']} ended"
        )
        yield from table([_application(one) for one in upstreams if one["site"] == site["name"]])
    if status.get("unknown_site"):
        yield f"  {status['unknown_site']} requests were for no site and got 421"
    if upstreams and "sites" not in status:
        yield "  applications"
        yield from table([_application(one) for one in upstreams])
    if status["hosts"]:
        yield "  virtual hosts, counted since the first query"
        hosts = status["hosts"] if everything else status["hosts"][:10]
        yield from table([_host(one) for one in hosts])
        left_out = len(status["hosts"]) - len(hosts) + status["hosts_left_out"]
        if left_out:
            yield f"    and {left_out} more"
    for association in status["associations"]:
        yield from _association(association, everything)
    if status["associations_left_out"]:
        yield f"  and {status['associations_left_out']} more associations"
    if status["plugins"]:
        yield "  plugins"
        yield from table([row for plugin in status["plugins"] for row in plugin_rows(plugin)])


def _name(site: str) -> str:
    return f"site {site}" if site else "all other requests"


def _application(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["address"],
        STATES.get(one["state"], "?"),
        f"{one['in_flight']} in flight{_on(one.get('associations', ()))}",
        f"{one['requests']} sent",
        f"weight {one['weight']:g}",
        one["last_error"],
    )


def _on(associations: Sequence[int]) -> str:
    """Their number, where an application has several."""
    return f" on {len(associations)} associations" if len(associations) > 1 else ""


def _host(host: dict[str, Any]) -> tuple[str, ...]:
    statuses = "  ".join(f"{name} {count}" for name, count in host["statuses"].items() if count)
    return (
        host["server_name"],
        f"{host['requests']} requests",
        f"{host['in_flight']} in flight",
        f"{size(host['bytes_out'])} sent",
        statuses,
    )


def plugin_rows(plugin: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows of cells: one for a plugin, then one for each channel and one for each output of it."""
    hooks = plugin["hooks"]
    row = [f"{plugin['name']} {plugin['version']}", plugin["state"], f"{plugin['errors']} errors"]
    if hooks["calls"]:
        row.append(f"{hooks['seconds'] / hooks['calls'] * 1e6:.0f} us a hook")
    if hooks["slow"]:
        row.append(f"{hooks['slow']} slow, the slowest {hooks['slowest']:.2g} s")
    if hooks.get("share", 0.0) >= 0.01:
        row.append(f"{hooks['share'] * 100:.0f} % of the time")
    yield tuple(row)
    for one in plugin.get("disagreements", ()):
        here, there = one["here"] or "nothing", one["there"] or "nothing"
        yield (f"  ! {one['peer']} declares other channels", f"here {here}", f"there {there}")
    for one in plugin.get("aside", ()):
        yield (f"  ! {one['peer']}", "set aside there", f"for {duration(one['seconds'])}")
    for channel in plugin["channels"]:
        yield (
            f"  {channel['name']}",
            f"{channel['scope']}, {channel['priority']}",
            f"{channel['streams']} streams",
            f"sent {amount(channel['sent'])}",
            f"received {amount(channel['received'])}",
            f"dropped {amount(channel['dropped'])}",
            *([f"waiting {amount(channel['waiting'])}"] if channel.get("waiting") else []),
        )
    for output in plugin.get("outputs", ()):
        facts = [f"{amount(output['errors'])} errors"]
        if output["cut"]:
            facts.append(f"{amount(output['cut'])} cut")
        if output["last_error"]:
            facts.append(output["last_error"])
        yield (
            f"  > {output['name']}",
            output["state"],
            f"written {amount(output['written'])}",
            f"waiting {amount(output['waiting'])} ({size(output['waiting_bytes'])})",
            f"lost {amount(output['lost'])} ({size(output['lost_bytes'])})",
            ", ".join(facts),
        )


def _association(one: dict[str, Any], everything: bool) -> Iterator[str]:
    sctp = one["sctp"]
    name = f" {one['peer_name']}" if one["peer_name"] else ""
    yield f"  association {one['identity']} with{name} at {one['peer']}, up {duration(one['age'])}" + (
        ", draining" if one["draining"] else ""
    )
    facts = [f"round trip {seconds(sctp['round_trip'])}"]
    for label, value, show in (
        ("congestion window", sctp["congestion_window"], size),
        ("retransmissions", sctp["retransmissions"], amount),
        ("unacknowledged chunks", sctp["unacknowledged"], amount),
    ):
        if value is not None:
            facts.append(f"{label} {show(value)}")
    yield f"    {', '.join(facts)}"
    if any(state != "active" for _, state in sctp["paths"]):
        yield "    paths: " + ", ".join(f"{address} {state}" for address, state in sctp["paths"])
    yield (
        f"    waiting: content {size(one['content_waiting'])}, feedback {size(one['feedback_waiting'])}, "
        f"in SCTP {size(sctp['queued'])}"
    )
    short = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in one["shortages"].items() if count)
    yield f"    {one['streams']} streams, {one['streams_leased']} leased" + (f"; too few: {short}" if short else "")
    if "map" in one:
        yield from (f"    {line}" for line in picture(one["streams"], one["map"]))
        yield from _uses(one["map"], everything)


def picture(streams: int, uses: list[dict[str, Any]]) -> Iterator[str]:
    """Draw the streams of an association as a character each, then explain the characters. Free rows are left out."""
    letters: dict[str, str] = {"content": "c", "stderr": "s", "draining": "~", "late feedback": "l"}
    cells = {0: "-", 1: "!"}
    legend = {"!": "control", "-": "security"}
    for use in uses:
        what = use["uses"]
        if len(what) > 1:
            cells[use["stream"]] = str(len(what)) if len(what) < 10 else "+"
            continue
        name = what[0]["what"]
        letter = letters.get(name)
        if letter is None:
            free = [one for one in LETTERS if one not in letters.values()]
            letter = letters[name] = free[0] if free else "?"
        cells[use["stream"]] = letter
        legend[letter] = name
    last = max(cells)
    for start in range(0, min(streams, last + 1), ROW):
        row = [cells.get(stream, ".") for stream in range(start, min(start + ROW, streams))]
        if any(cell != "." for cell in row):
            yield f"{start:>5} {''.join(row)}"
    if last // ROW * ROW + ROW < streams:
        yield f"{last // ROW * ROW + ROW:>5} to {streams - 1} are free"
    yield "      " + ", ".join(f"{letter} {name}" for letter, name in legend.items()) + ", . free, 2 to + shared"


def _uses(uses: list[dict[str, Any]], everything: bool) -> Iterator[str]:
    rows = []
    for use in uses:
        for one in use["uses"]:
            about = [one[key] for key in ("server_name", "request") if one.get(key)]
            rows.append((str(use["stream"]), one["what"], *about))
    shown = rows if everything else rows[:MOST_USES]
    yield from table(shown, indent=6)
    if len(rows) > len(shown):
        yield f"      and {len(rows) - len(shown)} more; --all lists them"


def table(rows: list[tuple[str, ...]], indent: int = 4) -> Iterator[str]:
    """Lines of columns, each column as wide as its longest cell."""
    widths: list[int] = []
    for row in rows:
        widths += [0] * (len(row) - len(widths))
        for column, cell in enumerate(row):
            widths[column] = max(widths[column], len(cell))
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        yield (" " * indent + "  ".join(cells)).rstrip()
