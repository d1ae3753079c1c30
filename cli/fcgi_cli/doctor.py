"""``fcgi-sctp doctor``: what SCTP this machine has, what it lacks, and the command that would give it.

Exit status: 0 if `fcgi-sctp` can run here; 69 (EX_UNAVAILABLE) if there is no SCTP of any kind.
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from typing import Any

from fcgi_core.common.text import escape

__all__ = ["add_arguments", "run"]

STYLES = {"good": "green", "optional": "yellow", "missing": "red"}
SIGNS = {"good": "✔", "optional": "○", "missing": "✘"}
EX_UNAVAILABLE = 69


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "What SCTP this machine has, what it lacks, and the command that would give it."
    parser.add_argument("-o", "--output", choices=("pretty", "json"), default="pretty")


def run(args: argparse.Namespace) -> int:
    from fcgi_core.sctp.carrier import CarrierError
    from fcgi_core.sctp.probe import choose, probe

    found = [
        {
            "name": one.name,
            "state": one.state.value,
            "value": one.value,
            "use": one.use,
            "remedy": one.remedy,
        }
        for one in probe()
    ]
    try:
        taken, problem = choose("auto"), ""
    except CarrierError as error:
        taken, problem = "", str(error)
    if args.output == "json":
        print(json.dumps({"carrier": taken or None, "findings": found}, indent=2))
    else:
        _print(found, taken, problem)
    return 0 if taken else EX_UNAVAILABLE


def _print(found: list[dict[str, Any]], taken: str, problem: str) -> None:
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
    if taken:
        console.print(Text(f"\nsctp: auto takes the carrier `{taken}` here.", "bold"))
    else:
        console.print(Text(f"\n{escape(problem)}", "bold red"))
    if taken != "kernel" and os.geteuid() != 0:
        console.print(Text("Some of this only root can see or change.", "dim"))
