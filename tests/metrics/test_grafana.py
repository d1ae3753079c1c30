"""The dashboard: what Grafana needs of one is there, and its queries ask for metrics that exist.

promtool reads each query here; `tests/system/test_metrics.py` has a real Prometheus answer them. Grafana itself is not
among Debian's packages.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from fcgi_metrics.families import FAMILIES

DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana" / "fcgi-sctp.json"
NAME = re.compile(r"\bfcgi_[a-z_]+")
VARIABLES = {"$server_name": ".*", "$address": ".*", "$worker": ".*", "$__rate_interval": "1m"}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_can_be_imported(dashboard: dict[str, Any]) -> None:
    assert dashboard["id"] is None  # Grafana gives it one when it is imported
    assert dashboard["title"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", dashboard["uid"])
    assert dashboard["schemaVersion"] >= 36
    assert {"from", "to"} <= set(dashboard["time"])
    identities = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identities)) == len(identities)
    required = {one["id"] for one in dashboard["__requires"] if one["type"] == "panel"}
    assert {panel["type"] for panel in dashboard["panels"]} - {"row"} == required


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        where = panel["gridPos"]
        cells = {(where["x"] + x, where["y"] + y) for x in range(where["w"]) for y in range(where["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_each_panel_can_be_drawn(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0


def test_variables(dashboard: dict[str, Any]) -> None:
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert set(variables) == {"datasource", "server_name", "address", "worker"}
    for name in ("server_name", "address", "worker"):
        match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables[name]["definition"])
        assert match is not None
        assert match[2] == name
        assert name in FAMILIES[match[1]].labels
    used = {found for query in queries(dashboard) for found in re.findall(r"\$\w+", query)}
    assert used == set(VARIABLES)


def test_queries_use_metrics_that_exist(dashboard: dict[str, Any]) -> None:
    for query in queries(dashboard):
        names = NAME.findall(query)
        assert names, query
        for name in names:
            family = FAMILIES.get(name) or FAMILIES[re.sub(r"_(bucket|sum|count)$", "", name)]
            assert (family.kind == "histogram") is (family.name != name), query
            if family.kind == "counter" or family.kind == "histogram":
                assert re.search(rf"rate\({name}[^)]*\[\$__rate_interval\]\)", query), query


def test_several_web_sides_show_the_figures_of_one_application_once(dashboard: dict[str, Any]) -> None:
    for query in queries(dashboard):
        if "fcgi_app_" in query and " / " not in query:
            assert "max by (address, worker" in query, query


def test_queries_use_labels_that_exist(dashboard: dict[str, Any]) -> None:
    for query in queries(dashboard):
        for name, matchers in re.findall(r"\b(fcgi_[a-z_]+)\{([^}]*)\}", query):
            family = FAMILIES.get(name) or FAMILIES[re.sub(r"_(bucket|sum|count)$", "", name)]
            known = {*family.labels, *(["address", "worker"] if name.startswith("fcgi_app_") else [])}
            assert set(re.findall(r"(\w+)=", matchers)) <= known, query


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (script/setup test)")
def test_promtool_reads_the_queries(dashboard: dict[str, Any], tmp_path: Path) -> None:
    rules = []
    for number, query in enumerate(queries(dashboard)):
        for variable, text in VARIABLES.items():
            query = query.replace(variable, text)
        rules.append({"record": f"query_{number}", "expr": query})
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
