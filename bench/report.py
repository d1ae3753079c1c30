"""From turns to results: medians with their spread, the table, and the description of the machine."""

from __future__ import annotations

import datetime
import io
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import apps
from bench.install import ROOT, which
from bench.measure import Case, Turn
from bench.servers import Server

BESIDE = ("nginx", "wrk")
"""Roles that are measured but are not the server."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(turns: Sequence[Turn], failures: Sequence[str]) -> dict[str, Any]:
    """What the rounds of one server at one case say together. ``status`` is ok, errors, or failed."""
    if not turns:
        return {"status": "failed", "failures": list(failures)}
    roles = turns[0].cpu_us
    errors = {kind: sum(turn.errors[kind] for turn in turns) for kind in turns[0].errors}
    errors["nginx_error_lines"] = sum(turn.nginx_errors for turn in turns)
    bad = any(errors.values()) or bool(failures)
    return {
        "status": "errors" if bad else "ok",
        "failures": list(failures),
        "requests": sum(turn.requests for turn in turns),
        "errors": errors,
        "first_nginx_error": next((turn.first_nginx_error for turn in turns if turn.first_nginx_error), ""),
        "requests_per_second": spread([turn.requests_per_second for turn in turns]),
        "p50_us": spread([turn.p50_us for turn in turns]),
        "p99_us": spread([turn.p99_us for turn in turns]),
        "connections_served": spread([turn.connections_served for turn in turns]),
        "cpu_us_per_request": {role: spread([turn.cpu_us[role] for turn in turns]) for role in roles},
        "server_cpu_us_per_request": spread([_cost(turn) for turn in turns]),
        "rss_bytes": {role: max(turn.rss_after[role] for turn in turns) for role in turns[0].rss_after},
        "server_rss_bytes": max(
            sum(size for role, size in turn.rss_after.items() if role not in BESIDE) for turn in turns
        ),
        "others_cpu_percent": spread([turn.others_cpu_percent for turn in turns]),
        "stopped_by_kill": sorted({role for turn in turns for role in turn.stopped_by_kill}),
    }


HEADINGS = (
    *("server", "requests/s (min-max)", "p50 ms", "p99 ms", "served", "CPU us/request (min-max)"),
    *("nginx us", "wrk us", "RSS MiB", "others' CPU", "errors"),
)


def rows(name: str, result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table's line for a server, and one below it for each of its programs where it has several."""
    if result["status"] == "failed":
        return [(name, "FAILED: " + " | ".join(dict.fromkeys(result["failures"])))]
    rate, cost = result["requests_per_second"], result["server_cpu_us_per_request"]
    each = result["cpu_us_per_request"]
    faults = [f"{count} {kind}" for kind, count in result["errors"].items() if count]
    faults += [f"{len(result['failures'])} failed turns"] if result["failures"] else []
    faults += [f"SIGKILL needed: {', '.join(result['stopped_by_kill'])}"] if result["stopped_by_kill"] else []
    lines: list[tuple[str, ...]] = [
        (
            name,
            f"{rate['median']:,.0f} ({rate['min']:,.0f}-{rate['max']:,.0f})",
            f"{result['p50_us']['median'] / 1000:.2f}",
            f"{result['p99_us']['median'] / 1000:.2f}",
            f"{result['connections_served']['median']:.0f}",
            f"{cost['median']:,.1f} ({cost['min']:,.1f}-{cost['max']:,.1f})",
            f"{each['nginx']['median']:,.1f}",
            f"{each['wrk']['median']:,.1f}",
            f"{result['server_rss_bytes'] / 2**20:.1f}",
            f"{result['others_cpu_percent']['median']:.0f}%",
            (f"{', '.join(faults)} in {result['requests']:,} requests" if faults else "none"),
        )
    ]
    programs = [role for role in each if role not in BESIDE]
    if len(programs) > 1:
        lines += [
            (
                *("  " + role, "", "", "", ""),
                f"{each[role]['median']:,.1f} ({each[role]['min']:,.1f}-{each[role]['max']:,.1f})",
                *("", "", f"{result['rss_bytes'][role] / 2**20:.1f}", "", ""),
            )
            for role in programs
        ]
    return lines


def table(results: dict[str, dict[str, dict[str, Any]]], missing: dict[str, str]) -> str:
    """The results as text: one block a case, fastest first as measured in CPU; what did not run is said."""
    text = io.StringIO()
    for case, servers in results.items():
        text.write(f"\n{case}\n")
        ordered = sorted(
            servers.items(),
            key=lambda item: item[1].get("server_cpu_us_per_request", {}).get("median", float("inf")),
        )
        lines = [HEADINGS, *(line for name, result in ordered for line in rows(name, result))]
        complete = [line for line in lines if len(line) == len(HEADINGS)]
        widths = [max(len(line[column]) for line in complete) for column in range(len(HEADINGS))]
        widths[0] = max(widths[0], *(len(line[0]) for line in lines))
        for line in lines:
            cells = [
                cell.ljust(width) if column in (0, len(HEADINGS) - 1) or len(line) == 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=False))
            ]
            text.write("  " + "  ".join(cells).rstrip() + "\n")
        for name, result in ordered:
            if message := result.get("first_nginx_error"):
                text.write(f"  nginx on {name}: {message}\n")
    for name, reason in missing.items():
        text.write(f"\nnot run: {name}: {reason}")
    return text.getvalue() + ("\n" if missing else "")


def pairs(turns: Mapping[int, Turn], others: Mapping[int, Turn]) -> dict[str, Any]:
    """What the turns of one server are to those of another in the same rounds: ratios, each a median with its spread,
    and in how many rounds the server was the better. Noise that lasts longer than a turn falls on both alike."""
    both = sorted(turns.keys() & others.keys())
    if not both:
        return {"rounds": 0}
    found: dict[str, Any] = {"rounds": len(both)}
    for name, (value, more_is_better) in COMPARED.items():
        ratios = [value(turns[number]) / value(others[number]) for number in both]
        better = sum(ratio > 1 if more_is_better else ratio < 1 for ratio in ratios)
        found[name] = {**spread(ratios), "better": better}
    return found


def _cost(turn: Turn) -> float:
    return sum(cost for role, cost in turn.cpu_us.items() if role not in BESIDE)


COMPARED: dict[str, tuple[Callable[[Turn], float], bool]] = {
    "requests_per_second": (lambda turn: turn.requests_per_second, True),
    "p50_us": (lambda turn: turn.p50_us, False),
    "p99_us": (lambda turn: turn.p99_us, False),
    "server_cpu_us_per_request": (_cost, False),
}


def pairs_table(everything: dict[str, dict[str, dict[str, Any]]], against: str | None) -> str:
    """The ratios as text; empty if no server was to be compared with."""
    lines = (
        [f"\nagainst {against} in the same round: median (least-greatest), better in so many rounds"] if against else []
    )
    for case, servers in everything.items():
        for server, found in servers.items():
            ratios = "  ".join(
                f"{name} {one['median']:.3f} ({one['min']:.3f}-{one['max']:.3f}), {one['better']}/{found['rounds']}"
                for name in COMPARED
                if (one := found.get(name))
            )
            lines.append(f"  {case:9} {server:21} {ratios or 'no round of both'}")
    return "".join(line + "\n" for line in lines)


def application_alone(case: Case) -> float:
    """Microseconds that the WSGI application takes for one request, called in a loop without any server."""
    environ = {"PATH_INFO": case.path, "CONTENT_LENGTH": str(len(case.upload))}
    calls, started = 0, time.process_time()
    while (spent := time.process_time() - started) < 0.2:
        list(apps.wsgi({**environ, "wsgi.input": io.BytesIO(case.upload)}, lambda status, headers: None))
        calls += 1
    return spent / calls * 1e6


def output_of(*command: str) -> str:
    """The first line that a command prints, wherever it prints it; empty if it cannot be run."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=20,
        )
    except OSError:
        return ""
    return (done.stdout.splitlines() or [""])[0].strip()


def machine(debian: dict[str, str], pypi: dict[str, str]) -> dict[str, Any]:
    """What the figures depend on besides the servers."""
    information = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in information.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "kernel": f"{platform.system()} {platform.release()}",
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "nginx": output_of(which("nginx") or "nginx", "-v").removeprefix("nginx version: "),
        "debian": debian,
        "pypi": pypi,
        "commit": output_of("git", "rev-parse", "HEAD"),
        "uncommitted_changes": bool(output_of("git", "status", "--porcelain", "--untracked-files=no")),
    }


def described(server: Server) -> dict[str, Any]:
    """A server's entry in the results: how it was run, with the templates instead of this run's paths."""
    return {
        "setup": server.setup,
        "application": server.application,
        "protocol": server.protocol,
        "address": server.address,
        "nginx_keeps_connections": server.keepalive,
        "kept_on_one_core": [program.role for program in server.programs if program.one_core],
        "commands": {program.role: " ".join(program.command) for program in server.programs},
    }


def now() -> str:
    """The date and time of the results, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def heading(facts: dict[str, Any], options: dict[str, Any]) -> str:
    """Two lines above the table."""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['kernel']},"
        f" Python {facts['python']}, {facts['nginx']}\n"
        f"medians of {options['rounds']} alternating rounds of {options['seconds']} s,"
        f" wrk -t1 -c{options['connections']}; CPU of all the server's processes from /proc\n"
    )
