"""access on a simulated network."""

from __future__ import annotations

import json
from pathlib import Path

from fcgi_sctp_access import plugin

from fcgi_core.testing import PluginHarness, check_contract


def test_each_request_is_a_line(tmp_path: Path) -> None:
    log = tmp_path / "access.json"
    with PluginHarness(plugin(), {"file": str(log)}) as harness:
        request = harness.begin({"SERVER_NAME": "shop.example", "REQUEST_URI": "/\x1b[31m\n"})
        harness.run(0.5)
        harness.end(request, status=404, body=b"no")
        harness.run(1.5)
    (line,) = log.read_text().splitlines()
    entry = json.loads(line)
    assert entry["status"] == 404
    assert entry["server_name"] == "shop.example"
    assert entry["seconds"] >= 0.5
    assert entry["request"] == request.identity
    assert "\x1b" not in line


def test_quick_requests_can_be_left_out(tmp_path: Path) -> None:
    log = tmp_path / "access.json"
    with PluginHarness(plugin(), {"file": str(log), "slower_than": 10}) as harness:
        harness.end(harness.begin())
        harness.run(1)
    assert log.read_text() == ""


def test_options_change_while_running_for_all_or_for_one_host(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    hosts = {"shop.example": {"slower_than": 0}}
    with PluginHarness(plugin(), {"file": str(first), "slower_than": 10, "hosts": hosts}) as harness:
        for _ in range(2):
            for name in ("shop.example", "blog.example"):
                harness.end(harness.begin({"SERVER_NAME": name}))
            harness.run(1)
            assert harness.change({"access.file": str(second), "access.slower_than@blog.example": "0"}) == {}
        told = harness.change({"access.file@blog.example": str(first)})
        assert "same for all virtual hosts" in told["access.file@blog.example"]
    assert [json.loads(line)["server_name"] for line in first.read_text().splitlines()] == ["shop.example"]
    names = [json.loads(line)["server_name"] for line in second.read_text().splitlines()]
    assert names == ["shop.example", "blog.example"]


def test_it_keeps_the_contract_of_plugins(tmp_path: Path) -> None:
    check_contract(plugin(), {"file": str(tmp_path / "access.json")})
