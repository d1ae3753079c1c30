"""One turn of one server at one case: start it, check its answer, warm it up, load it, stop it.

A turn starts from nothing: a server that broke in an earlier turn cannot spoil a later one, memory is that of
this case alone, and nginx's error log speaks of this turn only.
"""

from __future__ import annotations

import http.client
import json
import re
import resource
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from socket import SOCK_DGRAM
from typing import Any

from bench import apps, nginx
from bench.install import PYTHON, ROOT
from bench.processes import Running, cpu_seconds, free_port, machine_busy_seconds, resident_bytes
from bench.servers import Server

READY_TIMEOUT = 15.0
"""Seconds a server may take from its start to its first right answer through nginx."""

WARM_UP = 1
"""Seconds of the same load before the measured one."""

SERVED = 0.1
"""A connection is served if it got at least this part of what each would have if all got the same."""

# `done` gets wrk's own statistics; without a `request` function wrk sends one ready-made request all the time.
WRK_SCRIPT = """\
{request}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {{"requests": %d, "microseconds": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, ' ..
    '"errors": {{"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}}}\\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99), latency.max,
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request."""

    name: str
    path: str
    upload: bytes = b""

    @property
    def answer(self) -> bytes:
        """The only right body of the response."""
        if self.upload:
            return apps.upload_answer(len(self.upload))
        return apps.BODIES[self.path]

    def wrk_script(self) -> str:
        """wrk's script: what to send, if not a GET, and the statistics as JSON."""
        request = ""
        if self.upload:
            request = f'wrk.method = "POST"\nwrk.body = "{self.upload.decode()}"\n'
        return WRK_SCRIPT.format(request=request)


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("hello", "/"),
        Case("10k", "/10k"),
        Case("1m", "/1m"),
        Case("upload1m", "/upload", apps.UPLOAD),
    )
}


class TurnFailed(Exception):
    """The server did not start, or answered wrongly: the message says which and what it printed."""


@dataclass(slots=True)
class Turn:
    """What one turn measured. Times are per request in microseconds, memory in bytes."""

    requests: int
    seconds: float
    requests_per_second: float
    p50_us: float
    p99_us: float
    max_us: float
    connections_served: int
    """Of wrk's: see SERVED. Its percentiles are of answered requests: who waits to the end is not in them."""
    cpu_us: dict[str, float]
    """By role: each program of the server, ``nginx``, and ``wrk``."""
    rss_before: dict[str, int]
    """By role, after the warm-up."""
    rss_after: dict[str, int]
    errors: dict[str, int]
    """wrk's: connect, read, write, status (not 2xx or 3xx), timeout; ours: short (fewer bytes than due)."""
    nginx_errors: int
    """Lines in nginx's error log."""
    first_nginx_error: str
    others_cpu_percent: float
    """CPU of the machine that went to anything else meanwhile: the noise."""
    stopped_by_kill: list[str] = field(default_factory=list)
    """Roles that did not end on SIGTERM."""

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


def fill(command: tuple[str, ...], fields: dict[str, str]) -> tuple[str, ...]:
    """A command's template with its fields filled in."""
    return tuple(word.format_map(fields) for word in command)


def fetch(port: int, case: Case) -> tuple[int, bytes]:
    """One request through nginx: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_TIMEOUT)
    try:
        connection.request("POST" if case.upload else "GET", case.path, case.upload or None)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_until_ready(port: int, programs: list[Running]) -> None:
    """Polls the hello page until it answers rightly; raises :class:`TurnFailed` if it does not in time.

    ``programs`` are the server's, and nginx as the last.
    """
    hello = CASES["hello"]
    limit = time.monotonic() + READY_TIMEOUT
    status, body = 0, b""
    while True:
        for program in programs:
            if (code := program.exit_code()) is not None:
                raise TurnFailed(f"{program.role} ended with {code}: {program.last_words()}")
        try:
            status, body = fetch(port, hello)
        except (OSError, http.client.HTTPException) as error:
            body = repr(error).encode()
        if status == 200 and body == hello.answer:
            return
        if time.monotonic() > limit:
            words = "; ".join(f"{program.role}: {program.last_words()}" for program in programs[:-1])
            raise TurnFailed(f"no answer in {READY_TIMEOUT:.0f} s (last: {status} {body[:60]!r}). {words}")
        time.sleep(0.05)


def check_answer(port: int, case: Case) -> None:
    """Raises :class:`TurnFailed` unless the case's answer is right to the byte."""
    try:
        status, body = fetch(port, case)
    except (OSError, http.client.HTTPException) as error:
        raise TurnFailed(f"{case.path}: {error!r}") from error
    if status != 200 or body != case.answer:
        raise TurnFailed(f"{case.path}: wrong answer, status {status}, {len(body)} bytes {body[:40]!r}")


def served(received: list[int]) -> int:
    """How many connections were served, by the bytes that each received."""
    return sum(count * len(received) >= SERVED * sum(received) > 0 for count in received)


def bytes_received(port: int) -> list[int]:
    """By each of the connections to a port of this host, as the kernel counts (ss)."""
    command = ["ss", "--tcp", "--info", "--numeric", "--no-header", "--oneline", "state", "established"]
    lines = subprocess.run([*command, f"dport = :{port}"], capture_output=True, text=True, check=True).stdout
    counts = (re.search(r" bytes_received:(\d+)", line) for line in lines.splitlines())
    return [int(count[1]) if count else 0 for count in counts]


def run_wrk(port: int, case: Case, seconds: int, connections: int, script: Path) -> dict[str, Any]:
    """Runs wrk and returns what its script reports (see :data:`WRK_SCRIPT`), and ``served``: how many connections were,
    shortly before the end."""
    command = (
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "10s",
        "--latency",
    )
    url = f"http://127.0.0.1:{port}{case.path}"
    with Running("wrk", (*command, "-s", str(script), url), script.with_suffix(".log")) as wrk:
        time.sleep(seconds * 0.8)
        connections_served = served(bytes_received(port))
        try:
            wrk.wait(seconds + 30)
        except subprocess.TimeoutExpired as error:
            raise TurnFailed("wrk did not end") from error
        output = wrk.log.read_text(errors="replace")
    script.with_suffix(".log").unlink()
    for line in output.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT ")) | {"served": connections_served}
    raise TurnFailed(f"wrk failed: {output.strip()[-200:]}")


def load(port: int, case: Case, seconds: int, connections: int, folder: Path, roles: list[Running]) -> Turn:
    """The measured load on a server that runs: ``roles`` are its programs and nginx."""
    script = folder / "wrk.lua"
    script.write_text(case.wrk_script())
    run_wrk(port, case, WARM_UP, connections, script)
    rss_before = {role.role: resident_bytes(role.process_id) for role in roles}
    earlier_errors = len(nginx.complaints(folder))
    busy = machine_busy_seconds()
    cpu = {role.role: cpu_seconds(role.process_id) for role in roles}
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    result = run_wrk(port, case, seconds, connections, script)
    elapsed = time.monotonic() - started
    spent = {role.role: cpu_seconds(role.process_id) - cpu[role.role] for role in roles}
    children_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent["wrk"] = sum(children_after[:2]) - sum(children[:2])
    others = max(0.0, machine_busy_seconds() - busy - sum(spent.values()))
    requests = result["requests"]
    if not requests:
        raise TurnFailed(f"no request was answered; errors: {result['errors']}")
    errors = {**result["errors"], "short": int(result["bytes"] < requests * len(case.answer))}
    complaints = nginx.complaints(folder)[earlier_errors:]
    cores = len(Path("/proc/stat").read_text().split("\ncpu")) - 1
    return Turn(
        requests=requests,
        seconds=result["microseconds"] / 1e6,
        requests_per_second=requests / (result["microseconds"] / 1e6),
        p50_us=result["p50_us"],
        p99_us=result["p99_us"],
        max_us=result["max_us"],
        connections_served=result["served"],
        cpu_us={role: seconds_spent / requests * 1e6 for role, seconds_spent in spent.items()},
        rss_before=rss_before,
        rss_after={role.role: resident_bytes(role.process_id) for role in roles},
        errors=errors,
        nginx_errors=len(complaints),
        first_nginx_error=complaints[0][:300] if complaints else "",
        others_cpu_percent=100 * others / (elapsed * cores),
    )


def take_turn(server: Server, case: Case, seconds: int, connections: int, *, free_cores: bool = False) -> Turn:
    """One whole turn; nothing of it is left behind, however it ends. Raises :class:`TurnFailed`.

    With ``free_cores`` no program is kept on one core, whatever the table says.
    """
    with tempfile.TemporaryDirectory(prefix="fcgi-bench-") as name, ExitStack() as running:
        folder = Path(name)
        port = free_port()
        fields = {
            "python": str(PYTHON),
            "bin": str(PYTHON.parent),
            "root": str(ROOT),
            "folder": str(folder),
            "socket": str(folder / "server.sock"),
            "port": str(free_port()),
            "udp": str(free_port(SOCK_DGRAM)),
        }
        for file, text in server.files:
            (folder / file).write_text(text.format_map(fields))
        programs = []
        for program in server.programs:
            try:
                started = Running(
                    program.role,
                    fill(program.command, fields),
                    folder / f"{program.role}.log",
                    one_core=program.one_core and not free_cores,
                )
            except OSError as error:
                raise TurnFailed(f"cannot start {program.command[0]}: {error.strerror}") from error
            programs.append(running.enter_context(started))
        # nginx stops first, so that a thread that waits on a kept connection sees its end
        web = running.enter_context(nginx.start(server, fields, port, folder))
        wait_until_ready(port, [*programs, web])
        check_answer(port, case)
        turn = load(port, case, seconds, connections, folder, [*programs, web])
        check_answer(port, case)
        running.close()
        turn.stopped_by_kill = [program.role for program in programs if program.needed_kill]
    return turn
