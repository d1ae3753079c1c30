"""The alerts: promtool finds no fault in them and fires each in its test, and they ask for metrics that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from fcgi_metrics.families import FAMILIES

FOLDER = Path(__file__).parents[2] / "examples" / "prometheus"
RULES = yaml.safe_load((FOLDER / "fcgi-sctp.rules.yml").read_text())["groups"][0]["rules"]
NAME = re.compile(r"\bfcgi_[a-z_]+")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (script/setup test)")
@pytest.mark.parametrize(
    "check",
    [
        ["check", "rules", "fcgi-sctp.rules.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "fcgi-sctp.test.yml"],
    ],
)
def test_promtool(check: list[str]) -> None:
    done = subprocess.run(["promtool", *check], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("where", ["examples/prometheus/fcgi-sctp.test.yml", "docs/production.md"])
def test_each_alert_has_a_test_and_stands_in_the_documents(where: str) -> None:
    text = (FOLDER.parents[1] / where).read_text()
    for rule in RULES:
        assert re.search(rf"\b{rule['alert']}\b", text)


def test_alerts_use_metrics_and_labels_that_exist() -> None:
    for rule in RULES:
        query = re.sub(r'\{__name__=~"fcgi_\(web\|app\)_(\w+)"\}', r"fcgi_web_\1 fcgi_app_\1", rule["expr"])
        names = NAME.findall(query)
        assert names or query.startswith("up{"), rule["alert"]
        labels = {"job", "instance"}
        for name in names:
            labels |= {*FAMILIES[name].labels, *(["address", "worker"] if name.startswith("fcgi_app_") else [])}
        used = re.findall(r"\$labels\.(\w+)", str(rule["annotations"])) + [
            one.strip() for found in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for one in found.split(",")
        ]
        assert set(used) <= labels, rule["alert"]


def test_an_alert_says_how_urgent_it_is_what_is_wrong_and_what_to_do() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}
