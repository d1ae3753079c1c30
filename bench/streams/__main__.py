"""The choices of docs/streams.md, measured against the alternatives; called by script/bench.

Userspace SCTP and TCP are measured in namespaces of this machine, over a path that `emulator.py` makes; kernel SCTP in
the lab guest, over netem, with one TCP alternative as a reference, for the guest is slow. Results go to
docs/measurements (JSON and text) and docs/figures (SVG).
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.install import PYTHON, ROOT, install_pypi, say

from . import alternatives
from .children import settle
from .emulator import EmulatedLane
from .measurement import Cell
from .runner import measure
from .scenarios import SCENARIOS
from .tables import table

MEASUREMENTS = ROOT / "docs" / "measurements"


def machine() -> dict[str, Any]:
    """What a reader must know of where this ran; nothing that names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "uvloop": False,
        "libusrsctp": _debian("libusrsctp2"),
        "fcgi-sctp": version("fcgi-sctp"),
        "load": [round(part, 1) for part in os.getloadavg()],
    }


def _debian(package: str) -> str:
    try:
        query = ("dpkg-query", "-W", "-f", "${Version}", package)
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


def measure_here(cells: list[Cell], count: int) -> list[dict[str, Any]]:
    lanes: list[EmulatedLane] = []
    try:
        lanes = [EmulatedLane(number) for number in range(min(count, len(cells)))]
        return measure(cells, lanes, say)
    finally:
        for lane in lanes:
            lane.close()


def measure_in_guest(cells: list[Cell], count: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        asked = Path(directory, "cells.pickle")
        asked.write_bytes(pickle.dumps(cells))
        command = ("script/lab", "-o", directory, "run", sys.executable, "-m", "bench.streams.runner")
        limit = 120 + sum(cell.warm_up + cell.seconds + 15 for cell in cells) * 3 / count
        done = subprocess.run(
            (*command, str(asked), str(count)),
            cwd=ROOT,
            preexec_fn=settle,
            env={**os.environ, "LAB_LIMIT": str(int(limit))},
            stdout=sys.stderr,
            check=False,
        )
        kept = asked.with_suffix(".json")
        if done.returncode or not kept.exists():
            say(f"the guest gave no result (status {done.returncode}); kernel SCTP is left out")
            return []
        found = json.loads(kept.read_text())
        return [{**cell, "guest": found["kernel"]} for cell in found["cells"]]


def run(scenario: str, full: bool, lanes: int, guest: bool) -> None:
    say(f"-- {scenario}")
    cells = SCENARIOS[scenario](full)
    here = [cell for cell in cells if cell.alternative.carrier != "kernel"]
    kept = measure_here(here, lanes)
    there = [cell for cell in cells if cell.alternative.carrier == "kernel"]
    if there and guest:
        routes = {(cell.route, cell.run): cell for cell in there}
        there += [replace(cell, alternative=alternatives.REFERENCES[scenario][0]) for cell in routes.values()]
        kept += measure_in_guest(there, 1)
    date = time.strftime("%Y-%m-%d")
    result = {"scenario": scenario, "date": date, "full": full, "machine": machine(), "cells": kept}
    MEASUREMENTS.mkdir(exist_ok=True)
    (MEASUREMENTS / f"streams-{scenario}.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")
    text = table(result)
    (MEASUREMENTS / f"streams-{scenario}.txt").write_text(text)
    print(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--scenario", choices=list(SCENARIOS), action="append", help="only this one; may be repeated")
    parser.add_argument("--full", action="store_true", help="more runs, longer, more losses, all of kernel SCTP: hours")
    parser.add_argument("--lanes", type=int, default=4, help="measurements at once on this machine")
    parser.add_argument("--no-guest", action="store_true", help="leave out kernel SCTP")
    parser.add_argument("--draw", action="store_true", help="only draw again what was measured")
    options = parser.parse_args()
    if not options.draw:
        if os.geteuid() != 0:
            say("bench: network namespaces and TUN devices need root")
            return 1
        for scenario in options.scenario or SCENARIOS:
            run(scenario, options.full, options.lanes, not options.no_guest)
    install_pypi(["matplotlib"])
    return subprocess.run((PYTHON, "-m", "bench.streams.plots"), cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
