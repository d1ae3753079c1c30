"""The tables of docs/performance.md, written into it from docs/measurements: no figure there is copied by hand.

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; what is between is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from bench.associations import BYTES
from bench.install import ROOT
from bench.streams.alternatives import CARRIERS, SERVICES
from bench.streams.tables import grouped, of_runs, shown_pool
from bench.streams.targets import TARGETS, each, pooled, ratios

__all__ = ["text", "write"]

DOCS = ROOT / "docs"
MARKED = re.compile(r"(<!-- table ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

ALERTS = {
    "tcp, one connection": "TCP, one connection",
    "tcp, one connection, NOTSENT_LOWAT": "… NOTSENT_LOWAT 16 KiB",
    "tcp, one connection, NOTSENT_LOWAT, BBR": "… and BBR",
    "tcp, a connection each, syslog on TCP": "a TCP connection each, syslog on its own",
    "tcp, a connection each, syslog on UDP": "…, syslog on UDP",
    **{
        one.name: one.name.replace(",", " SCTP,") if one.associations else f"**{one.carrier} SCTP, auto**"
        for one in SERVICES
    },
    **{f"{carrier} per-channel priority": f"{carrier} SCTP, 1 association, the core alone" for carrier in CARRIERS},
    "(guest) tcp, a connection each, syslog on TCP": "(guest) a TCP connection each, syslog on its own",
}
PLANS = ("single", "per-type", "per-request", "per-channel priority")
SCHEDULERS = [
    f"per-channel {scheduler}{more}"
    for scheduler in ("priority", "round-robin", "first-come")
    for more in ("", ", no I-DATA")
] + ["per-channel priority, long SCTP queue", "per-channel round-robin, no I-DATA, long SCTP queue"]


def load(part: str) -> dict[str, Any] | None:
    file = DOCS / "measurements" / f"{part}.json"
    return json.loads(file.read_text()) if file.exists() else None


def middle(runs: Sequence[dict[str, Any]], path: str, scale: float = 1.0) -> float | None:
    """The median over the runs of what stands at the path; None if none has it."""
    values = []
    for run in runs:
        value: Any = run
        for part in path.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            values.append(float(value) * scale)
    return median(values) if values else None


def shown(value: float | None, form: str = ",.0f", scale: float = 1.0) -> str:
    return "-" if value is None else format(value * scale, form)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(runs: Sequence[dict[str, Any]]) -> str:
    """An alternative's alerts at one loss, of all runs: p50 / p90 / p99 / max, content in brackets with its runs."""
    if not runs:
        return "-"
    times = " / ".join(shown(pooled(runs, f"alerts/{name}"), ",.0f", 1e3) for name in ("p50", "p90", "p99"))
    times += " / " + shown(max(each(runs, "alerts/max"), default=None), ",.0f", 1e3)
    lost = sum(run["alerts"]["lost"] for run in runs) / sum(run["alerts"]["sent"] for run in runs)
    return f"{times} ({of_runs(runs, 'goodput', 1e-3)})" + (f" lost {lost:.1%}" if lost else "")


def _by_loss(result: dict[str, Any], names: dict[str, str]) -> str:
    groups = grouped(result)
    losses = sorted({loss for loss, _ in groups})
    rows = [
        [label, *(_cell(groups.get((loss, name), [])) for loss in losses)]
        for name, label in names.items()
        if any((loss, name) in groups for loss in losses)
    ]
    return markdown(["", *(f"{loss:g} % loss" for loss in losses)], rows)


def _alerts(result: dict[str, Any]) -> str:
    return _by_loss(result, ALERTS)


def _targets(scenario: str) -> Callable[[dict[str, Any]], str]:
    """The table of ratios to TCP; what is beyond the bound is bold."""
    targets = TARGETS[scenario]

    def make(result: dict[str, Any]) -> str:
        groups = grouped(result)
        rows = []
        for loss, name in groups:
            if name.startswith(CARRIERS):
                cells = [
                    "-" if value is None else f"**{value:.2f}**" if target.is_missed(value) else f"{value:.2f}"
                    for target, value in zip(targets, ratios(scenario, groups, loss, name), strict=True)
                ]
                rows.append([f"{loss:g} %", name, *cells, shown_pool(groups[loss, name])])
        head = [f"{target.name} ({target.wanted})" for target in targets]
        return markdown(["loss", "", *head, "associations"], rows)

    return make


def _both_carriers(parts: Sequence[str]) -> Callable[[dict[str, Any]], str]:
    def make(result: dict[str, Any]) -> str:
        groups = grouped(result)
        rows = []
        for part in parts:
            cells = [_cell(groups.get((2.0, f"{carrier} {part}"), [])) for carrier in CARRIERS]
            rows.append([part.removeprefix("per-channel ") if parts is not PLANS else part, *cells])
        return markdown(["2 % loss", "userspace", "kernel (guest)"], rows)

    return make


def _queues(result: dict[str, Any]) -> str:
    names = dict.fromkeys(name for _, name in grouped(result))
    carriers = [sorted(name for name in names if name.startswith(carrier)) for carrier in CARRIERS]
    return _by_loss(result, {name: name for part in carriers for name in part})


def _requests(result: dict[str, Any]) -> str:
    groups = grouped(result)
    losses = sorted({loss for loss, _ in groups} & set(SHOWN_LOSSES))
    rows = []
    for name in dict.fromkeys(name for _, name in groups):
        row = [name]
        for loss in losses:
            runs = groups.get((loss, name), [])
            for kind in ("short", "long"):
                late = shown(pooled(runs, f"{kind}/whole/p99"), ",.0f", 1e3)
                row.append(f"{of_runs(runs, f'{kind}/whole/p50', 1e3, ',.0f')} / {late}" if runs else "-")
            row.append(of_runs(runs, "goodput", 1e-3) if runs else "-")
        rows.append(row)
    return markdown(["", *(f"{loss:g} %: {what}" for loss in losses for what in ("short", "long", "kB/s"))], rows)


SHOWN_LOSSES = (0.0, 2.0)
"""Of the requests' table, which would be too wide; the text has all."""


def _slow_reader(result: dict[str, Any]) -> str:
    rows = [
        [
            name,
            shown(middle(runs, "fast/ended")),
            f"{shown(middle(runs, 'fast/whole/p50', 1e3))} / {shown(middle(runs, 'fast/whole/p99', 1e3))}",
            shown(middle(runs, "memory/unread", 1 / 1024)),
        ]
        for (_, name), runs in grouped(result).items()
    ]
    return markdown(["", "fast answers", "whole, p50 / p99 ms", "held for the slow one, KiB"], rows)


def _flood(result: dict[str, Any]) -> str:
    groups = grouped(result)
    losses = sorted({loss for loss, _ in groups})
    rows = []
    for name in dict.fromkeys(name for _, name in groups):
        row = [name]
        for loss in losses:
            runs = groups.get((loss, name), [])
            row += [
                f"{of_runs(runs, 'alerts/within_100_ms', 100)} %",
                shown(pooled(runs, "alerts/p99"), ",.0f", 1e3),
                of_runs(runs, "alerts/lost", 1),
                of_runs(runs, "goodput", 1e-3),
            ]
        kib = [shown(middle(groups.get((losses[0], name), []), f"memory/{end}", 1 / 1024)) for end in ENDS]
        rows.append([*row, " + ".join(kib)])
    head = [words for loss in losses for words in (f"{loss:g} %: in 100 ms", "p99 ms", "lost", "kB/s")]
    return markdown(["", *head, "KiB, app + web"], rows)


ENDS = ("application", "web")


def _throughput(result: dict[str, Any]) -> str:
    rows = []
    cases = list(result["results"])
    for name in result["servers"]:
        row = [name]
        for case in cases:
            found = result["results"].get(case, {}).get(name)
            if not found or "requests_per_second" not in found:
                row.append("failed" if found else "not run")
                continue
            times = f"{found['p50_us']['median'] / 1e3:,.1f} / {found['p99_us']['median'] / 1e3:,.1f}"
            served = found["connections_served"]["median"]
            if served < result["settings"]["connections"]:
                times += f" of {served:.0f}"
            cost = [
                f"{role} {value['median']:,.0f}"
                for role, value in found["cpu_us_per_request"].items()
                if role not in ("nginx", "wrk")
            ]
            row.append(
                f"**{found['requests_per_second']['median']:,.0f}** · {times} · {', '.join(cost)}"
                f" · {found['server_rss_bytes'] / 2**20:.0f}"
            )
        rows.append(row)
    return markdown(["", *cases], rows)


def _concurrency(result: dict[str, Any]) -> str:
    levels = list(dict.fromkeys(row["connections"] for row in result["rows"]))
    rows = []
    for name in dict.fromkeys(row["server"] for row in result["rows"]):
        cells = [name]
        for level in levels:
            found = next(row for row in result["rows"] if (row["server"], row["connections"]) == (name, level))
            if found["status"] == "failed":
                cells.append("failed")
                continue
            rate, late, cost = (
                shown(middle([found], f"{what}/median", scale))
                for what, scale in (
                    ("requests_per_second", 1.0),
                    ("p99_us", 1e-3),
                    ("server_cpu_us_per_request", 1.0),
                )
            )
            served = found["connections_served"]["median"]
            if served < level:
                late += f" of {served:.0f}"
            memory = shown(found["server_rss_bytes"] / 2**20)
            errors = " · errors" if found["status"] == "errors" else ""
            cells.append(f"{rate} · {late} · {cost} · {memory}{errors}")
        rows.append(cells)
    return markdown(["", *map(str, levels)], rows)


def _associations(result: dict[str, Any]) -> str:
    rows = []
    for kind, guest, count in sorted({(row["kind"], "guest" in row, row["count"]) for row in result["rows"]}):
        runs = [row for row in result["rows"] if (row["kind"], "guest" in row, row["count"]) == (kind, guest, count)]
        rows.append(
            [
                f"{kind}{' (guest)' if guest else ''}",
                f"{count:,}",
                shown(middle(runs, "set_up"), ".3f"),
                *(" + ".join(shown(middle(runs, f"{what}/{end}", 1 / 1024)) for end in ENDS) for what in BYTES),
                shown(middle(runs, "kernel_bytes", 1 / 1024)) if count > 1 else "-",
                " + ".join(shown(middle(runs, f"streams/{end}")) for end in ENDS),
                " + ".join(shown(middle(runs, f"idle_processor/{end}", 100), ".1f") for end in ENDS),
                " / ".join(shown(middle(runs, f"request/{name}", 1e3), ".2f") for name in ("p50", "p99")),
            ]
        )
    head = [
        "",
        "number",
        "set up, s",
        "KiB each at rest, app + web",
        "with 8 requests open",
        "more, at most, with 64 KiB on each",
        "at rest after that",
        "kernel's",
        "streams held",
    ]
    return markdown([*head, "% of a core at rest", "a request's p50 / p99 ms"], rows)


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "alerts": ("streams-alerts", _alerts),
    "alerts-targets": ("streams-alerts", _targets("alerts")),
    "plans": ("streams-plans", _both_carriers(PLANS)),
    "schedulers": ("streams-plans", _both_carriers(SCHEDULERS)),
    "queues": ("streams-queues", _queues),
    "requests": ("streams-requests", _requests),
    "requests-targets": ("streams-requests", _targets("requests")),
    "slow-reader": ("streams-slow-reader", _slow_reader),
    "flood": ("streams-flood", _flood),
    "flood-targets": ("streams-flood", _targets("flood")),
    "throughput": ("throughput", _throughput),
    "concurrency": ("concurrency", _concurrency),
    "associations": ("associations", _associations),
}
PARTS = tuple(dict.fromkeys(part for part, _ in TABLES.values()))


def conditions() -> str:
    """When each part was measured, on what, of which commit, and how long it took."""
    rows = []
    for part in PARTS:
        if (result := load(part)) is None:
            continue
        machine = result["machine"]
        runs = result["settings"].get("rounds") or 1 + max((cell["run"] for cell in result["cells"]), default=0)
        changed = " and changes" if machine["uncommitted_changes"] else ""
        rows.append(
            [
                f"[{part}](measurements/{part}.txt)",
                result["date"].replace("T", " ").partition("+")[0],
                f"`{machine['commit'][:10]}`{changed}",
                f"{runs}, interrupted" if result.get("interrupted") else str(runs),
                f"{result['took_seconds'] / 60:.0f} min" if "took_seconds" in result else "-",
            ]
        )
    return markdown(["part", "begun (UTC)", "commit", "runs", "took"], rows)


def table(name: str) -> str:
    """A table as Markdown; a line that says so if nothing was measured for it."""
    if name == "conditions":
        return conditions()
    part, make = TABLES[name]
    result = load(part)
    return "(not measured)\n" if result is None else make(result)


def text(part: str, result: dict[str, Any]) -> str:
    """A part's results as text."""
    machine = result["machine"]
    head = (
        f"{part}, {result['date']}, commit {machine['commit'][:12]}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['kernel']}, Python {machine['python']}, {machine['nginx']}\n{result['settings']}\n\n"
    )
    return head + next(make for known, make in TABLES.values() if known == part)(result)


def write() -> None:
    """Put the tables into docs/performance.md."""
    file = DOCS / "performance.md"

    file.write_text(MARKED.sub(lambda found: f"{found[1]}{table(found[2])}{found[3]}", file.read_text()))
