"""All that docs/performance.md tells, measured again by one command: script/bench.

Results go to docs/measurements (JSON and text) and docs/figures (SVG). The tables in docs/performance.md are made from
them. Ctrl-C keeps the parts that were ended.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import associations, concurrency, document, report, throughput
from bench.install import PYTHON, ROOT, TOOLS, debian_versions, install_debian, install_pypi, say
from bench.quiet import Turns
from bench.servers import SERVERS
from bench.streams.measuring import measure_scenario
from bench.streams.scenarios import SCENARIOS, Extent, UnknownAlternative
from bench.streams.tables import table

MEASUREMENTS = ROOT / "docs" / "measurements"
PACKAGES = (*TOOLS, "haproxy", "uwsgi-core", "uwsgi-plugin-python3", "php8.2-fpm")
PEERS = ("matplotlib", "hypercorn", *dict.fromkeys(name for server in SERVERS for name in server.pypi))


def machine() -> dict[str, Any]:
    """What a reader must know of where this ran; nothing that names it."""
    return report.machine(debian_versions((*PACKAGES, "libusrsctp2", "user-mode-linux")), install_pypi(PEERS))


def streams(scenario: str) -> Callable[[argparse.Namespace, Turns], tuple[dict[str, Any], str]]:
    def run(options: argparse.Namespace, turns: Turns) -> tuple[dict[str, Any], str]:
        facts, started = machine(), report.now()
        names = tuple(options.alternatives.split(";")) if options.alternatives else ()
        extent = Extent(options.full, options.runs, options.guest_runs, options.losses, names)
        cells = measure_scenario(scenario, extent, options.lanes, not options.no_guest, turns)
        settings = {"full": options.full, "lanes": options.lanes}
        result = {"scenario": scenario, "date": started, "settings": settings, "machine": facts, "cells": cells}
        return result, table(result)

    return run


def measure_throughput(options: argparse.Namespace, turns: Turns) -> tuple[dict[str, Any], str]:
    seconds, rounds = (5, 5) if options.full else (1, options.runs or 3)
    words = ["--seconds", str(seconds), "--rounds", str(rounds)]
    result = throughput.collect(throughput.arguments(words), turns.take)
    if result is None:
        raise SystemExit(1)
    return result, throughput.text(result)


def measure_concurrency(options: argparse.Namespace, turns: Turns) -> tuple[dict[str, Any], str]:
    facts, started = machine(), report.now()
    servers = [server for server in SERVERS if server.name in concurrency.SERVERS]
    settings = {"rounds": 5 if options.full else options.runs or 2, "seconds": 5 if options.full else 1}
    rows = concurrency.measure(servers, settings["rounds"], settings["seconds"], turns.take)
    result = {"date": started, "settings": settings, "machine": facts, "rows": rows}
    return result, document.text("concurrency", result)


def measure_associations(options: argparse.Namespace, turns: Turns) -> tuple[dict[str, Any], str]:
    facts, started = machine(), report.now()
    rounds = 5 if options.full else options.runs or 2
    rows = []
    for _ in range(rounds):
        for count in associations.COUNTS:
            for kind in associations.KINDS:
                turns.take()
                if (found := associations.turn(kind, count)) is not None:
                    rows.append({"kind": kind, "count": count, **found})
                    say(f"{count} associations, {kind}")
    if not options.no_guest:
        rows += associations_in_guest(rounds, turns)
    result = {"date": started, "settings": {"rounds": rounds}, "machine": facts, "rows": rows}
    return result, document.text("associations", result)


def associations_in_guest(rounds: int, turns: Turns) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for _ in range(rounds):
        turns.take()
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder, "turns.json")
            command = (
                "script/lab",
                "-o",
                folder,
                "run",
                sys.executable,
                "-m",
                "bench.associations",
                "--json",
                str(kept),
            )
            counts = ",".join(map(str, associations.COUNTS))
            words = ("--kinds", "kernel,tcp", "--rounds", "1", "--counts", counts)
            done = subprocess.run((*command, *words), cwd=ROOT, stdout=sys.stderr, check=False)
            if done.returncode or not kept.exists():
                say(f"the guest gave no result (status {done.returncode}); kernel SCTP is left out")
                continue
            rows += [{**row, "guest": True} for row in json.loads(kept.read_text())]
    return rows


PARTS: dict[str, Callable[[argparse.Namespace, Turns], tuple[dict[str, Any], str]]] = {
    **{f"streams-{scenario}": streams(scenario) for scenario in SCENARIOS},
    "throughput": measure_throughput,
    "concurrency": measure_concurrency,
    "associations": measure_associations,
}


def losses(text: str) -> tuple[float, ...]:
    """The type of --losses."""
    return tuple(float(word) for word in text.split(","))


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("--part", choices=list(PARTS), action="append", help="only this one; may be repeated")
    parser.add_argument("--full", action="store_true", help="more runs, longer, more losses, all of kernel SCTP: hours")
    parser.add_argument("--runs", type=int, default=0, help="of each, in the place of 2 or 3")
    parser.add_argument("--guest-runs", type=int, default=1, help="of each of streams-*, in the guest")
    parser.add_argument("--losses", type=losses, default=(), metavar="N,…", help="of streams-*, per cent")
    parser.add_argument("--alternatives", metavar="NAME;…", help="only these of streams-*; * stands for anything")
    parser.add_argument(
        "--into",
        type=Path,
        metavar="FOLDER",
        help="for the results in the place of docs/measurements; draw nothing",
    )
    parser.add_argument("--lanes", type=int, default=6, help="paths at once on this machine")
    parser.add_argument("--no-guest", action="store_true", help="leave out kernel SCTP")
    parser.add_argument("--draw", action="store_true", help="only pictures and tables, of what was measured")
    parser.add_argument(
        "--lock", type=Path, metavar="FILE", help="held while measuring (flock), a minute and a half on end"
    )
    options = parser.parse_args()
    if (options.losses or options.alternatives) and options.into is None and not options.draw:
        parser.error("--losses and --alternatives measure a part, not what docs/measurements is for: add --into FOLDER")
    install_pypi(PEERS)
    if not options.draw:
        if os.geteuid() != 0:
            say("bench: network namespaces and TUN devices need root")
            return 1
        install_debian(PACKAGES)
        folder: Path = options.into or MEASUREMENTS
        folder.mkdir(exist_ok=True)
        turns = Turns(options.lock)
        for part in options.part or PARTS:
            began = time.monotonic()
            say(f"-- {part}")
            try:
                result, text = PARTS[part](options, turns)
            except UnknownAlternative as error:
                parser.error(f"{part}: {error}")
            result["took_seconds"] = round(time.monotonic() - began)
            (folder / f"{part}.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")
            (folder / f"{part}.txt").write_text(text)
            print(text, flush=True)
            turns.give()
            if result.get("interrupted"):
                break
        if options.into is not None:
            return 0
    document.write()
    return subprocess.run((PYTHON, "-m", "bench.pictures"), cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
