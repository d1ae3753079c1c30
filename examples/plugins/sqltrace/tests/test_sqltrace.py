"""sqltrace on a simulated network."""

from __future__ import annotations

import json
from pathlib import Path

from fcgi_sctp_sqltrace import executed, plugin

from fcgi_core.testing import PluginHarness, check_contract


def traced(file: Path) -> list[tuple[str, str]]:
    """The statements in the file, each with its request."""
    parts = [json.loads(line) for line in file.read_text().splitlines()]
    return [(part["request"], line.split(" ", 1)[1]) for part in parts for line in part["sql"]]


def test_each_statement_is_in_the_file_and_slow_ones_in_the_feed(tmp_path: Path) -> None:
    file = tmp_path / "sql.json"
    with PluginHarness(plugin(), {"file": str(file)}, loss=0.1) as harness:
        requests = [harness.begin({"SERVER_NAME": f"host{number}.example"}) for number in range(3)]
        expected = []
        for number in range(3000):
            request = requests[number % 3]
            with harness.bound(request):
                executed(f"SELECT {number},\n\t'{'x' * 100}'", 0.5 if number == 1000 else 0.001)
            expected.append((request.identity, f"SELECT {number}, '{'x' * 100}'"))
        executed("SELECT 'outside of a request'", 9)
        for request in requests:
            harness.end(request)
        harness.run(30)
        figures = harness.figures("sqltrace")
    assert figures["dropped"] == 0
    assert sorted(traced(file)) == sorted(expected)
    (entry,) = harness.published
    assert entry.message.startswith("0.500000 SELECT 1000,")
    assert (entry.server_name, entry.request) == ("host1.example", requests[1].identity)


def test_a_slow_statement_does_not_wait_for_the_trace_before_it(tmp_path: Path) -> None:
    file = tmp_path / "sql.json"
    with PluginHarness(plugin(), {"file": str(file)}) as harness:
        request = harness.begin()
        with harness.bound(request):
            for number in range(500):
                executed(f"SELECT {number}, '{'x' * 5000}'", 0.001)
            executed("SELECT slow", 0.7)
        while not harness.published:
            harness.run(0.005)
        early = harness.figures("sqltrace")["received"]
        harness.run(20)
        assert harness.streams("sqltrace") == 2
        assert harness.figures("sqltrace")["received"] > 60
        assert early < 10, "most of the trace was sent before it and comes after it"
        harness.end(request)
        harness.run(1)


def test_it_keeps_the_contract_of_plugins(tmp_path: Path) -> None:
    check_contract(plugin(), {"file": str(tmp_path / "sql.json")})
