"""Measures as many cells at once as there are lanes, all in step; here, or as a program in the lab guest.

Both sides of a cell are forked from this process, which has everything imported: what a start costs falls between
measurements, not into them.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import platform
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import fcgi_core.sctp.kernel.carrier
import fcgi_core.sctp.userspace.carrier  # noqa: F401  imported here, before the forks

from .app_service import serve_with_service
from .application import serve
from .children import settle
from .http import ask_over_http, serve_http
from .loads import LOADS, summary
from .measurement import Cell, describe
from .network import NetemLane, enter
from .source import again_from_source
from .web import ask
from .web_service import ask_service

__all__ = ["DISTURBED", "measure"]

HTTP = ("http/1.1", "http/2")
DISTURBED = 0.020
"""Seconds by which the 99th of 100 alerts was sent late: beyond it the machine had something else to do."""


def _fork(work: Callable[[int], None]) -> tuple[int, int]:
    """Run `work(descriptor to write to)` in a process; its id and what to read from."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.close(reading)
            settle()
            work(writing)
            status = 0
        except BaseException as error:  # the one place where it can be told
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    os.close(writing)
    return process, reading


def _application(cell: Cell, space: str) -> Callable[[int], None]:
    def work(writing: int) -> None:
        enter(space)
        serving: Any = serve_with_service if cell.alternative.services else serve
        measured = cell
        if cell.alternative.carrier in HTTP:
            serving = serve_http
        elif cell.alternative.queue:
            serving, measured = again_from_source("bench.streams.application", "serve", cell)
        _write(writing, asyncio.run(serving(measured, lambda: os.write(writing, b"r"))))

    return work


def _web(cell: Cell, space: str) -> Callable[[int], None]:
    def work(writing: int) -> None:
        enter(space)
        if cell.alternative.carrier in HTTP:
            _write(writing, asyncio.run(ask_over_http(cell, random.Random(cell.seed * 1000 + cell.run))))
            return
        asking: Any = ask_service if cell.alternative.services else ask
        loads, measured = LOADS, cell
        if cell.alternative.queue:
            loads, measured = again_from_source("bench.streams.loads", "LOADS", cell)
            asking = import_module("bench.streams.web").ask
        _write(writing, asyncio.run(asking(measured, loads[cell.scenario])))

    return work


def _write(descriptor: int, result: dict[str, Any]) -> None:
    with os.fdopen(descriptor, "wb") as file:
        pickle.dump(result, file)


def _read(process: int, reading: int) -> dict[str, Any] | None:
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    os.waitpid(process, 0)
    return pickle.loads(data) if data else None


def batch(cells: list[Cell], lanes: list[Any]) -> list[dict[str, Any]]:
    """Measure cells at once, each in its lane."""
    for number, cell in enumerate(cells):
        cell.lane = number
        lanes[number].set_route(cell.route, 100 * cell.seed + cell.run)
    applications = [_fork(_application(cell, lanes[cell.lane].spaces[0])) for cell in cells]
    for _, reading in applications:
        os.read(reading, 1)
    webs = [_fork(_web(cell, lanes[cell.lane].spaces[1])) for cell in cells]
    seen = [_read(*pair) for pair in webs]
    for cell, (process, _) in zip(cells, applications, strict=True):
        if cell.alternative.carrier not in HTTP:
            os.kill(process, signal.SIGTERM)  # what would tell it so may have been lost on the path
    kept = []
    for cell, pair, web in zip(cells, applications, seen, strict=True):
        application = _read(*pair)
        if application is None or web is None:
            print(f"{cell.scenario}: {cell.alternative.name}: no result", file=sys.stderr)
            continue
        kept.append({**describe(cell), "result": summary(cell, application, web)})
    return kept


def measure(
    cells: list[Cell],
    lanes: list[Any],
    say: Callable[[str], None],
    before: Callable[[], None] = lambda: None,
    tries: int = 3,
) -> list[dict[str, Any]]:
    """Measure all, in an order by their seed; those that the machine disturbed again, `tries` times at most in all.

    `before` is called before each batch.
    """
    waiting = list(cells)
    random.Random(cells[0].seed).shuffle(waiting)
    kept: list[dict[str, Any]] = []
    done = 0
    while waiting and tries:
        tries -= 1
        again: list[Cell] = []
        for start in range(0, len(waiting), len(lanes)):
            some = waiting[start : start + len(lanes)]
            before()
            for cell in batch(some, lanes):
                if tries and cell["result"]["late"] > DISTURBED:
                    again += [one for one in some if describe(one) == {name: cell[name] for name in describe(one)}]
                else:
                    kept.append(cell)
            done += len(some)
            say(f"{done} measured, {len(kept)} of {len(cells)} kept")
        waiting = again
    return kept


def main() -> None:
    """In the guest: measure the cells that the file named holds; the results go to the file beside it."""
    asked, count = Path(sys.argv[1]), int(sys.argv[2])
    cells: list[Cell] = pickle.loads(asked.read_bytes())
    subprocess.run(("modprobe", "-a", "tcp_bbr"), check=False)
    lanes = [NetemLane(number) for number in range(min(count, len(cells)))]
    kept = measure(cells, lanes, lambda text: print(text, flush=True), tries=2)
    asked.with_suffix(".json").write_text(json.dumps({"kernel": platform.release(), "cells": kept}))


if __name__ == "__main__":
    main()
