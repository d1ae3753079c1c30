#!/usr/bin/env python3
"""Lines of a log on their way to another process: how many a second, and what is lost when the receiver is in trouble.

    .venv/bin/python bench/syslog.py [--rates 20000,50000,100000] [--seconds 4] [--length 200] [--ways NAME,...]
                                     [--rounds 1] [--json FILE] [--no-trouble]

Every way gets the same numbered lines from Python's logging, at the same rates, in turns. The sender is kept on one
core and the receiver on another; what the receiver wrote to its file is counted by number. The best rate of a way is
the highest at which every line arrived, while the sender kept up. Trouble: at 20,000 lines a second the receiver is
stopped for a second (SIGSTOP), or ended and started again (SIGTERM). And how much of one long line is left.

Ways: SysLogHandler over UDP and TCP to Debian's rsyslog; ours at association scope, `plain` into a file of the web
side's and on to rsyslog over TCP, and `acknowledged` into a file. Needs rsyslog and nginx (script/setup test).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # neither `bench` nor `tests` is an installed package

import yaml  # noqa: E402

from tests.syslog.rsyslog import Rsyslog  # noqa: E402
from tests.system.stack import CARRIER, COMMAND, Stack, free_address  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")
SETTLE = 3.0
"""Seconds without a new line after which no more are expected."""
WAIT = 40.0
TROUBLE_RATE = 20_000
TROUBLE_AT = 1.5
LONG_LINE = 20_000


def cpu_of(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Way:
    """A sender and a receiver with its file."""

    name: str
    text: str

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.go, self.done = folder / "go", folder / "done"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LOAD_GO": str(self.go),
            "LOAD_DONE": str(self.done),
            **settings,
        }
        self.programs: list[subprocess.Popen[bytes]] = []
        self.cores = sorted(os.sched_getaffinity(0))

    @property
    def out(self) -> Path:
        return self.folder / "out.log"

    def run(self, *command: str, core: int) -> subprocess.Popen[bytes]:
        with (self.folder / "programs.log").open("ab") as log:
            program = subprocess.Popen(
                ["taskset", "-c", str(self.cores[core % len(self.cores)]), *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self.programs.append(program)
        return program

    def start(self) -> None:
        raise NotImplementedError

    sender: subprocess.Popen[bytes]

    def receiver(self) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def restart(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        for program in reversed(self.programs):
            if program.poll() is None:
                program.terminate()
        for program in reversed(self.programs):
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


class Handler(Way):
    """The standard library's handler, and rsyslog."""

    kind: str

    def start(self) -> None:
        self.server = Rsyslog(self.folder)
        self.server.start()
        self._pin()
        self.environment |= {"LOAD_KIND": self.kind, "LOAD_PORT": str(getattr(self.server, self.kind))}
        self.sender = self.run(sys.executable, str(ROOT / "bench" / "syslog_load.py"), core=0)

    def _pin(self) -> None:
        for thread in os.listdir(f"/proc/{self.receiver().pid}/task"):
            os.sched_setaffinity(int(thread), {self.cores[1 % len(self.cores)]})

    def receiver(self) -> subprocess.Popen[bytes]:
        assert self.server.process is not None
        return self.server.process

    def restart(self) -> None:
        self.server.stop()
        self.server.start()
        self._pin()

    def stop(self) -> None:
        super().stop()
        self.server.stop()


class HandlerUdp(Handler):
    name, text, kind = "handler-udp", "SysLogHandler, UDP, rsyslog", "udp"


class HandlerTcp(Handler):
    name, text, kind = "handler-tcp", "SysLogHandler, TCP, rsyslog", "tcp"


class Ours(Way):
    options: ClassVar[dict[str, Any]] = {}
    name, text = "ours", "ours, plain, file"

    def outputs(self) -> list[dict[str, Any]]:
        return [{"file": str(self.out)}]

    def start(self) -> None:
        self.address = free_address()
        syslog = {"scope": "association", **self.options, "outputs": self.outputs()}
        if syslog.get("delivery"):
            syslog["spool"] = str(self.folder / "spool")
            syslog["spool_bytes"] = 64 << 20
        common = {"sctp": CARRIER, "plugins": {"syslog": syslog}}
        web = {"listen": f"unix:{self.folder}/web.sock", "connect": [self.address]}
        app = {"application": "syslog_load:application", "path": str(ROOT / "bench"), "listen": self.address}
        (self.folder / "app.yaml").write_text(yaml.safe_dump({"app": app, **common}))
        (self.folder / "web.yaml").write_text(yaml.safe_dump({"web": web, **common}))
        self.sender = self.run(COMMAND, "app", "--config", "app.yaml", core=0)
        self.start_web()

    def start_web(self) -> None:
        before = self.log().count("is up")
        self.web = self.run(COMMAND, "web", "--config", "web.yaml", core=1)
        wait_for(lambda: self.log().count("is up") > before, "the association is up")

    def log(self) -> str:
        return (self.folder / "programs.log").read_text(errors="replace")

    def receiver(self) -> subprocess.Popen[bytes]:
        return self.web

    def restart(self) -> None:
        self.web.terminate()
        self.web.wait(20)
        self.start_web()


class OursTcp(Ours):
    name, text = "ours-tcp", "ours, plain, on to rsyslog over TCP"

    def outputs(self) -> list[dict[str, Any]]:
        return [{"tcp": f"127.0.0.1:{self.server.tcp}"}]

    def start(self) -> None:
        self.server = Rsyslog(self.folder)
        self.server.start()
        super().start()

    def receiver(self) -> subprocess.Popen[bytes]:
        assert self.server.process is not None
        return self.server.process

    def restart(self) -> None:
        self.server.stop()
        self.server.start()

    def stop(self) -> None:
        super().stop()
        self.server.stop()


class OursSure(Ours):
    name, text = "ours-sure", "ours, acknowledged, disk spool, file"
    options: ClassVar[dict[str, Any]] = {"delivery": "acknowledged"}


WAYS: dict[str, type[Way]] = {way.name: way for way in (HandlerUdp, HandlerTcp, Ours, OursTcp, OursSure)}


def wait_for(ready: Callable[[], bool], what: str, patience: float = WAIT) -> None:
    deadline = time.monotonic() + patience
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience:g} s")
        time.sleep(0.02)


def arrived(out: Path) -> tuple[int, int]:
    """(different lines, lines in all)"""
    if not out.exists():
        return 0, 0
    numbers = re.findall(rb"number=(\d+);", out.read_bytes())
    return len(set(numbers)), len(numbers)


def measure(kind: type[Way], rate: int, seconds: float, length: int, trouble: str = "") -> dict[str, Any]:
    """One turn."""
    count = int(rate * seconds)
    with tempfile.TemporaryDirectory(prefix="fs-", dir="/tmp", ignore_cleanup_errors=True) as name:
        settings = {"LOAD_COUNT": str(count), "LOAD_RATE": str(rate), "LOAD_LENGTH": str(length)}
        way = kind(Path(name), settings)
        try:
            way.start()
            before = cpu_of(way.receiver().pid)
            began = time.monotonic()
            way.go.touch()
            if trouble:
                time.sleep(TROUBLE_AT)
            if trouble == "stall":
                stalled = way.receiver()
                stalled.send_signal(signal.SIGSTOP)
                time.sleep(1.0)
                stalled.send_signal(signal.SIGCONT)
            elif trouble == "restart":
                way.restart()
            wait_for(way.done.exists, "the sender is done", seconds * 10 + WAIT)
            size, changed = -1, time.monotonic()
            while time.monotonic() < changed + SETTLE:
                now = way.out.stat().st_size if way.out.exists() else 0
                if now != size:
                    size, changed = now, time.monotonic()
                time.sleep(0.02)
            told = json.loads(way.done.read_text())
            receiver = cpu_of(way.receiver().pid) - (0 if trouble == "restart" else before)
        finally:
            way.stop()
        different, in_all = arrived(way.out)
    return {
        "way": kind.name,
        "rate": rate,
        "sent": count,
        "arrived": different,
        "twice": in_all - different,
        "loss": 1 - different / count,
        "sender_seconds": told["seconds"],
        "kept_up": told["seconds"] < seconds * 1.1,
        "lines_per_second": different / (changed - began),
        "sender_cpu": told["cpu"] / count * 1e6,
        "receiver_cpu": receiver / count * 1e6,
    }


def long_lines() -> dict[str, int]:
    """Characters that are left of one of `LONG_LINE`: in nginx's error log, and in our feed."""
    left = {}
    for name, plugins in (("nginx error log", {}), ("ours", {"syslog": {}})):
        with Stack("syslog_load:application", plugins=plugins, app={"path": str(ROOT / "bench")}) as stack:
            stack.ask(f"/?{LONG_LINE}")
            if plugins:
                text = max((line["message"] for line in stack.lines_with("xxx")), key=len)
            else:
                log = stack.folder / "nginx-error.log"
                wait_for(lambda log=log: "in stderr" in log.read_text(), "nginx logs it")  # type: ignore[misc]
                text = log.read_text().partition("in stderr: ")[2].partition('"')[2]
            left[name] = max(map(len, re.findall("x+", text.partition(" while ")[0])))
    return left


def percent(loss: float) -> str:
    return "0" if loss == 0 else f"{loss:.2%}"


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def report(results: list[dict[str, Any]], left: dict[str, int]) -> str:
    rows = [["", "lines/s without loss", "CPU µs/line, sender", "receiver", "lost: stalled 1 s", "lost: restarted"]]
    for name, kind in WAYS.items():
        own = [one for one in results if one["way"] == name]
        if not own:
            continue
        even = [one for one in own if not one["trouble"]]
        good = [one for one in even if one["loss"] == 0 and one["kept_up"]]
        best = max(good, key=lambda one: one["rate"], default=None)
        shown = best or min(even, key=lambda one: one["rate"], default=None)
        row = [kind.text, f"{best['rate']:,}" if best else "none"]
        row += [f"{shown['sender_cpu']:.1f}", f"{shown['receiver_cpu']:.1f}"] if shown else ["", ""]
        for trouble in ("stall", "restart"):
            losses = [one["loss"] for one in own if one["trouble"] == trouble]
            row.append(percent(max(losses)) if losses else "")
        rows.append(row)
    text = table(rows)
    if left:
        text += f"\n\nOf a line of {LONG_LINE:,} characters on STDERR, left: "
        text += ", ".join(f"{name} {length:,}" for name, length in left.items())
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rates", default="20000,50000,100000", help="lines a second, with commas")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--length", type=int, default=200, help="of a line's text, bytes")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-trouble", action="store_true", help="rates alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    options = parser.parse_args()
    ways = [WAYS[name] for name in options.ways.split(",")]
    turns = [(rate, "") for rate in map(int, options.rates.split(","))]
    if not options.no_trouble:
        turns += [(TROUBLE_RATE, "stall"), (TROUBLE_RATE, "restart")]
    results = []
    for _ in range(options.rounds):
        for rate, trouble in turns:
            for way in ways:
                try:
                    result = {**measure(way, rate, options.seconds, options.length, trouble), "trouble": trouble}
                except (OSError, AssertionError) as error:
                    print(f"{way.name} {rate} {trouble}: not measured: {error}", file=sys.stderr)
                    continue
                results.append(result)
                print(
                    f"{way.name:12} {rate:7} {trouble:8} lost {percent(result['loss']):>7}, twice {result['twice']:5};"
                    f" CPU {result['sender_cpu']:5.1f} + {result['receiver_cpu']:5.1f} µs a line;"
                    f" sender took {result['sender_seconds']:.1f} s",
                    file=sys.stderr,
                )
    left = {} if options.no_trouble else long_lines()
    print(report(results, left))
    if options.json is not None:
        options.json.write_text(json.dumps({"results": results, "left": left}, indent=1))
    return 0 if results else 1


if __name__ == "__main__":
    sys.exit(main())
