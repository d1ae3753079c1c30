"""Runs the demo: nginx with three hosts, `fcgi-sctp web`, `fcgi-sctp app` with httpbin, traffic, and the log viewer.

    driver.py           until Ctrl-C, with the live viewer
    driver.py --once    one round; exit status 0 if every answer and every log line is right

script/demo installs the requirements and calls it. All its files are in one temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from traffic import Answer, Visit, make, visits

from fcgi_core.common.text import SEVERITIES, escape

DEMO = Path(__file__).resolve().parent
COMMAND = Path(sys.executable).with_name("fcgi-sctp")
HOSTS = ("shop.example", "blog.example", "api.example")
READY_WITHIN = 20.0
"""Seconds from the start to the first answer."""
STOP_WITHIN = 5.0
"""Seconds that a program has to end before it is killed."""
LINES_WITHIN = 5.0
"""Seconds that log lines may take after the last answer."""
WORKERS = 4
"""Threads that send requests."""


class DemoError(Exception):
    """The demo cannot continue, for the reason in the message."""


class Program:
    """A program in its own session: Ctrl-C reaches only the driver, which ends the programs in order."""

    def __init__(self, name: str, command: Sequence[str | Path], folder: Path, stop_signal: signal.Signals) -> None:
        self.name = name
        self._stop_signal = stop_signal
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True
            )

    def check(self) -> None:
        """Raise DemoError if the program has ended."""
        if self.process.poll() is not None:
            raise DemoError(
                f"{self.name} ended by itself with status {self.process.returncode}:\n{self.log.read_text()}"
            )

    def stop(self) -> None:
        self.process.send_signal(self._stop_signal)
        try:
            self.process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            print(f"{self.name} did not end in {STOP_WITHIN:g} s and is killed", file=sys.stderr)
            # to the whole session, which includes nginx's worker
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Demo:
    """The running programs with their port and folder. Leaving the context ends nginx first, the application last."""

    def __init__(self) -> None:
        self.port = _free_port(socket.SOCK_STREAM)
        self.programs: list[Program] = []
        self._stack = ExitStack()

    def __enter__(self) -> Demo:
        with ExitStack() as stack:
            # not below TMPDIR, which may be too long for a unix socket's path of 107 bytes
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fcgi-sctp-", dir="/tmp")))
            self.folder.chmod(0o711)  # lets nginx's worker reach the socket, which is another user if we are root
            self.feed = self.folder / "feed.sock"
            nginx_configuration, configuration = self._fill_in("nginx.conf", "fcgi-sctp.yaml")
            for name, command, stop_signal in (
                ("app", (COMMAND, "app", "--config", configuration), signal.SIGTERM),
                ("web", (COMMAND, "web", "--config", configuration), signal.SIGTERM),
                (
                    "nginx",
                    ("/usr/sbin/nginx", "-e", self.folder / "nginx-error.log", "-c", nginx_configuration),
                    signal.SIGQUIT,
                ),
            ):
                program = Program(name, command, self.folder, stop_signal)
                self.programs.append(program)
                stack.callback(program.stop)
            self._wait_until_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def check(self) -> None:
        for program in self.programs:
            program.check()

    def _fill_in(self, *names: str) -> list[Path]:
        """Copy files of the demo into the folder, with the names between @ signs replaced."""
        values = {
            "USER": "user www-data;" if os.geteuid() == 0 else "",
            "FOLDER": str(self.folder),
            "DEMO": str(DEMO),
            "PORT": str(self.port),
            "SCTP_PORT": str(_free_port(socket.SOCK_DGRAM)),
            "UDP_PORT": str(_free_port(socket.SOCK_DGRAM)),
        }
        paths = []
        for name in names:
            text = (DEMO / name).read_text()
            for key, value in values.items():
                text = text.replace(f"@{key}@", value)
            path = self.folder / name
            path.write_text(text)
            paths.append(path)
        return paths

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while (answer := make(self.port, Visit(HOSTS[0], "GET", "/ip"))).problem:
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"no answer within {READY_WITHIN:g} s; the last attempt: {answer.problem}")
            time.sleep(0.05)


def _free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---- until Ctrl-C


def follow(demo: Demo) -> bool:
    """Run the viewer while requests are sent. Return whether all answers were right."""
    print(f"\n  Three hosts on http://127.0.0.1:{demo.port}/ (shop.example). Open it, or type:\n")
    for host in HOSTS:
        print(f"    curl -i -H 'Host: {host}' http://127.0.0.1:{demo.port}/anything")
    print("\n  Below are httpbin's log lines, which came over SCTP. Ctrl-C ends the demo.\n")
    for program in demo.programs:
        print(program.log.read_text(), end="", flush=True)
    # in our session, because it needs the terminal for its keys; so it gets Ctrl-C too
    viewer = subprocess.Popen((COMMAND, "logs", "--feed", demo.feed))
    stop = threading.Event()
    counts: Counter[bool] = Counter()

    def visit_on() -> None:
        while not stop.is_set():
            answer = make(demo.port, random.choice(visits()))
            counts[not answer.problem] += 1
            if answer.problem and not stop.is_set():
                print(f"WRONG: {answer.visit.host} {answer.visit.path}: {answer.problem}", file=sys.stderr)
            stop.wait(random.expovariate(1.0))

    workers = [threading.Thread(target=visit_on) for _ in range(WORKERS)]
    try:
        for worker in workers:
            worker.start()
        while viewer.poll() is None:
            demo.check()
            time.sleep(0.2)
        if viewer.returncode not in (0, 130):
            raise DemoError(f"the viewer ended by itself with status {viewer.returncode}")
    except KeyboardInterrupt:
        pass
    finally:
        _ignore_signals()
        print("\n  Waiting for running requests, then ending.", flush=True)
        stop.set()
        for worker in workers:
            worker.join()
        _end_viewer(viewer)
    print(f"  {counts[True]} answers were right, {counts[False]} wrong.")
    return not counts[False]


def _end_viewer(viewer: subprocess.Popen[bytes]) -> None:
    """Wait for the viewer, which got Ctrl-C from the terminal; interrupt, then kill it if it does not end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            viewer.wait(1)
            return
        except subprocess.TimeoutExpired:
            viewer.send_signal(number)
    viewer.wait()


# ---- one round


def once(demo: Demo) -> bool:
    """Make one round of all visits. Return whether everything arrived."""
    with ThreadPoolExecutor(WORKERS) as pool:
        answers = list(pool.map(lambda visit: make(demo.port, visit), visits()))
    deadline = time.monotonic() + LINES_WITHIN
    while True:
        lines = _read_feed(demo.feed)
        missing = [text for answer in answers for text in _missing(answer, lines)]
        if not missing or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    demo.check()

    print(f"{'host':<14}{'request':<42}{'status':>6}{'bytes':>10}{'ms':>7}")
    for answer in answers:
        visit = answer.visit
        words = f"{visit.method} {visit.path}" + (f" ({len(visit.body)} bytes)" if visit.body else "")
        print(
            f"{visit.host:<14}{words:<42}{answer.status:>6}{answer.size:>10}{answer.seconds * 1e3:>7.0f}"
            f"  {answer.problem or 'right'}"
        )
    print(f"\n{'SERVER_NAME':<14}{'severity':<10}line")
    for line in lines:
        print(f"{line.get('server_name', '-'):<14}{SEVERITIES[line['severity']]:<10}{escape(line['message'])[:120]}")
    for text in missing:
        print(f"MISSING: {text}")
    wrong = sum(1 for answer in answers if answer.problem)
    print(f"\n{len(answers)} requests, {wrong} wrong; {len(lines)} log lines arrived, {len(missing)} are missing")
    return not wrong and not missing


def _read_feed(path: Path) -> list[dict[str, Any]]:
    """All lines in the feed."""
    with socket.socket(socket.AF_UNIX) as feed:
        feed.settimeout(LINES_WITHIN)
        feed.connect(str(path))
        feed.sendall(b'{"since": 1}\n')
        feed.shutdown(socket.SHUT_WR)  # asks for the lines that are there, without following
        with feed.makefile() as lines:
            return [line for line in map(json.loads, lines) if "message" in line]


def _missing(answer: Answer, lines: list[dict[str, Any]]) -> list[str]:
    """The lines that the log lacks of a request, with its id, host and severity."""
    visit = answer.visit
    wanted = [(visit.severity, f"{visit.method} {visit.path}: {visit.status} ")]
    if visit.also:
        wanted.append(("err", visit.also))
    # on a slow machine any request may be logged as slow
    alike = {"info": ("info", "notice")}
    found = [
        (SEVERITIES[line["severity"]], line["message"])
        for line in lines
        if answer.request and line.get("request") == answer.request and line.get("server_name") == visit.host
    ]
    return [
        f"{visit.host} {severity} {text!r}"
        for severity, text in wanted
        if not any(one in alike.get(severity, (severity,)) and text in message for one, message in found)
    ]


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: object) -> None:
    _ignore_signals()  # the rest ends in bounded time, so one signal is enough
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/demo", description="Run nginx, fcgi-sctp and httpbin, send requests, and show the log viewer."
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="send one round of requests without a terminal; exit 1 if anything is missing",
    )
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with Demo() as demo:
            return 0 if (once if arguments.once else follow)(demo) else 1
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
