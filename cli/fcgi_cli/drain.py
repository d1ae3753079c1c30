"""``fcgi-sctp drain`` and ``undrain``: an application gets no new requests, and gets them again.

The command asks each web side with an admin socket on this host. A drain holds until ``undrain``, or until the web side
ends and no other process takes its place.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from fcgi_core.common.text import escape

from .admin import NO_PROCESS, AdminClient, AdminError, add_admin_argument, sockets, understood
from .output import add_output_argument, complain

__all__ = ["add_arguments", "run", "undo_arguments"]

EPILOG = """
Examples:
  fcgi-sctp drain 10.0.1.2:9000        before its host is restarted
  fcgi-sctp status                     DRAINED, and how many requests it still has
  fcgi-sctp undrain 10.0.1.2:9000

The application keeps its associations and ends the requests that it has. The web side keeps
it drained when it reads its file again (SIGHUP) or another process takes its place
(SIGUSR2), and forgets it when it ends: to keep an application out for good, remove it from
web.connect.

Exit status:
    0  success
    1  no web side knows the application
   64  usage error
   69  no web side answers
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Give an application no new requests: in each web side of this host, which lets it end those that it has."
    )
    parser.set_defaults(what="drain")
    _arguments(parser)


def undo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Give an application requests again, after `fcgi-sctp drain`: in each web side of this host."
    parser.set_defaults(what="undrain")
    _arguments(parser)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument(
        "address", metavar="ADDRESS", help="the application, as `fcgi-sctp status` shows it: HOST:PORT[/UDPPORT]"
    )
    add_admin_argument(parser)
    add_output_argument(parser)


def run(args: argparse.Namespace) -> int:
    command = f"fcgi-sctp {args.what}"
    clients = [AdminClient(path) for path in sockets(args.admin)]
    answers: list[dict[str, Any]] = []
    refused: list[str] = []
    errors: list[str] = []
    try:
        for client in clients:
            try:
                status = client.ask("status", streams=False)
                with understood():
                    if status["side"] != "web":
                        continue
            except AdminError as error:
                errors.append(str(error))
                continue
            try:
                answers.append(client.ask(args.what, address=args.address))
            except AdminError as error:
                refused.append(str(error))
    finally:
        for client in clients:
            client.close()
    complain(command, *errors, *(() if answers else refused))  # one web side of several may have other applications
    if not answers:
        if not refused and not errors:
            complain(command, "no web side answers" if clients else NO_PROCESS)
        return 1 if refused else os.EX_UNAVAILABLE
    if args.output == "json":
        print(json.dumps(answers, indent=2))
    with understood():
        lines = [escape(_line(answer, args.what)) for answer in answers]
        warnings = [escape(one) for answer in answers for one in _warnings(answer)]
    if args.output == "pretty":
        print("\n".join(lines))
    complain(command, *warnings)
    return os.EX_OK


def _line(answer: dict[str, Any], what: str) -> str:
    who, address, requests = answer["name"], answer["address"], answer["in_flight"]
    if what == "undrain":
        return f"web side {who}: {address} gets requests"
    return f"web side {who}: {address} gets no new requests; it has {requests}"


def _warnings(answer: dict[str, Any]) -> Iterator[str]:
    if not answer["left"]:
        yield (
            f"web side {answer['name']} has no application left that gets requests: they wait "
            f"{answer['queue_timeout']:g} s and then get 503"
        )
