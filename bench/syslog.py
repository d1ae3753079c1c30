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
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # neither `bench` nor `tests` is an installed package

import yaml  # noqa: E402

from bench.quiet import Turns  # noqa: E402
from bench.syslog_long import LONG_LINE, Remains, long_lines  # noqa: E402
from fcgi_core.protocol.records import RecordType, begin_request, encode_pairs, record  # noqa: E402
from tests.syslog.rsyslog import COMMAND as RSYSLOGD  # noqa: E402
from tests.syslog.rsyslog import Rsyslog, free_port  # noqa: E402
from tests.system.stack import CARRIER, COMMAND, free_address  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")
SETTLE = 3.0
"""Seconds without a new line after which no more are expected."""
WAIT = 40.0
IN_TIME = 0.9
"""Part of the rate at which lines must arrive: what only fills a queue somewhere is not carried."""
TROUBLE_RATE = 20_000
TROUBLE_AT = 1.5
# omrelp's own window, 128 frames, lets 680 lines a second through here
RELP_SENDER = """\
global(workDirectory="{folder}" maxMessageSize="64k")
module(load="imtcp") module(load="omrelp")
main_queue(queue.size="1000000")
input(type="imtcp" address="127.0.0.1" port="{tcp}")
action(type="omrelp" target="127.0.0.1" port="{relp}" template="RSYSLOG_SyslogProtocol23Format" windowSize="5000"
    action.resumeRetryCount="-1" action.resumeInterval="1")
"""
RELP_RECEIVER = """\
module(load="imrelp")
input(type="imrelp" address="127.0.0.1" port="{relp}" ruleset="all" maxDataSize="64k")
"""


def cpu_of(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_of(process_id: int) -> int:
    """Bytes resident."""
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Way:
    """A sender and a receiver with its file."""

    name: str
    text: str

    def __init__(self, folder: Path, settings: dict[str, str], one_core: bool) -> None:
        self.folder = folder
        self.go, self.done = folder / "go", folder / "done"
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "LOAD_GO": str(self.go),
            "LOAD_DONE": str(self.done),
            **settings,
        }
        self.programs: list[subprocess.Popen[bytes]] = []
        self.cores = sorted(os.sched_getaffinity(0))[: 1 if one_core else 2]

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

    def senders(self) -> list[int]:
        """Ids of the processes on the sending side."""
        return [self.sender.pid]

    def begin(self) -> None:
        """Let the sender go."""
        self.go.touch()

    def told_lost(self) -> int:
        """Lines that the program itself says are lost."""
        return 0

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
        self.server = self.make_server()
        self.server.start()
        self._pin()
        self.environment |= {"LOAD_KIND": self.kind, "LOAD_PORT": str(getattr(self.server, self.kind))}
        self.start_sender()

    def make_server(self) -> Rsyslog:
        return Rsyslog(self.folder)

    def start_sender(self) -> None:
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


class Relp(HandlerTcp):
    """Two rsyslogs: what the first one gets over TCP goes on over RELP, from a queue in memory."""

    name, text = "relp", "SysLogHandler, TCP, rsyslog, RELP, rsyslog"

    def start(self) -> None:
        self.near = Rsyslog(self.folder)
        self.relp = free_port()
        (self.folder / "near.conf").write_text(
            RELP_SENDER.format(folder=self.folder, tcp=self.near.tcp, relp=self.relp)
        )
        super().start()
        self.environment["LOAD_PORT"] = str(self.near.tcp)
        assert RSYSLOGD is not None
        self.forwarder = self.run(
            RSYSLOGD, "-n", "-f", str(self.folder / "near.conf"), "-i", str(self.folder / "near.pid"), core=0
        )
        wait_for(lambda: listens(self.near.tcp), "the first rsyslog listens")
        self.start_sender()

    def make_server(self) -> Rsyslog:
        server = Rsyslog(self.folder)
        with (self.folder / "rsyslog.conf").open("a") as configuration:
            configuration.write(RELP_RECEIVER.format(relp=self.relp))
        return server

    def start_sender(self) -> None:
        if hasattr(self, "forwarder"):  # it can connect only when that one listens
            super().start_sender()

    def senders(self) -> list[int]:
        return [self.sender.pid, self.forwarder.pid]


class Ours(Way):
    options: ClassVar[dict[str, Any]] = {}
    name, text = "ours", "ours, plain, file"

    def outputs(self) -> list[dict[str, Any]]:
        return [{"file": str(self.out)}]

    def start(self) -> None:
        self.address = free_address()
        syslog = {"scope": "association", **self.options, "outputs": self.outputs()}
        if syslog.get("delivery"):
            syslog["spool_bytes"] = 64 << 20
        if syslog.get("spool"):
            syslog["spool"] = str(self.folder / "spool")
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
    name, text = "ours-sure", "ours, acknowledged, file"
    options: ClassVar[dict[str, Any]] = {"delivery": "acknowledged"}


class OursDisk(Ours):
    name, text = "ours-disk", "ours, acknowledged, kept on disk, file"
    options: ClassVar[dict[str, Any]] = {"delivery": "acknowledged", "spool": True}


class OursSlow(Ours):
    """The output is a pipe that is read at a tenth of 100,000 lines a second."""

    name, text = "ours-slow", "ours, plain, output takes 10,000 lines/s"
    PACE = 10_000 * 270
    """Bytes a second."""

    def outputs(self) -> list[dict[str, Any]]:
        return [{"file": str(self.folder / "pipe")}]

    def start(self) -> None:
        os.mkfifo(self.folder / "pipe")
        threading.Thread(target=self._read, daemon=True).start()
        super().start()

    def _read(self) -> None:
        with (self.folder / "pipe").open("rb", buffering=0) as pipe, self.out.open("wb", buffering=0) as out:
            while data := pipe.read(self.PACE // 100):
                out.write(data)
                time.sleep(len(data) / self.PACE)

    def told_lost(self) -> int:
        return sum(map(int, re.findall(r"queue full, (\d+) lines lost", self.log())))


class OursStderr(Ours):
    """One request that writes all lines to its error output."""

    name, text = "ours-stderr", "ours, STDERR of one request, file"
    options: ClassVar[dict[str, Any]] = {"scope": "request"}

    def begin(self) -> None:
        about = {"REQUEST_METHOD": "GET", "SERVER_NAME": "shop.example", "REQUEST_ID": "r", "PATH_INFO": "/load"}
        about |= {"SCRIPT_NAME": "", "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_PORT": "80"}
        self.request = socket.socket(socket.AF_UNIX)
        self.request.connect(str(self.folder / "web.sock"))
        self.request.sendall(
            b"".join(
                [
                    begin_request(1, 1, 1),
                    record(RecordType.PARAMS, 1, encode_pairs(about)),
                    record(RecordType.PARAMS, 1),
                    record(RecordType.STDIN, 1),
                ]
            )
        )
        super().begin()

    def stop(self) -> None:
        super().stop()
        self.request.close()


WAYS: dict[str, type[Way]] = {
    way.name: way for way in (HandlerUdp, HandlerTcp, Relp, Ours, OursTcp, OursSure, OursDisk, OursStderr, OursSlow)
}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
