"""The pictures: docs/figures/*.svg from docs/measurements/*.json. Runs in bench/.venv, which has matplotlib."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from bench.streams.alternatives import CARRIERS
from bench.streams.tables import grouped

DOCS = Path(__file__).resolve().parents[1] / "docs"
plt.rcParams.update({"svg.hashsalt": "fcgi-sctp", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})


def _load(scenario: str) -> dict[str, Any] | None:
    file = DOCS / "measurements" / f"{scenario}.json"
    return json.loads(file.read_text()) if file.exists() else None


def _save(figure: Any, name: str) -> None:
    (DOCS / "figures").mkdir(exist_ok=True)
    figure.savefig(DOCS / "figures" / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def curves(result: dict[str, Any], name: str, wanted: list[str], title: str) -> None:
    """Share of alerts that came within a time, a panel for each loss."""
    groups = grouped(result)
    losses = sorted({loss for loss, _ in groups})
    figure, panels = plt.subplots(1, len(losses), figsize=(3.1 * len(losses), 3.2), sharey=True, squeeze=False)
    for panel, loss in zip(panels[0], losses, strict=True):
        for number, what in enumerate(wanted):
            runs = [run["alerts"] for run in groups.get((loss, what), []) if run.get("alerts", {}).get("curve")]
            if not runs:
                continue
            times = [median(values) * 1000 for values in zip(*(run["curve"] for run in runs), strict=True)]
            came = median(1 - run["lost"] / run["sent"] for run in runs)
            panel.plot(times, [came * share for share in range(101)], label=what, color=f"C{number}")
        panel.set_xscale("log")
        panel.set_xlim(40, 10_000)
        panel.set_title(f"{loss:g} % loss", fontsize=9)
        panel.set_xlabel("delay, ms")
    panels[0][0].set_ylabel("% of alerts that came by then")
    handles: dict[str, Any] = {}
    for panel in panels[0]:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="upper center", bbox_to_anchor=(0.5, -0.02), ncol=2, fontsize=8)
    figure.suptitle(title, fontsize=10)
    _save(figure, name)


def bars(result: dict[str, Any], name: str, title: str, measures: list[tuple[str, str, float]]) -> None:
    """A bar for each alternative, a panel for each measure, the losses beside each other."""
    groups = grouped(result)
    names = list(dict.fromkeys(what for _, what in groups))
    losses = sorted({loss for loss, _ in groups})
    figure, panels = plt.subplots(
        1, len(measures), figsize=(3.2 * len(measures), 0.32 * len(names) * max(1, len(losses) / 2) + 1), sharey=True
    )
    for panel, (path, label, scale) in zip(panels, measures, strict=True):
        for number, loss in enumerate(losses):
            width = 0.8 / len(losses)
            values = [_value(groups.get((loss, what), []), path) * scale for what in names]
            places = [place + number * width for place in range(len(names))]
            panel.barh(places, values, width, label=f"{loss:g} % loss", color=f"C{number}")
        panel.set_xlabel(label)
    panels[0].set_yticks([place + 0.4 - 0.4 / len(losses) for place in range(len(names))], names)
    panels[0].invert_yaxis()
    panels[-1].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    _save(figure, name)


def throughput(result: dict[str, Any]) -> None:
    """Requests a second and the servers' CPU for one, a panel for each case; a line from the least to the greatest."""
    cases = list(result["results"])
    figure, panels = plt.subplots(2, len(cases), figsize=(3.0 * len(cases), 6.4), sharey=True, squeeze=False)
    names = list(dict.fromkeys(name for found in result["results"].values() for name in found))
    for column, case in enumerate(cases):
        for row, (measure, label) in enumerate(
            (("requests_per_second", "requests/s"), ("server_cpu_us_per_request", "CPU, µs a request"))
        ):
            panel = panels[row][column]
            for place, name in enumerate(names):
                found = result["results"][case].get(name, {}).get(measure)
                if found:
                    color = "C1" if name.startswith("fcgi-sctp") else "C0"
                    around = [[found["median"] - found["min"]], [found["max"] - found["median"]]]
                    panel.barh(place, found["median"], color=color, xerr=around, error_kw={"lw": 0.8})
            panel.set_xlabel(label)
            panel.set_yticks(range(len(names)), names)
        panels[0][column].set_title(case, fontsize=9)
    panels[0][0].invert_yaxis()
    figure.tight_layout()
    _save(figure, "throughput")


def growing(
    rows: list[dict[str, Any]], name: str, across: str, by: str, title: str, measures: list[tuple[str, str, float]]
) -> None:
    """A line for each kind, a panel for each measure, both axes logarithmic; medians of the runs."""
    figure, panels = plt.subplots(1, len(measures), figsize=(3.2 * len(measures), 3.2))
    for panel, (path, label, scale) in zip(panels, measures, strict=True):
        for number, kind in enumerate(dict.fromkeys(row[by] for row in rows)):
            mine = [row for row in rows if row[by] == kind]
            places = sorted({row[across] for row in mine})
            values = [_value([row for row in mine if row[across] == place], path) * scale for place in places]
            drawn = [(place, value) for place, value in zip(places, values, strict=True) if value > 0]
            panel.plot(*zip(*drawn, strict=True), marker="o", ms=3, label=kind, color=f"C{number}") if drawn else None
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel(across)
        panel.set_title(label, fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=3)
    _save(figure, name)


def _value(runs: list[dict[str, Any]], path: str) -> float:
    values = []
    for run in runs:
        value: Any = run
        for part in path.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            values.append(float(value))
    return median(values) if values else 0.0


def main() -> None:
    if result := _load("streams-alerts"):
        curves(
            result,
            "streams-alerts",
            [
                "tcp, one connection",
                "tcp, one connection, NOTSENT_LOWAT",
                "tcp, one connection, NOTSENT_LOWAT, BBR",
                "tcp, a connection each, syslog on TCP",
                "tcp, a connection each, syslog on UDP",
                *(f"{carrier}, {pool}" for carrier in CARRIERS for pool in ("1 association", "auto")),
            ],
            "A 100-byte alert beside bulk, 5 Mbit/s, 100 ms RTT: 50 ms is the least there is",
        )
    if result := _load("streams-plans"):
        for carrier in CARRIERS:
            names = [f"{carrier} {plan}" for plan in ("single", "per-type", "per-request", "per-channel priority")]
            curves(result, f"streams-plans-{carrier}", names, f"Stream plans, {carrier} carrier, priority and I-DATA")
            names = [
                f"{carrier} per-channel {scheduler}{more}"
                for scheduler in ("priority", "round-robin", "first-come")
                for more in ("", ", no I-DATA")
            ]
            names += [
                f"{carrier} per-channel priority, long SCTP queue",
                f"{carrier} per-channel round-robin, no I-DATA, long SCTP queue",
            ]
            curves(result, f"streams-schedulers-{carrier}", names, f"SCTP schedulers, {carrier} carrier")
    if result := _load("streams-queues"):
        bars(
            result,
            "streams-queues",
            "How much SCTP may hold",
            [("alerts/p50", "alert p50, ms", 1e3), ("alerts/p99", "alert p99, ms", 1e3), ("goodput", "kB/s", 1e-3)],
        )
    if result := _load("streams-requests"):
        bars(
            result,
            "streams-requests",
            "30 requests at once, 20 short and 10 long",
            [
                ("short/first_byte/p50", "short: first byte p50, ms", 1e3),
                ("short/whole/p99", "short: whole p99, ms", 1e3),
                ("long/whole/p50", "long: whole p50, ms", 1e3),
                ("long/whole/p99", "long: whole p99, ms", 1e3),
            ],
        )
    if result := _load("streams-slow-reader"):
        bars(
            result,
            "streams-slow-reader",
            "One slow reader beside 29 fast ones",
            [
                ("fast/whole/p50", "fast: whole p50, ms", 1e3),
                ("fast/whole/p99", "fast: whole p99, ms", 1e3),
                ("memory/unread", "held for the slow one, KiB", 1 / 1024),
            ],
        )
    if result := _load("streams-flood"):
        bars(
            result,
            "streams-flood",
            "Ten times more requests than can be served",
            [
                ("alerts/within_100_ms", "alerts within 100 ms, %", 100),
                ("alerts/p99", "alert p99, ms", 1e3),
                ("goodput", "content, kB/s", 1e-3),
                ("memory/application", "application's memory, KiB", 1 / 1024),
            ],
        )
    if result := _load("throughput"):
        throughput(result)
    if result := _load("concurrency"):
        growing(
            result["rows"],
            "concurrency",
            "connections",
            "server",
            "Hello world, as connections grow",
            [
                ("requests_per_second/median", "requests/s", 1),
                ("p99_us/median", "p99, ms", 1e-3),
                ("server_cpu_us_per_request/median", "CPU, µs a request", 1),
                ("server_rss_bytes", "resident memory, MiB", 2**-20),
            ],
        )
    if result := _load("associations"):
        rows = [{**row, "kind": row["kind"] + (" (guest)" if row.get("guest") else "")} for row in result["rows"]]
        growing(
            rows,
            "associations",
            "count",
            "kind",
            "As associations of one process grow",
            [
                ("idle_bytes/web", "web: KiB each, at rest", 1 / 1024),
                ("busy_bytes/web", "web: KiB each, 8 requests open", 1 / 1024),
                ("idle_processor/web", "web at rest, % of a core", 100),
                ("request/p99", "a request's p99, ms", 1e3),
            ],
        )


if __name__ == "__main__":
    main()
