#!/usr/bin/env python3
"""Lines of a log on their way to another process: how many a second, and what is lost when the receiver is in trouble.

    .venv/bin/python bench/syslog.py [--rates 20000,50000,100000] [--seconds 4] [--length 200] [--ways NAME,...]
                                     [--rounds 1] [--json FILE] [--no-trouble] [--one-core] [--lock FILE]

Every way gets the same numbered lines, at the same rates, in turns. The sender is kept on one core and the receiver on
another, or with --one-core both on the same one; what the receiver wrote to its file is counted by number. The best
rate of a way is the highest at which every line arrived, and both sender and receiver kept up. Trouble: at 20,000 lines
a second the receiver is stopped for a second (SIGSTOP), or ended and started again (SIGTERM). And what is left of one
long line, and of what it says about itself, where programs write it to FastCGI's STDERR: see syslog_long.py.

Lines come from Python's logging, which itself takes some 5 us a line of the sender's: what it takes with a handler that
does nothing is measured in the same process, and told.

Ways: SysLogHandler over UDP and TCP to Debian's rsyslog, and over TCP to one that hands on with RELP to another; ours
at association scope, `plain` into a file of the web side's and on to rsyslog over TCP; `acknowledged` into a file, kept
in memory or on a disk; one request's STDERR, into a file; and, when named, `ours-slow`, whose output takes a tenth:
what it says it lost must be what is missing. Needs rsyslog, rsyslog-relp, nginx, php-fpm, libfcgi, gcc and uwsgi
(script/setup test, and `apt-get install rsyslog-relp`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # neither `bench` nor `tests` is an installed package


from bench.quiet import Turns  # noqa: E402
from bench.syslog_long import LONG_LINE, Remains, long_lines  # noqa: E402
from bench.syslog_ways import WAIT, WAYS, OursStderr, Way, wait_for  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")
SETTLE = 3.0
"""Seconds without a new line after which no more are expected."""
IN_TIME = 0.9
"""Part of the rate at which lines must arrive: what only fills a queue somewhere is not carried."""
TROUBLE_RATE = 20_000
TROUBLE_AT = 1.5


def cpu_of(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_of(process_id: int) -> int:
    """Bytes resident."""
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def arrived(out: Path) -> tuple[int, int]:
    """(different lines, lines in all)"""
    if not out.exists():
        return 0, 0
    numbers = re.findall(rb"number=(\d+);", out.read_bytes())
    return len(set(numbers)), len(numbers)


def measure(
    kind: type[Way], rate: int, seconds: float, length: int, trouble: str = "", one_core: bool = False
) -> dict[str, Any]:
    """One turn."""
    count = int(rate * seconds)
    with tempfile.TemporaryDirectory(prefix="fs-", dir="/tmp", ignore_cleanup_errors=True) as name:
        settings = {"LOAD_COUNT": str(count), "LOAD_RATE": str(rate), "LOAD_LENGTH": str(length)}
        way = kind(Path(name), settings, one_core)
        if kind is OursStderr:
            way.environment["LOAD_STDERR"] = "1"
        most = {"sender": 0, "receiver": 0}

        def done() -> bool:
            most["sender"] = max(most["sender"], sum(map(memory_of, way.senders())))
            most["receiver"] = max(most["receiver"], memory_of(way.receiver().pid))
            return way.done.exists()

        try:
            way.start()
            before = cpu_of(way.receiver().pid)
            sent_before = sum(map(cpu_of, way.senders()))
            began = time.monotonic()
            way.begin()
            if trouble:
                time.sleep(TROUBLE_AT)
            if trouble == "stall":
                stalled = way.receiver()
                stalled.send_signal(signal.SIGSTOP)
                time.sleep(1.0)
                stalled.send_signal(signal.SIGCONT)
            elif trouble == "restart":
                way.restart()
            wait_for(done, "the sender is done", seconds * 10 + WAIT)
            size, changed = -1, time.monotonic()
            while time.monotonic() < changed + SETTLE:
                done()
                now = way.out.stat().st_size if way.out.exists() else 0
                if now != size:
                    size, changed = now, time.monotonic()
                time.sleep(0.02)
            told = json.loads(way.done.read_text())
            sender = sum(map(cpu_of, way.senders())) - sent_before - told["alone_cpu"]
            receiver = cpu_of(way.receiver().pid) - (0 if trouble == "restart" else before)
        finally:
            way.stop()
        told_lost = way.told_lost()
        different, in_all = arrived(way.out)
    return {
        "way": kind.name,
        "rate": rate,
        "sent": count,
        "arrived": different,
        "twice": in_all - different,
        "loss": 1 - different / count,
        "told_lost": told_lost,
        "sender_seconds": told["seconds"],
        "kept_up": told["seconds"] < seconds * 1.1,
        "lines_per_second": different / (changed - began),
        "sender_cpu": sender / count * 1e6,
        "logging_cpu": told["logging"],
        "receiver_cpu": receiver / count * 1e6,
        "one_core": one_core,
        "most_memory": most,
    }


def percent(loss: float) -> str:
    return "0" if loss == 0 else f"{loss:.2%}"


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def report(results: list[dict[str, Any]], left: list[Remains]) -> str:
    rows = [["", "lines/s, none lost", "CPU us/line: sender", "of it logging", "receiver", "stalled 1 s", "restarted"]]
    for (name, kind), one_core in product(WAYS.items(), (False, True)):
        own = [one for one in results if one["way"] == name and one["one_core"] is one_core]
        if not own:
            continue
        even = [one for one in own if not one["trouble"]]
        rates = sorted({one["rate"] for one in even})
        # a rate counts if every round at it lost nothing, and both ends kept up
        good = [rate for rate in rates if all(fine(one) for one in even if one["rate"] == rate)]
        shown = [one for one in even if one["rate"] == (good or rates or [0])[-1]]
        text = f"{kind.text}; both on one core" if one_core else kind.text
        row = [text, f"{good[-1]:,}" if good else f"none of {', '.join(map(str, rates))}"]
        for figure in ("sender_cpu", "logging_cpu", "receiver_cpu"):
            row.append(f"{median(one[figure] for one in shown):.1f}" if shown else "")
        for trouble in ("stall", "restart"):
            losses = [one["loss"] for one in own if one["trouble"] == trouble]
            row.append(percent(max(losses)) if losses else "")
        rows.append(row)
    text = table(rows)
    if left:
        text += f"\n\nOf a line of {LONG_LINE:,} characters on STDERR that begins with WARNING:\n\n"
        text += table([["", "pieces", "longest", "severity", "virtual host, request"], *(one.row() for one in left)])
    return text


def mega(result: dict[str, Any], side: str) -> str:
    return f"{result['most_memory'][side] / 1e6:.0f}"


def fine(result: dict[str, Any]) -> bool:
    in_time = result["lines_per_second"] >= IN_TIME * result["rate"]
    return result["loss"] == 0 and bool(result["kept_up"]) and bool(in_time)


def write(path: Path, results: list[dict[str, Any]], left: list[Remains]) -> None:
    path.write_text(json.dumps({"results": results, "left": [asdict(one) for one in left]}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rates", default="20000,50000,100000", help="lines a second, with commas")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--length", type=int, default=200, help="of a line's text, bytes")
    parser.add_argument(
        "--ways", default=",".join(name for name in WAYS if name != "ours-slow"), help=f"of {', '.join(WAYS)}"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-trouble", action="store_true", help="rates alone")
    parser.add_argument("--one-core", action="store_true", help="sender and receiver on the same core")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="measure under a lock on it (flock), in turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--add", action="store_true", help="to what FILE has: a long run may be taken in parts")
    parser.add_argument("--no-long", action="store_true", help="without the long line")
    options = parser.parse_args()
    ways = [WAYS[name] for name in options.ways.split(",")]
    turns = [(rate, "") for rate in map(int, options.rates.split(","))]
    if not options.no_trouble:
        turns += [(TROUBLE_RATE, "stall"), (TROUBLE_RATE, "restart")]
    results: list[dict[str, Any]] = []
    left: list[Remains] = []
    if options.add and options.json is not None and options.json.exists():
        earlier = json.loads(options.json.read_text())
        results, left = earlier["results"], [Remains(**one) for one in earlier["left"]]
    turns_with_others = Turns(options.lock)
    for _ in range(options.rounds):
        for rate, trouble in turns:
            for way in ways:
                try:
                    turns_with_others.take()
                    result = measure(way, rate, options.seconds, options.length, trouble, options.one_core)
                    result["trouble"] = trouble
                except (OSError, AssertionError) as error:
                    print(f"{way.name} {rate} {trouble}: not measured: {error}", file=sys.stderr)
                    continue
                results.append(result)
                if options.json is not None:  # what was measured stays, whatever becomes of the rest
                    write(options.json, results, left)
                print(
                    f"{way.name:12} {rate:7} {trouble:8} lost {percent(result['loss']):>7}, twice {result['twice']:5};"
                    f" told lost {result['told_lost']};"
                    f" at most {mega(result, 'sender')} + {mega(result, 'receiver')} MB;"
                    f" CPU {result['sender_cpu']:5.1f} + {result['receiver_cpu']:5.1f} µs a line;"
                    f" sender took {result['sender_seconds']:.1f} s",
                    file=sys.stderr,
                )
    if not (options.no_trouble or options.no_long):
        turns_with_others.take()
        left = long_lines()
    turns_with_others.give()
    print(report(results, left))
    if options.json is not None:
        write(options.json, results, left)
    return 0 if results else 1


if __name__ == "__main__":
    sys.exit(main())
