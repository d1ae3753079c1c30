"""Results as text: one row for each alternative and loss. Of several runs a percentile is that of all their requests or
alerts together, content is the mean, each with the least and the greatest run; the lost are all that were lost, and
other figures are medians."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from .targets import TARGETS, each, pooled, ratios

__all__ = ["grouped", "of_runs", "shown_pool", "table"]

Group = tuple[float, str]


def grouped(result: dict[str, Any]) -> dict[Group, list[dict[str, Any]]]:
    """The cells' results by loss and name, in the order of both; what the guest measured of TCP is named so."""
    found: dict[Group, list[dict[str, Any]]] = {}
    for cell in result["cells"]:
        name = cell["alternative"]["name"]
        if cell["alternative"].get("guest"):
            name = f"(guest) {name}"
        if cell["load"].get("window"):
            name = f"{name}, {cell['load']['window']}"
        found.setdefault((cell["route"]["loss"], name), []).append(cell["result"])
    return dict(sorted(found.items()))


def table(result: dict[str, Any]) -> str:
    machine = result["machine"]
    guests = sorted({cell["guest"] for cell in result["cells"] if "guest" in cell})
    lines = [
        f"{result['scenario']}, {result['date']}, commit {machine['commit'][:12]}: {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['kernel']}, Python {machine['python']}, "
        f"libusrsctp {machine['debian'].get('libusrsctp2', 'unknown')}" + "".join(f", guest {name}" for name in guests),
        "percentiles of all runs together, mean content, each [least run-greatest run]; the sum of lost; medians",
        "",
    ]
    groups = grouped(result)
    columns = COLUMNS[result["scenario"]]
    shown: list[list[str]] = []
    for (loss, name), runs in groups.items():
        shown.append([f"{loss:g}%", name, str(len(runs)), *(of_runs(runs, path, scale) for _, path, scale in columns)])
    lines += _aligned([["loss", "", "runs", *(head for head, _, _ in columns)], *shown])
    if result["scenario"] in TARGETS:
        lines += [
            "",
            "against TCP of the same run and place; ! beyond what is wanted",
            *_targets(result["scenario"], groups),
        ]
    return "\n".join(lines) + "\n"


def _targets(scenario: str, groups: dict[Group, list[dict[str, Any]]]) -> list[str]:
    targets = TARGETS[scenario]
    rows = [["loss", "", *(f"{target.name} ({target.wanted})" for target in targets)]]
    for loss, name in groups:
        if name.startswith(("userspace", "kernel")):
            values = ratios(scenario, groups, loss, name)
            cells = [
                "-" if value is None else f"{value:.2f}{'!' if target.is_missed(value) else ''}"
                for target, value in zip(targets, values, strict=True)
            ]
            rows.append([f"{loss:g}%", name, *cells])
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return lines whose columns stand under each other, the second (names) to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at == 1 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def of_runs(runs: Sequence[dict[str, Any]], path: str, scale: float, form: str = ".0f") -> str:
    """Return the figure at the path of all runs, and its least and its greatest run where that says how they differ."""
    if path == "pool":
        return shown_pool(runs)
    values = [value * scale for value in each(runs, path)]
    if not values:
        return "-"
    name = path.rpartition("/")[2]
    if name == "lost":
        return format(sum(values), form)
    if name not in ("p50", "p90", "p99", "goodput", "within_100_ms"):
        return format(median(values), form)
    together = pooled(runs, path)
    assert together is not None
    text = format(together * scale, form)
    spread = f"{min(values):{form}}-{max(values):{form}}"
    return text if spread == f"{text}-{text}" else f"{text} [{spread}]"


def shown_pool(runs: Sequence[dict[str, Any]]) -> str:
    """Return the most associations that each run had, and the seconds that the slowest took to grow to them."""
    pools = [run["pool"] for run in runs if run.get("pool")]
    if not pools:
        return "-"
    most = sorted(pool["most"] for pool in pools)
    numbers = str(most[0]) if most[0] == most[-1] else f"{most[0]}-{most[-1]}"
    grew = max(pool["grew"] for pool in pools)
    return f"{numbers} in {grew:.1f} s" if grew else numbers


_ALERTS = [
    ("p50 ms", "alerts/p50", 1e3),
    ("p90 ms", "alerts/p90", 1e3),
    ("p99 ms", "alerts/p99", 1e3),
    ("max ms", "alerts/max", 1e3),
    ("lost", "alerts/lost", 1),
    ("sent", "alerts/sent", 1),
    ("kB/s", "goodput", 1e-3),
    ("sent late p99 ms", "late", 1e3),
]
_POOL = ("associations", "pool", 1)
_REQUESTS = [
    ("short p50", "short/whole/p50", 1e3),
    ("p99", "short/whole/p99", 1e3),
    ("long p50", "long/whole/p50", 1e3),
    ("p99", "long/whole/p99", 1e3),
    ("kB/s", "goodput", 1e-3),
    _POOL,
]
COLUMNS = {
    "alerts": [*_ALERTS, _POOL],
    "plans": _ALERTS,
    "queues": [*_ALERTS, ("queue KiB", "queued", 1 / 1024), ("cwnd KiB", "cwnd", 1 / 1024)],
    "requests": _REQUESTS,
    "cold": _REQUESTS,
    "slow-reader": [
        ("fast answers", "fast/ended", 1),
        ("whole p50", "fast/whole/p50", 1e3),
        ("p99", "fast/whole/p99", 1e3),
        ("held for the slow KiB", "memory/unread", 1 / 1024),
    ],
    "flood": [
        ("alerts in 100 ms %", "alerts/within_100_ms", 100),
        ("p50 ms", "alerts/p50", 1e3),
        ("p99 ms", "alerts/p99", 1e3),
        ("lost", "alerts/lost", 1),
        ("answers", "flood/ended", 1),
        ("kB/s", "goodput", 1e-3),
        ("app KiB", "memory/application", 1 / 1024),
        ("web KiB", "memory/web", 1 / 1024),
        _POOL,
    ],
}
