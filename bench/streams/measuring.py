"""A scenario, measured: userspace SCTP and TCP in namespaces of this machine, over a path that `emulator.py` makes;
kernel SCTP in the lab guest, over netem, with a TCP alternative or two as a reference, for the guest is slow.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.install import ROOT, say
from bench.quiet import Turns

from .children import settle
from .emulator import EmulatedLane
from .measurement import Cell
from .runner import measure
from .scenarios import Extent, cells

__all__ = ["measure_scenario"]

GUEST_LANES = 2
"""Measurements at once in the guest, which has one processor."""
GUEST_CELLS = 10
"""For each start of the guest."""


def measure_here(some: list[Cell], count: int, turns: Turns) -> list[dict[str, Any]]:
    lanes: list[EmulatedLane] = []
    try:
        lanes = [EmulatedLane(number) for number in range(min(count, len(some)))]
        return measure(some, lanes, say, turns.take)
    finally:
        for lane in lanes:
            lane.close()


def measure_in_guest(some: list[Cell], count: int = GUEST_LANES) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        asked = Path(directory, "cells.pickle")
        asked.write_bytes(pickle.dumps(some))
        command = ("script/lab", "-o", directory, "run", sys.executable, "-m", "bench.streams.runner")
        limit = 120 + sum(cell.warm_up + cell.seconds + 15 for cell in some) * 3 / count
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
            say(f"the guest gave no result (status {done.returncode}); {len(some)} cells are left out")
            return []
        found = json.loads(kept.read_text())
        return [{**cell, "guest": found["kernel"]} for cell in found["cells"]]


def measure_scenario(scenario: str, extent: Extent, lanes: int, guest: bool, turns: Turns) -> list[dict[str, Any]]:
    """All cells of the scenario. In each place in an order of their own, shuffled by the seed: runs alternate."""
    asked = cells(scenario, extent)
    here = [cell for cell in asked if not cell.alternative.in_guest]
    kept = measure_here(here, lanes, turns) if here else []
    there = [cell for cell in asked if cell.alternative.in_guest] if guest else []
    random.Random(1).shuffle(there)
    for start in range(0, len(there), GUEST_CELLS):
        turns.take()
        kept += measure_in_guest(there[start : start + GUEST_CELLS])
        say(f"{start + len(there[start : start + GUEST_CELLS])} of {len(there)} measured in the guest")
    return kept
