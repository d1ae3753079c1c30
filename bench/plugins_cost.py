#!/usr/bin/env python3
"""What the plugins cost: requests a second through nginx with syslog and metrics on, and with both off, by turns.

    .venv/bin/python bench/plugins_cost.py [--rounds 6] [--seconds 4] [--connections 32] [--scope request] [--json FILE]
                                           [--lock FILE]

The application is the same in every turn: it answers "Hello world" and logs one line by Python's logging.

    off         no plugins; logging is not set up, and drops the line at once
    made        no plugins; a handler takes the line and does nothing with it
    file        no plugins; Python's own FileHandler writes the line, as an application does that logs by itself
    on          syslog with its defaults (each line bound to its request) into a file and the live feed, and metrics
                with its defaults, a Prometheus endpoint on the web side

A turn starts everything anew, warms it up for a second, and measures. `on/...` is the quotient of a round's two turns:
median, least, most. Needs nginx and wrk (script/setup test).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # neither `bench` nor `tests` is an installed package

TICK = os.sysconf("SC_CLK_TCK")
ROLES = ("app", "web", "nginx")
KINDS = ("off", "made", "file", "on")
LOGS_TO = "PLUGINS_COST_LOGS_TO"
"""In the application's environment: the file that its own handler writes, or '' for one that does nothing."""
log = logging.getLogger("shop.cart")
if (own := os.environ.get(LOGS_TO)) is not None:
    handler = logging.FileHandler(own) if own else logging.NullHandler()
    logging.basicConfig(
        level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"
    )


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    log.info("%s was asked for and is answered", environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "12")])
    return [b"Hello world\n"]


def cpu_of(process_id: int) -> float:
    """Seconds, with those of the processes it started that still run (nginx's worker)."""
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK + sum(cpu_of(int(child)) for child in children)


def wrk(port: int, seconds: float, connections: int) -> tuple[int, float]:
    """Requests that were answered, and a second."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-H", "Host: shop.example"]
    said = subprocess.run([*command, f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True).stdout
    count, rate = re.search(r"(\d+) requests in", said), re.search(r"Requests/sec: +([\d.]+)", said)
    if count is None or rate is None or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk: {said}")
    return int(count[1]), float(rate[1])


def turn(kind: str, seconds: float, connections: int, scope: str) -> dict[str, Any]:
    from tests.system.stack import Stack, free_port  # here, for the application's process is without tests

    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "out.log")
        plugins: dict[str, Any] = {}
        if kind == "on":
            listen = f"127.0.0.1:{free_port()}"
            plugins = {"syslog": {"scope": scope, "outputs": [{"file": str(file)}]}, "metrics": {"listen": listen}}
        own = {"made": "", "file": str(file)}.get(kind)
        os.environ.pop(LOGS_TO, None)
        if own is not None:
            os.environ[LOGS_TO] = own
        stack = Stack("plugins_cost:application", app={"path": str(ROOT / "bench")}, plugins=plugins)
        stack._common["log_level"] = "info"  # a test wants to see everything
        with stack:
            wrk(stack.port, 1, connections)
            programs = dict(zip(ROLES, (stack.app, stack.web, stack.nginx), strict=True))
            before = {role: cpu_of(program.pid) for role, program in programs.items()}
            count, rate = wrk(stack.port, seconds, connections)
            spent = {role: (cpu_of(program.pid) - before[role]) / count * 1e6 for role, program in programs.items()}
        lines = file.read_bytes().count(b"\n") if file.exists() else 0
        if kind in ("file", "on") and lines < count:
            raise RuntimeError(f"{count} requests were answered and {lines} lines are in the file")
    return {"kind": kind, "requests": count, "requests_per_second": rate, "cpu_us": spent, "lines": lines}


def spread(values: Iterable[float], form: str) -> str:
    ordered = sorted(values)
    return f"{median(ordered):{form}} ({ordered[0]:{form}} to {ordered[-1]:{form}})"


def report(turns: list[dict[str, Any]]) -> str:
    heads = ["", *KINDS, *(f"on/{kind}" for kind in KINDS[:-1])]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    by_kind = {kind: [one for one in turns if one["kind"] == kind] for kind in KINDS}

    def row(name: str, figure: Callable[[dict[str, Any]], float], form: str) -> None:
        columns = [spread(map(figure, by_kind[kind]), form) for kind in KINDS]
        for kind in KINDS[:-1]:
            pairs = zip(by_kind["on"], by_kind[kind], strict=True)
            columns.append(spread((figure(on) / figure(other) for on, other in pairs), ".3f"))
        lines.append(f"| {name} | {' | '.join(columns)} |")

    row("requests a second", lambda one: float(one["requests_per_second"]), ",.0f")
    for role in ROLES:
        row(f"CPU us a request, {role}", lambda one, role=role: float(one["cpu_us"][role]), ".1f")  # type: ignore[misc]
    return "\n".join(lines)


def main() -> int:
    from bench.quiet import Turns  # here, as above

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--scope", choices=["request", "stream", "association"], default="request", help="syslog's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="measure under a lock on it (flock), in turns")
    options = parser.parse_args()
    turns = []
    turns_with_others = Turns(options.lock)
    for number in range(options.rounds):
        turns_with_others.take()
        # another one first in every round: what the machine does meanwhile falls on all alike
        first = number % len(KINDS)
        of_round = [
            turn(kind, options.seconds, options.connections, options.scope) for kind in (*KINDS[first:], *KINDS[:first])
        ]
        turns += of_round
        told = ", ".join(f"{one['kind']} {one['requests_per_second']:,.0f}" for one in of_round)
        print(f"round {number + 1}: {told}", file=sys.stderr)
    turns_with_others.give()
    print(report(turns))
    if options.json is not None:
        options.json.write_text(json.dumps({"scope": options.scope, "turns": turns}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
