"""``fcgi-sctp set``: options of plugins, changed while the program runs, on the web side and in all applications.

Each process with an admin socket on this host is asked. A web side asks its applications, which take from it what the
plugin and the application's file (app.remote_changes) allow.

What is set holds until the processes end or their file is read again (SIGHUP).

Exit status: 0; 1 if anybody refuses a change, or it has an effect nowhere; 69 (EX_UNAVAILABLE) if no process has
answered.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from fcgi_core.common.text import escape
from fcgi_core.errors import NO_EFFECT

from .admin import AdminClient, add_admin_argument, ask_once, sockets, understood

__all__ = ["add_arguments", "run"]

EX_UNAVAILABLE = 69
_FORM = re.compile(r"([\w-]+\.[\w.-]+(?:@[^=]+)?)=(.*)", re.DOTALL)
EPILOG = """
  fcgi-sctp set syslog.severity=debug                               for all
  fcgi-sctp set syslog.severity=debug --server-name shop.example    for one virtual host
  fcgi-sctp set syslog.severity@shop.example=debug                  the same
  fcgi-sctp set metrics.enabled=false                               switches a plugin off

It holds until the processes end, or read their file again (SIGHUP). Each process of this host is asked, and by its web
sides the applications on other hosts: those take what the plugin lets web sides change.
Exit status: 0; 1 if anybody refuses, or it has an effect nowhere; 64 for wrong words; 69 if no process answers.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Change options of plugins while they run, here and in all applications."
    parser.epilog = EPILOG
    parser.add_argument(
        "changes",
        nargs="+",
        type=_change,
        metavar="PLUGIN.OPTION[@HOST]=VALUE",
        help="the value: a text, number, true, false or null",
    )
    parser.add_argument(
        "-s", "--server-name", action="append", metavar="HOST", help="for this virtual host alone; may be repeated"
    )
    add_admin_argument(parser)
    parser.add_argument("-o", "--output", choices=("pretty", "json"), default="pretty")


def run(args: argparse.Namespace) -> int:
    paths = sockets(args.admin)
    changes = _for_hosts(args.changes, args.server_name)
    answers, errors = ask_once([AdminClient(path) for path in paths], "change", changes=changes)
    for error in errors:
        print(f"fcgi-sctp set: {escape(error)}", file=sys.stderr)
    if not answers:
        if not errors:
            print("fcgi-sctp set: no process with an admin socket answers; --admin names one", file=sys.stderr)
        return EX_UNAVAILABLE
    if args.output == "json":
        print(json.dumps(answers, indent=2))
    with understood():
        lines = [line for answer in answers for line in _lines(answer)]
        status = int(_refused(answers))
    if args.output == "pretty":
        print("\n".join(lines))
    return status


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    """What a process, and the applications that it asked, say."""
    for who, results in answer.items():
        for name, why in results.items():
            said = f"refused: {why}" if why and not why.startswith(NO_EFFECT) else why or "taken"
            yield escape(f"{who}: {name}: {said}")


def _refused(answers: list[dict[str, Any]]) -> bool:
    """Whether anybody refuses a change, or it has an effect nowhere."""
    everybody = [results for answer in answers for results in answer.values()]
    whys = [why for results in everybody for why in results.values()]
    taken = {name for results in everybody for name, why in results.items() if not why}
    idle = {name for results in everybody for name, why in results.items() if why} - taken
    return bool(idle) or any(why and not why.startswith(NO_EFFECT) for why in whys)


def _for_hosts(changes: list[tuple[str, str]], hosts: list[str] | None) -> dict[str, str]:
    """The changes, for `hosts` alone where those are given; a change that names a host itself is for that one."""
    return {
        name if host is None or "@" in name else f"{name}@{host}": value
        for name, value in changes
        for host in hosts or (None,)
    }


def _change(text: str) -> tuple[str, str]:
    match = _FORM.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no change: PLUGIN.OPTION=VALUE, or PLUGIN.OPTION@HOST=VALUE")
    return match[1], match[2]
