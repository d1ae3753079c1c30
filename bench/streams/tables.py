"""Results as text: one row for each alternative and loss; with several runs the median, and the range of p99."""

from __future__ import annotations

from statistics import median
from typing import Any

__all__ = ["grouped", "table"]

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
        "medians of the runs; p99 with the least and the greatest run",
        "",
    ]
    groups = grouped(result)
    columns = COLUMNS[result["scenario"]]
    width = max((len(name) for _, name in groups), default=0)
    lines.append(f"{'loss':>5} {'':<{width}} runs " + " ".join(f"{head:>{len(head) + 2}}" for head, _, _ in columns))
    for (loss, name), runs in groups.items():
        cells = [f"{_middle(runs, path, scale):>{len(head) + 2}}" for head, path, scale in columns]
        lines.append(f"{loss:>4g}% {name:<{width}} {len(runs):>4} " + " ".join(cells))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _middle(runs: list[dict[str, Any]], path: str, scale: float) -> str:
    values = []
    for run in runs:
        value: Any = run
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            values.append(value * scale)
    if not values:
        return "-"
    text = f"{median(values):.0f}"
    return f"{text} [{min(values):.0f}-{max(values):.0f}]" if len(values) > 1 and path.endswith("p99") else text


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
COLUMNS = {
    "alerts": _ALERTS,
    "queues": [*_ALERTS, ("queue KiB", "queued", 1 / 1024), ("cwnd KiB", "cwnd", 1 / 1024)],
    "requests": [
        ("short ttfb p50", "short/first_byte/p50", 1e3),
        ("p99", "short/first_byte/p99", 1e3),
        ("short whole p50", "short/whole/p50", 1e3),
        ("p99", "short/whole/p99", 1e3),
        ("long whole p50", "long/whole/p50", 1e3),
        ("p99", "long/whole/p99", 1e3),
        ("kB/s", "goodput", 1e-3),
    ],
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
    ],
}
