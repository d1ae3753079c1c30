"""The tables about logging in docs/performance.md are those that the measurements' own commands make."""

from __future__ import annotations

import json
from pathlib import Path

from bench import plugins_cost, syslog

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGE = (DOCS / "performance.md").read_text()


def test_ways_to_log() -> None:
    found = json.loads((DOCS / "measurements/syslog.json").read_text())
    assert syslog.report(found["results"], [syslog.Remains(**one) for one in found["left"]]) in PAGE


def test_what_plugins_cost() -> None:
    found = json.loads((DOCS / "measurements/plugins-cost.json").read_text())
    assert plugins_cost.report(found["turns"]) in PAGE
