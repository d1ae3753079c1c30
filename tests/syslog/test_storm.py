"""Storm control."""

from __future__ import annotations

import pytest
from fcgi_syslog import storm
from fcgi_syslog.options import SyslogOptions
from fcgi_syslog.rules import Rules
from fcgi_syslog.storm import StormControl


def rules(rate: int, burst: int) -> Rules:
    return Rules(SyslogOptions(rate=rate, burst=burst))


def test_a_burst_goes_and_the_rest_by_its_rate() -> None:
    storms = StormControl()
    assert [storms.allows("a", 3, rules(2, 3), 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert storms.allows("b", 3, rules(2, 3), 0.0), "each host has a separate rate"
    assert [storms.allows("a", 3, rules(2, 3), 1.0) for _ in range(3)] == [True, True, False]
    assert storms.allows("a", 3, rules(2, 3), 0.5) is False, "a clock that goes back fills nothing"
    assert storms.allows("a", 2, rules(2, 3), 0.5), "crit always goes"
    assert storms.take_suppressed() == [("a", 4)]
    assert storms.take_suppressed() == []


def test_hosts_beyond_count_share_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "MOST_HOSTS", 2)
    storms = StormControl()
    assert [storms.allows(name, 3, rules(1, 1), 0.0) for name in "abcd"] == [True, True, True, False]
    assert storms.take_suppressed() == [("", 1)]
