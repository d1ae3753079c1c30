"""``fcgi-sctp set``: changes options of plugins while the processes run, on the web side and in all applications.

The command asks each process with an admin socket on this host. A web side passes the change on to its applications,
which accept what the plugin and their own file (app.remote_changes) allow.

A change holds until the process ends or reads its file again (SIGHUP).
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from fcgi_core.common.text import escape
from fcgi_core.errors import NO_EFFECT

from .admin import add_admin_argument, ask_once, understood
from .output import add_output_argument

__all__ = ["add_arguments", "run"]

_FORM = re.compile(r"([\w-]+\.[\w.-]+(?:@[^=]+)?)=(.*)", re.DOTALL)
EPILOG = """
Examples:
  fcgi-sctp set syslog.severity=debug                               for all virtual hosts
  fcgi-sctp set syslog.severity=debug --server-name shop.example    for one virtual host
  fcgi-sctp set syslog.severity@shop.example=debug                  the same
  fcgi-sctp set metrics.enabled=false                               switches a plugin off

Every process on this host gets the change. Web sides pass it on to applications on other
hosts, which accept only options that a web side may change: `fcgi-sctp plugins show NAME`
marks them. A change holds until the process ends or reads its file again (SIGHUP).

Exit status:
    0  success
    1  a process refused the change, or it has no effect anywhere
   64  usage error
   69  no process answers
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Change options of plugins in running processes: on this host, and in the applications of its web sides."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "changes",
        nargs="+",
        type=_change,
        metavar="PLUGIN.OPTION[@HOST]=VALUE",
        help="the option and its new value: text, a number, true, false or null",
    )
    parser.add_argument(
        "-s", "--server-name", action="append", metavar="HOST", help="change it for this virtual host only; repeatable"
    )
    add_admin_argument(parser)
    add_output_argument(parser)


def run(args: argparse.Namespace) -> int:
    changes = _for_hosts(args.changes, args.server_name)
    answers = ask_once("fcgi-sctp set", args.admin, "change", changes=changes)
    if not answers:
        return os.EX_UNAVAILABLE
    if args.output == "json":
        print(json.dumps(answers, indent=2))
    with understood():
        lines = [line for answer in answers for line in _lines(answer)]
        status = int(_refused(answers))
    if args.output == "pretty":
        print("\n".join(lines))
    return status


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    """The results of a process and of the applications that it asked, one per line."""
    for who, results in answer.items():
        for name, why in results.items():
            said = f"refused: {why}" if why and not why.startswith(NO_EFFECT) else why or "changed"
            yield escape(f"{who}: {name}: {said}")


def _refused(answers: list[dict[str, Any]]) -> bool:
    """Whether a process refuses a change, or a change has no effect anywhere."""
    everywhere = [results for answer in answers for results in answer.values()]
    whys = [why for results in everywhere for why in results.values()]
    changed = {name for results in everywhere for name, why in results.items() if not why}
    idle = {name for results in everywhere for name, why in results.items() if why} - changed
    return bool(idle) or any(why and not why.startswith(NO_EFFECT) for why in whys)


def _for_hosts(changes: list[tuple[str, str]], hosts: list[str] | None) -> dict[str, str]:
    """The changes, each for every one of `hosts` unless it names a host itself."""
    return {
        name if host is None or "@" in name else f"{name}@{host}": value
        for name, value in changes
        for host in hosts or (None,)
    }


def _change(text: str) -> tuple[str, str]:
    match = _FORM.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"invalid change {text!r}: use PLUGIN.OPTION=VALUE or PLUGIN.OPTION@HOST=VALUE"
        )
    return match[1], match[2]
