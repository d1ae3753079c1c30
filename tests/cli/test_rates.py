from __future__ import annotations

import copy
from typing import Any

import pytest
from fcgi_cli.rates import quantile, view

BOUNDS = [0.1, 1.0]


def answer(uptime: float, ended: int, host: dict[str, Any], sent: int = 0) -> dict[str, Any]:
    return {
        "side": "web",
        "name": "host1",
        "pid": 7,
        "uptime": uptime,
        "bounds": BOUNDS,
        "requests": {"in_flight": 1, "waiting": 0, "ended": ended},
        "hosts": [host],
        "upstreams": [{"address": "a:1", "state": "up", "in_flight": 1, "requests": ended}],
        "associations": [
            {
                "identity": 1,
                "peer": "a:1",
                "peer_name": "shop",
                "requests": 1,
                "streams": 256,
                "streams_leased": 2,
                "shortages": {"asked": 1, "shared_content": 2},
                "content_waiting": 3,
                "feedback_waiting": 4,
                "sctp": {"round_trip": 0.5, "retransmissions": 6, "queued": 7},
            }
        ],
        "plugins": [
            {
                "name": "syslog",
                "state": "running",
                "errors": 0,
                "channels": [{"name": "syslog", "streams": 1, "dropped": 2, "sent": sent, "received": 0}],
            }
        ],
    }


def host(requests: int, counts: list[int], name: str = "shop.example") -> dict[str, Any]:
    return {
        "server_name": name,
        "requests": requests,
        "in_flight": 1,
        "statuses": {"2xx": requests - 1, "5xx": 1},
        "bytes_out": requests * 100,
        "failed": 0,
        "seconds": {"counts": counts, "total": 0.0},
    }


def test_rates() -> None:
    found = view(answer(10, 100, host(50, [50, 0, 0]), 5), answer(12, 120, host(60, [50, 10, 0]), 25))
    assert found["requests_per_second"] == 10
    (shop,) = found["hosts"]
    assert shop["requests_per_second"] == 5
    assert shop["bytes_per_second"] == 500
    assert shop["server_errors_per_second"] == 0
    assert shop["median"] == pytest.approx(0.55)
    assert found["upstreams"][0]["requests_per_second"] == 10
    assert found["plugins"][0]["sent_per_second"] == 10
    (association,) = found["associations"]
    assert (association["shortages"], association["waiting"], association["round_trip"]) == (3, 7, 0.5)


def test_a_host_that_is_new_counts_from_nothing() -> None:
    found = view(answer(10, 0, host(5, [5, 0, 0], "old.example")), answer(11, 3, host(3, [3, 0, 0])))
    assert found["hosts"][0]["requests_per_second"] == 3


def test_an_application_that_leaves_and_is_back() -> None:
    before, now = answer(10, 100, host(1, [1, 0, 0])), answer(12, 120, host(1, [1, 0, 0]))
    before["upstreams"].append({"address": "a:1", "state": "leaving", "in_flight": 1, "requests": 5000})
    now["upstreams"].append({"address": "a:1", "state": "leaving", "in_flight": 1, "requests": 5000})
    assert [one["requests_per_second"] for one in view(before, now)["upstreams"]] == [10.0, 0.0]


def test_the_first_view_has_no_rates() -> None:
    found = view(None, answer(10, 100, host(50, [50, 0, 0])))
    assert found["requests_per_second"] is None
    assert found["hosts"][0]["requests_per_second"] is None
    assert found["hosts"][0]["median"] == pytest.approx(0.05)


def test_after_a_restart() -> None:
    before = answer(1000, 100, host(50, [50, 0, 0]))
    after = copy.deepcopy(before)
    after.update(uptime=1)
    assert view(before, after)["requests_per_second"] is None


@pytest.mark.parametrize(
    ("which", "counts", "value"),
    [
        (0.5, [0, 0, 0], None),
        (0.5, [10, 0, 0], 0.05),
        (0.99, [98, 2, 0], 0.55),
        (0.5, [0, 0, 4], 1.0),
        (1.0, [1, 0, 0], 0.1),
    ],
)
def test_quantile(which: float, counts: list[int], value: float | None) -> None:
    found = quantile(which, counts, BOUNDS)
    assert found == (None if value is None else pytest.approx(value))
