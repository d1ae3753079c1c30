"""``fcgi-sctp top``: shows rates of requests, virtual hosts, associations and plugins until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from fcgi_core.common.text import escape

from .admin import NO_PROCESS, AdminClient, add_admin_argument, ask_all, sockets, understood
from .output import complain, output_is_gone
from .parser import seconds as time_between
from .parser import whole_number
from .rates import view
from .status import STATES
from .units import amount, duration, seconds, size

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["add_arguments", "render", "run"]

COMMAND = "fcgi-sctp top"
EPILOG = """
Exit status:
    0  success
   69  no process answers
  130  interrupted with Ctrl-C
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show rates of requests, virtual hosts, associations and plugins, live. Ctrl-C ends it."
    parser.epilog = EPILOG
    add_admin_argument(parser)
    parser.add_argument(
        "-d",
        "--interval",
        type=time_between(0.05, 3600),
        default=1.0,
        metavar="SECONDS",
        help="measure over this time (1)",
    )
    parser.add_argument("--once", action="store_true", help="measure over one interval, print it and end")
    parser.add_argument("--count", type=whole_number(1), metavar="N", help="end after N intervals")
    parser.add_argument(
        "-o",
        "--output",
        choices=("pretty", "json"),
        default="pretty",
        help="tables, or a line of JSON for each interval (pretty)",
    )


def run(args: argparse.Namespace) -> int:
    clients = [AdminClient(path) for path in sockets(args.admin)]
    if not clients:
        complain(COMMAND, NO_PROCESS)
        return os.EX_UNAVAILABLE
    try:
        return _watch(args, clients)
    finally:
        for client in clients:
            client.close()


def _watch(args: argparse.Namespace, clients: list[AdminClient]) -> int:
    left = 1 if args.once else args.count
    answers, errors = ask_all(clients, "status", streams=False)
    if not answers:
        complain(COMMAND, *errors)
        return os.EX_UNAVAILABLE
    live = None
    if args.output == "pretty" and not args.once and sys.stdout.isatty():
        from rich.console import Console  # slow to load, and needed on a terminal only
        from rich.live import Live

        live = Live(console=Console(highlight=False), screen=True, auto_refresh=False)
        live.start()
    try:
        while (left is None or left > 0) and not output_is_gone():
            with understood():
                before = {(one["side"], one["pid"]): one for one in answers}
                time.sleep(args.interval)
                answers, errors = ask_all(clients, "status", streams=False)
                views = [view(before.get((one["side"], one["pid"])), one) for one in answers]
                drawn = render(views, errors if live is not None else ())
            if live is not None:
                live.update(drawn, refresh=True)
            else:
                _print(args, views, errors, drawn)
            left = None if left is None else left - 1
    finally:
        if live is not None:
            live.stop()
    return 0 if answers else os.EX_UNAVAILABLE


def _print(args: argparse.Namespace, views: list[dict[str, Any]], errors: list[str], drawn: RenderableType) -> None:
    complain(COMMAND, *errors)
    if args.output == "json":
        print(json.dumps({"time": time.time(), "processes": views}), flush=True)
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(drawn)
    sys.stdout.flush()


def render(views: list[dict[str, Any]], errors: Any) -> RenderableType:
    """Tables for each process. Remote text is escaped and never read as markup."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []

    def table(title: str, columns: str, rows: list[tuple[str, ...]], bad: tuple[int, ...] = ()) -> None:
        if not rows:
            return
        made = Table(title=Text(title, "bold"), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for number, column in enumerate(columns.split("|")):
            made.add_column(Text(column, "dim"), justify="left" if number == 0 else "right", no_wrap=True)
        for row in rows:
            cells = [
                Text(cell, "red" if number in bad and cell not in ("0", "-", "") else "")
                for number, cell in enumerate(row)
            ]
            made.add_row(*cells)
        parts.append(made)

    for one in views:
        head = f"{escape(one['side'])} {escape(one['name'])}  process {one['pid']}  up {duration(one['uptime'])}  "
        head += f"{_rate(one['requests_per_second'])} requests/s  {one['in_flight']} in flight"
        head += f"  {one['waiting']} waiting" if one["waiting"] else ""
        parts.append(Text(head, "reverse", no_wrap=True))
        hosts = sorted(one["hosts"], key=lambda host: -(host["requests_per_second"] or 0))
        table(
            "virtual hosts",
            "|req/s|5xx/s|in flight|median|95 %|99 %|bytes/s",
            [
                (
                    escape(host["server_name"]),
                    _rate(host["requests_per_second"]),
                    _rate(host["server_errors_per_second"]),
                    str(host["in_flight"]),
                    seconds(host["median"]),
                    seconds(host["p95"]),
                    seconds(host["p99"]),
                    "-" if host["bytes_per_second"] is None else size(host["bytes_per_second"]),
                )
                for host in hosts[:20]
            ],
            bad=(2,),
        )
        table(
            "applications",
            "|state|requests/s|in flight|associations",
            [
                (
                    escape(f"{upstream['site']}: {upstream['address']}" if upstream["site"] else upstream["address"]),
                    STATES.get(upstream["state"], "?"),
                    _rate(upstream["requests_per_second"]),
                    str(upstream["in_flight"]),
                    str(upstream["associations"]),
                )
                for upstream in one["upstreams"]
            ],
        )
        table(
            "associations",
            "|peer|rtt|resent|streams|short|requests|waiting",
            [
                (
                    f"{row['identity']} {escape(row['peer_name'])}",
                    escape(row["peer"]),
                    seconds(row["round_trip"]),
                    "-" if row["retransmissions"] is None else amount(row["retransmissions"]),
                    f"{row['streams_leased']}/{row['streams']}",
                    amount(row["shortages"]),
                    str(row["requests"]),
                    size(row["waiting"] + row["queued"]),
                )
                for row in one["associations"]
            ],
            bad=(5,),
        )
        table(
            "plugins",
            "|state|errors|channel|streams|sent/s|received/s|dropped",
            [
                (
                    escape(row["plugin"]),
                    escape(row["state"]),
                    str(row["errors"]),
                    escape(row["channel"]),
                    str(row["streams"]),
                    _rate(row["sent_per_second"]),
                    _rate(row["received_per_second"]),
                    amount(row["dropped"]),
                )
                for row in one["plugins"]
            ],
            bad=(2, 7),
        )
    parts += [Text(escape(error), "bold red") for error in errors]
    return Group(*parts)


def _rate(value: float | None) -> str:
    return "-" if value is None else amount(round(value, 1))
