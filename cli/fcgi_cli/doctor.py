"""``fcgi-sctp doctor``: shows which SCTP this machine has, what it lacks, and the command that provides it."""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from dataclasses import asdict
from typing import Any

from fcgi_core.common.text import escape

from .output import add_output_argument

__all__ = ["add_arguments", "run"]

STYLES = {"good": "green", "optional": "yellow", "missing": "red"}
SIGNS = {"good": "✔", "optional": "○", "missing": "✘"}
EPILOG = """
Exit status:
    0  fcgi-sctp can run here
   69  this machine has no SCTP
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show which SCTP this machine has, what it lacks, and the command that provides it."
    parser.epilog = EPILOG
    add_output_argument(parser)


def run(args: argparse.Namespace) -> int:
    from fcgi_core.sctp.carrier import CarrierError
    from fcgi_core.sctp.probe import choose, probe

    found = [{**asdict(one), "state": one.state.value} for one in probe()]
    try:
        chosen, problem = choose("auto"), ""
    except CarrierError as error:
        chosen, problem = "", str(error)
    if args.output == "json":
        print(json.dumps({"carrier": chosen or None, "findings": found}, indent=2))
    else:
        _print(found, chosen, problem)
    return 0 if chosen else os.EX_UNAVAILABLE


def _print(found: list[dict[str, Any]], chosen: str, problem: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    width = max(len(one["name"]) for one in found)
    columns = max(60, min(120, console.width)) if console.is_terminal else 120
    if console.options.encoding.startswith("utf"):
        signs = SIGNS
    else:
        signs = {"good": "+", "optional": "o", "missing": "-"}
    for one in found:
        style = STYLES[one["state"]]
        line = Text(f"{signs[one['state']]} ", style)
        line.append(f"{escape(one['name']):{width}}  ", "bold")
        line.append(f"{one['state']:8}  ", style)
        line.append(escape(one["value"]))
        console.print(line)
        indent = " " * (width + 14)
        for text in textwrap.wrap(escape(one["use"]), columns - len(indent)):
            console.print(Text(f"{indent}{text}", "dim"))
        if one["remedy"]:
            console.print(Text(f"{indent}$ {escape(one['remedy'])}", "cyan"))
    if chosen:
        console.print(Text(f"\n`sctp: auto` uses the carrier `{chosen}` here.", "bold"))
    else:
        console.print(Text(f"\n{escape(problem)}", "bold red"))
    if chosen != "kernel" and os.geteuid() != 0:
        console.print(Text("Run it as root to see everything; some settings need root.", "dim"))
