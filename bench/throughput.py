#!/usr/bin/env python3
"""Throughput and cost of Python FastCGI servers behind Debian's nginx, ours among them.

    .venv/bin/python bench/throughput.py [--seconds 5] [--rounds 5] [--cases hello,10k,1m,upload1m]
                                         [--servers NAME,...] [--json FILE] [--connections 32] [--free-cores]
                                         [--against SERVER]

It installs what it needs (``bench/.venv``; Debian's packages where it is root), then takes turns: in each
round, for each case, each server once, from its start to its end (A B C C B A A B C ...), so that whatever else the
machine does falls on all alike. Requests a second say what a user gets and waver with the noise; CPU
microseconds a request, from the processes' own accounting, waver less. The column "others' CPU" says how much
noise there was. How each server is run, and why, stands in ``bench/servers.py``.

The exit code is 0 if something was measured, 1 if not, 130 after Ctrl-C (what was measured is still reported).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `bench` is not an installed package

from bench import report
from bench.install import ROOT, TOOLS, install_debian, install_pypi, say
from bench.measure import CASES, Turn, TurnFailed, take_turn
from bench.processes import interruptible
from bench.servers import SERVERS, Server

SETTINGS = ("seconds", "rounds", "connections", "cases", "free_cores", "against")
Key = tuple[str, str]
"""Case and server."""


def names(kind: str, known: Sequence[str]) -> Any:
    """The type of an option that takes a comma-separated list of known names."""

    def parse(text: str) -> list[str]:
        given = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            raise argparse.ArgumentTypeError(f"unknown {kind} {', '.join(unknown)!r}: choose from {', '.join(known)}")
        return given

    return parse


def arguments(command_line: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description="Throughput and cost of Python FastCGI servers behind nginx.",
        epilog="servers: "
        + ", ".join(server.name + ("" if server.by_default else " (when named)") for server in SERVERS),
    )
    parser.add_argument("--seconds", type=int, default=5, help="of measured load a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=32, help="that wrk keeps busy")
    parser.add_argument("--cases", type=names("case", list(CASES)), default=list(CASES))
    parser.add_argument("--servers", type=names("server", [server.name for server in SERVERS]))
    parser.add_argument("--against", metavar="SERVER", help="one of the servers: compare the others with it by rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--free-cores", action="store_true", help="let also threaded servers roam over all cores")
    options = parser.parse_args(command_line)
    if options.seconds < 1 or options.rounds < 1 or not 1 <= options.connections <= 1000:
        parser.error("--seconds and --rounds begin at 1, --connections goes from 1 to 1000")
    if options.against and options.against not in (options.servers or [s.name for s in SERVERS if s.by_default]):
        parser.error(f"--against {options.against}: it is not among the servers that are measured")
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser.error(f"--json {options.json}: there is no such folder")
    return options


def unavailable(server: Server, debian: dict[str, str], pypi: dict[str, str]) -> str:
    """Why this server cannot run here; empty if it can."""
    lacking = [f"Debian's {name}" for name in server.debian if name not in debian]
    lacking += [f"{name} from PyPI" for name in server.pypi if name not in pypi]
    programs = (program.command[0].format(root=ROOT, bin="", python="") for program in server.programs)
    lacking += [Path(path).name for path in programs if path.startswith(str(ROOT)) and not Path(path).exists()]
    return "missing: " + ", ".join(dict.fromkeys(lacking)) if lacking else ""


def measure(
    servers: Sequence[Server],
    options: argparse.Namespace,
    turns: dict[Key, dict[int, Turn]],
    failures: dict[Key, list[str]],
    before: Callable[[], None] = lambda: None,
) -> None:
    """Takes all the turns, and puts each in ``turns`` by its round or its reason in ``failures`` as soon as it is over.
    Every other round goes through the servers from the last to the first."""
    for number in range(1, options.rounds + 1):
        for case_name in options.cases:
            for server in servers if number % 2 else reversed(servers):
                key = (case_name, server.name)
                label = f"round {number}/{options.rounds} {case_name:9} {server.name:21}"
                before()
                try:
                    turn = take_turn(
                        server,
                        CASES[case_name],
                        options.seconds,
                        options.connections,
                        free_cores=options.free_cores,
                    )
                except TurnFailed as error:
                    failures.setdefault(key, []).append(str(error))
                    say(f"{label} FAILED: {error}")
                    continue
                turns.setdefault(key, {})[number] = turn
                cost = sum(value for role, value in turn.cpu_us.items() if role not in report.BESIDE)
                say(f"{label} {turn.requests_per_second:9,.0f}/s {cost:9,.1f} us CPU")


def collect(options: argparse.Namespace, before: Callable[[], None] = lambda: None) -> dict[str, Any] | None:
    """Measures, prints the table, and returns all that was measured; None if nothing can be."""
    chosen = [s for s in SERVERS if (s.name in options.servers if options.servers else s.by_default)]
    debian = install_debian([*TOOLS, *(package for server in chosen for package in server.debian)])
    if lacking := [tool for tool in TOOLS if tool not in debian]:
        say(f"cannot measure without {' and '.join(lacking)}")
        return None
    pypi = install_pypi(name for server in chosen for name in server.pypi)
    missing = {server.name: reason for server in chosen if (reason := unavailable(server, debian, pypi))}
    runnable = [server for server in chosen if server.name not in missing]
    facts = report.machine(debian, pypi)
    started = report.now()

    turns: dict[Key, dict[int, Turn]] = {}
    failures: dict[Key, list[str]] = {}
    interrupted = False
    try:
        with interruptible():
            measure(runnable, options, turns, failures, before)
    except KeyboardInterrupt:
        interrupted = True

    keys = [(case, server.name) for case in options.cases for server in runnable]
    results: dict[str, dict[str, Any]] = {}
    for case, name in keys:
        if turns.get((case, name)) or failures.get((case, name)):
            found = report.summary(list(turns.get((case, name), {}).values()), failures.get((case, name), []))
            results.setdefault(case, {})[name] = found
    settings = {name: getattr(options, name) for name in SETTINGS}
    return {
        "date": started,
        "finished": report.now(),
        "interrupted": interrupted,
        "settings": settings,
        "machine": facts,
        "application_alone_us": {case: report.application_alone(CASES[case]) for case in options.cases},
        "servers": {server.name: report.described(server) for server in chosen},
        "not_run": missing,
        "results": results,
        "rounds": {
            f"{case}/{name}": [turn.as_json() for turn in done.values()] for (case, name), done in turns.items()
        },
        "pairs": {
            case: {
                server.name: report.pairs(turns.get((case, server.name), {}), turns.get((case, options.against), {}))
                for server in runnable
                if server.name != options.against
            }
            for case in options.cases
            if options.against
        },
    }


def text(everything: dict[str, Any]) -> str:
    """The heading and the table."""
    heading = report.heading(everything["machine"], everything["settings"])
    table = report.table(everything["results"], everything["not_run"])
    return heading + table + report.pairs_table(everything["pairs"], everything["settings"]["against"])


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the benchmark, prints the table, writes the JSON file; returns the exit code."""
    options = arguments(command_line)
    everything = collect(options)
    if everything is None:
        return 1
    print(text(everything), end="")
    if options.json is not None:
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    if everything["interrupted"]:
        return 130
    return 0 if everything["rounds"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before the first turn, while installing
        sys.exit(130)
