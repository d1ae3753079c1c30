"""Starting and stopping programs by their process id, and what they cost according to /proc (see proc(5))."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from bench.install import ROOT

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

STOP_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


def stat_fields(process_id: int) -> list[str]:
    """/proc/PID/stat after the name: field n of proc(5) is at [n - 3]; empty if the process is gone."""
    try:
        text = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def family(process_id: int) -> dict[int, str]:
    """The process and all its descendants, each with its start time (which tells it from a reused id)."""
    parents: dict[int, int] = {}
    started: dict[int, str] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_fields(int(entry))):
            parents[int(entry)] = int(fields[1])
            started[int(entry)] = fields[19]
    members: dict[int, str] = {}
    queue = [process_id]
    while queue:
        current = queue.pop()
        if current in started:
            members[current] = started[current]
            queue.extend(child for child, parent in parents.items() if parent == current)
    return members


def cpu_seconds(process_id: int) -> float:
    """User and system time of the process, all its threads, and its children, living or waited for."""
    ticks = 0
    for member in family(process_id):
        ticks += sum(map(int, stat_fields(member)[11:15]))  # utime, stime, cutime, cstime
    return ticks / TICKS_PER_SECOND


def resident_bytes(process_id: int) -> int:
    """Resident memory of the process and its descendants, shared pages counted in each."""
    total = 0
    for member in family(process_id):
        if fields := stat_fields(member):
            total += int(fields[21]) * PAGE_BYTES
    return total


def machine_busy_seconds() -> float:
    """CPU time that the whole machine has spent on anything (/proc/stat without idle, iowait and guests)."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS_PER_SECOND


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port on the loopback that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment() -> dict[str, str]:
    """Ours without what changes how Python runs (debug mode, other paths), with the checkout importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def stay_on_one_core() -> None:
    """Keeps this process, and all that it starts, on the last core that it may use."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


class Running:
    """A program that runs: a context manager that leaves neither it nor its descendants behind.

    It runs in a session of its own, so that a Ctrl-C at the terminal reaches only the benchmark, which then
    stops it in order. What it prints goes to ``log``. With ``one_core`` it is kept on one, always the same.
    """

    def __init__(self, role: str, command: Sequence[str], log: Path, *, one_core: bool = False) -> None:
        self.role = role
        self.log = log
        self.needed_kill = False
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment(),
                start_new_session=True,
                preexec_fn=stay_on_one_core if one_core else None,  # safe: we have a single thread
            )
        self.process_id = self._process.pid

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """Waits for its own end and returns the exit code; subprocess.TimeoutExpired after ``seconds``."""
        return self._process.wait(seconds)

    def last_words(self) -> str:
        """The last line it printed, for the reader of a failure."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "(printed nothing)"

    def stop(self) -> None:
        """SIGTERM, after :data:`STOP_GRACE` SIGKILL; descendants that outlive it are killed."""
        members = family(self.process_id)
        try:
            if self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(STOP_GRACE)
                except subprocess.TimeoutExpired:
                    self.needed_kill = True
        finally:  # also when a second Ctrl-C interrupts the waiting
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            for member, started in members.items():
                fields = stat_fields(member)
                if member != self.process_id and fields and fields[19] == started:
                    try:
                        os.kill(member, signal.SIGKILL)
                    except ProcessLookupError:
                        pass


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end the run as Ctrl-C does: by an exception that stops every program.

    SIGINT as well, since a shell script starts its background jobs with SIGINT ignored.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
