from __future__ import annotations

import copy
from typing import Any

from fcgi_cli.status import picture, plugin_rows, render
from fcgi_cli.units import amount, duration, seconds, size

HOST = {
    "server_name": "shop.example",
    "requests": 17,
    "in_flight": 2,
    "statuses": {"none": 0, "2xx": 16, "5xx": 1},
    "aborted": 0,
    "failed": 0,
    "bytes_in": 5,
    "bytes_out": 5000,
    "seconds": {"counts": [0, 0, 0], "total": 0.0},
}
SCTP = {
    "round_trip": 0.00021,
    "congestion_window": 4380,
    "retransmissions": None,
    "unacknowledged": 3,
    "queued": 100,
    "paths": [],
}
ASSOCIATION = {
    "identity": 1,
    "peer": "127.0.0.1:9000",
    "peer_name": "shop",
    "peer_instance": "aa",
    "age": 61.0,
    "requests": 2,
    "draining": False,
    "streams": 256,
    "streams_leased": 3,
    "shortages": {"asked": 0, "shared_feedback": 2},
    "feedback_waiting": 0,
    "content_waiting": 2048,
    "sctp": SCTP,
    "map": [
        {"stream": 2, "uses": [{"what": "metrics"}]},
        {"stream": 70, "uses": [{"what": "content", "request": "abc", "server_name": "shop.example"}]},
        {"stream": 71, "uses": [{"what": "syslog", "request": "abc", "server_name": "shop.example"}]},
        {"stream": 72, "uses": [{"what": "stderr", "request": "a"}, {"what": "stderr", "request": "b"}]},
    ],
}
CHANNEL = {
    "name": "syslog",
    "scope": "request",
    "priority": "ordinary",
    "sent": 12345,
    "received": 0,
    "dropped": 2,
    "streams": 1,
}
OUTPUT = {
    "name": "/var/log/shop",
    "state": "failing",
    "last_error": "disk full",
    "errors": 5,
    "written": 12345,
    "waiting": 17,
    "waiting_bytes": 10240,
    "lost": 3,
    "lost_bytes": 300,
    "cut": 0,
}
STATUS: dict[str, Any] = {
    "side": "web",
    "name": "host1",
    "version": "0.1.0",
    "pid": 7,
    "uptime": 3725.0,
    "requests": {"in_flight": 2, "waiting": 1, "ended": 99},
    "upstreams": [
        {"address": "a:1", "state": "up", "in_flight": 2, "requests": 5, "weight": 1.0, "last_error": ""},
        {"address": "b:1", "state": "down", "in_flight": 0, "requests": 0, "weight": 2.5, "last_error": "refused"},
        {"address": "c:1", "state": "out", "in_flight": 4, "requests": 9, "weight": 1.0, "last_error": "probes: late"},
        {"address": "d:1", "state": "drained", "in_flight": 1, "requests": 2, "weight": 1.0, "last_error": ""},
    ],
    "hosts": [HOST],
    "hosts_left_out": 0,
    "associations": [ASSOCIATION],
    "associations_left_out": 0,
    "plugins": [
        {
            "name": "syslog",
            "version": "1",
            "state": "running",
            "errors": 0,
            "hooks": {"calls": 1000, "seconds": 0.5, "slowest": 0.31, "slow": 2},
            "channels": [CHANNEL],
            "outputs": [OUTPUT, {**OUTPUT, "name": "udp h:514", "state": "idle", "last_error": "", "cut": 1}],
        },
        {
            "name": "metrics",
            "version": "2",
            "state": "off",
            "errors": 3,
            "hooks": {"calls": 0, "seconds": 0, "slowest": 0, "slow": 0},
            "channels": [],
        },
    ],
}


def test_all_of_it() -> None:
    assert (
        "\n".join(render(STATUS))
        == """\
web side host1, fcgi-sctp 0.1.0, process 7, up 1 h 2 min
  2 requests in flight, 1 waiting, 99 ended
  applications
    a:1  up       2 in flight  5 sent  weight 1
    b:1  DOWN     0 in flight  0 sent  weight 2.5  refused
    c:1  OUT      4 in flight  9 sent  weight 1    probes: late
    d:1  DRAINED  1 in flight  2 sent  weight 1
  virtual hosts, counted since the first query
    shop.example  17 requests  2 in flight  4.9 KiB sent  2xx 16  5xx 1
  association 1 with shop at 127.0.0.1:9000, up 1 min 1 s
    round trip 0.21 ms, congestion window 4.3 KiB, unacknowledged chunks 3
    waiting: content 2.0 KiB, feedback 0 B, in SCTP 100 B
    256 streams, 3 leased; too few: shared feedback 2
        0 -!a.............................................................
       64 ......cb2.......................................................
      128 to 255 are free
          ! control, - security, a metrics, c content, b syslog, . free, 2 to + shared
      2   metrics
      70  content  shop.example  abc
      71  syslog   shop.example  abc
      72  stderr   a
      72  stderr   b
  plugins
    syslog 1           running            0 errors       500 us a hook          2 slow, the slowest 0.31 s
      syslog           request, ordinary  1 streams      sent 12.3k             received 0                  dropped 2
      > /var/log/shop  failing            written 12.3k  waiting 17 (10.0 KiB)  lost 3 (300 B)              \
5 errors, disk full
      > udp h:514      idle               written 12.3k  waiting 17 (10.0 KiB)  lost 3 (300 B)              \
5 errors, 1 cut
    metrics 2          off                3 errors"""
    )


def test_remote_text_is_harmless() -> None:
    evil = "\x1b]0;pwned\x07\n\u202e"

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(one) for key, one in value.items()}
        if isinstance(value, list):
            return [poison(one) for one in value]
        return evil if isinstance(value, str) and value not in ("running", "web") else value

    text = "\n".join(render(poison(copy.deepcopy(STATUS)), everything=True))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text.splitlines()) == len(list(render(STATUS, everything=True)))


def test_many_streams_are_listed_only_with_all() -> None:
    status = copy.deepcopy(STATUS)
    uses = [{"stream": number, "uses": [{"what": "content", "request": f"r{number}"}]} for number in range(2, 102)]
    status["associations"][0]["map"] = uses
    lines = list(render(status))
    assert "      and 76 more; --all lists them" in lines
    assert len(list(render(status, everything=True))) == len(lines) + 75


def test_a_map_of_few_streams() -> None:
    assert next(picture(3, [])) == "    0 -!."


def test_more_channels_than_letters() -> None:
    uses = [{"stream": number, "uses": [{"what": f"channel{number}"}]} for number in range(2, 40)]
    first, *_, legend = picture(64, uses)
    assert first.count("?") == 38 - 23
    assert "? channel39" in legend


def test_units() -> None:
    assert [amount(value) for value in (0, 7.25, 99.96, 812, 12_400, 3_100_000)] == [
        "0",
        "7.2",
        "100",
        "812",
        "12.4k",
        "3.1M",
    ]
    assert [size(value) for value in (0, 1023, 4096, 5e6, 3e9, 2e13)] == [
        "0 B",
        "1023 B",
        "4.0 KiB",
        "4.8 MiB",
        "2.8 GiB",
        "18.2 TiB",
    ]
    assert [seconds(value) for value in (None, 0.00021, 0.034, 1.2)] == ["-", "0.21 ms", "34 ms", "1.20 s"]
    assert [duration(value) for value in (7.9, 65, 3725, 790_000)] == ["7 s", "1 min 5 s", "1 h 2 min", "9 d 3 h"]


def test_a_plugin_that_disagrees_with_the_other_side_or_is_set_aside() -> None:
    plugin = {
        "name": "talk",
        "version": "3",
        "state": "disagrees",
        "errors": 0,
        "hooks": {"calls": 10, "seconds": 1, "slowest": 0, "slow": 0, "share": 0.12},
        "disagreements": [{"association": 1, "peer": "a:1", "here": "talk;request;ordinary", "there": ""}],
        "aside": [{"peer": "b:1", "seconds": 42.0}],
        "channels": [{**CHANNEL, "name": "talk", "waiting": 7}],
    }
    rows = list(plugin_rows(plugin))
    assert rows[0] == ("talk 3", "disagrees", "0 errors", "100000 us a hook", "12 % of the time")
    assert rows[1] == ("  ! a:1 declares other channels", "here talk;request;ordinary", "there nothing")
    assert rows[2] == ("  ! b:1", "set aside there", "for 42 s")
    assert rows[3][-2:] == ("dropped 2", "waiting 7")


def test_an_application_with_several_associations() -> None:
    first = {**STATUS["upstreams"][0], "associations": [1, 4, 5]}
    (line,) = (line for line in render({**STATUS, "upstreams": [first]}) if line.strip().startswith("a:1"))
    assert "2 in flight on 3 associations" in line


def test_requests_that_the_limit_ended() -> None:
    requests = {"in_flight": 2, "waiting": 0, "ended": 99, "over_limit": 3, "hanging": 1}
    lines = list(render({**STATUS, "side": "app", "requests": requests}))
    assert lines[2] == "  3 requests were ended by app.request_limit, 1 hang"
    lines = list(render({**STATUS, "side": "app", "requests": {**requests, "over_limit": 0}}))
    assert "request_limit" not in lines[2]


def test_applications_of_several_sites() -> None:
    web = copy.deepcopy(STATUS)
    (one,) = web["upstreams"][:1]
    web["upstreams"] = [{**one, "site": "shop"}, {**one, "site": "", "state": "down"}]
    figures = {"in_flight": 3, "waiting": 1, "ended": 9}
    web["sites"] = [{"name": "shop", **figures}, {"name": "", **figures}]
    web["unknown_site"] = 2
    lines = list(render(web))
    shop = lines.index("  site shop: 3 requests in flight, 1 waiting, 9 ended")
    rest = lines.index("  all other requests: 3 requests in flight, 1 waiting, 9 ended")
    assert (rest - shop, lines[shop + 1].split()[1], lines[rest + 1].split()[1]) == (2, "up", "DOWN")
    assert "  2 requests were for no site and got 421" in lines
