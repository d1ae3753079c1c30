from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from fcgi_core.hosting.figures import ChannelLedger, association_figures, stream_map, streams_of
from fcgi_core.plugin import AssociationInfo
from fcgi_core.protocol.channels import Channel, Scope
from fcgi_core.sctp.statistics import AssociationStatistics
from tests.protocol.helpers import Pair

LINES = Channel("log", Scope.REQUEST)
BEATS = Channel("beat", Scope.ASSOCIATION)


@dataclass
class Context:
    identity: str
    server_name: str = "shop.example"
    params: dict[str, str] = field(default_factory=lambda: {"SERVER_NAME": "shop.example"})


@pytest.fixture
def pair() -> Pair:
    return Pair(channels=(LINES, BEATS))


def begin(pair: Pair, identity: str) -> Any:
    request = pair.web.begin_request(b"")
    request.context = Context(identity)
    pair.run()
    (received,) = [one for one in pair.app.requests.values() if one.context is None]
    received.context = Context(identity)
    return received


def info() -> AssociationInfo:
    return AssociationInfo(1, "192.0.2.1:9000", "shop", "aa")


def test_the_stream_map_shows_the_user_of_each_stream(pair: Pair) -> None:
    request = begin(pair, "abc")
    pair.app.send_feedback("beat", b"tick")
    pair.app.send_feedback("log", b"line", request)
    uses = stream_map(pair.app)
    by_what = {use["what"]: (stream, use) for stream, found in uses.items() for use in found}
    assert set(by_what) == {"content", "beat", "log"}
    assert len({stream for stream, _ in by_what.values()}) == 3
    assert by_what["beat"][1] == {"what": "beat"}
    assert by_what["log"][1] == {"what": "log", "request": "abc", "server_name": "shop.example"}
    assert streams_of(pair.app, "log") == streams_of(pair.app, "beat") == 1
    assert list(stream_map(pair.web)) == [2]


def test_a_request_that_is_not_sent_yet_has_its_number(pair: Pair) -> None:
    request = pair.web.begin_request(b"")
    (use,) = stream_map(pair.web)[2]
    assert use == {"what": "content", "request": f"{request.id}.{request.generation}"}


def test_a_shared_stream_shows_all_its_users() -> None:
    pair = Pair(channels=(LINES, BEATS), streams=3)
    for number in range(3):
        begin(pair, f"r{number}")
    assert [use["request"] for use in stream_map(pair.web)[2]] == ["r0", "r1", "r2"]


def test_a_stream_of_an_ended_request_is_draining(pair: Pair) -> None:
    request = begin(pair, "abc")
    pair.app.send_output(request, b"x" * 1000)
    pair.app.end_request(request)
    assert [use["what"] for found in stream_map(pair.app).values() for use in found] == ["draining"]
    pair.run()
    assert stream_map(pair.app) == {}


def test_totals_do_not_fall_with_an_association(pair: Pair) -> None:
    ledger = ChannelLedger()
    for _ in range(3):
        pair.app.send_feedback("beat", b"tick")
    pair.run()
    before = ledger.totals(BEATS, [pair.app], lost=2)
    assert (before.sent, before.sent_bytes, before.received, before.dropped) == (3, 12, 0, 2)
    assert ledger.totals(BEATS, [pair.web]).received == 3
    ledger.close(pair.app)
    assert ledger.totals(BEATS, [], lost=2) == before
    another = Pair(channels=(LINES, BEATS))
    another.app.send_feedback("beat", b"tick")
    another.run()
    assert ledger.totals(BEATS, [another.app]).sent == 4


def test_association_figures(pair: Pair) -> None:
    request = begin(pair, "abc")
    pair.app.send_feedback("beat", b"x" * 500)
    pair.app.send_output(request, b"y" * 300)
    told = AssociationStatistics(round_trip=0.5)
    driver: Any = SimpleNamespace(connection=pair.app, association=SimpleNamespace(statistics=lambda: told))
    figures = association_figures(info(), driver)
    assert (figures.requests, figures.streams, figures.streams_leased) == (1, 64, 1)
    assert figures.feedback_waiting == 500
    assert figures.content_waiting >= 300
    assert figures.statistics is told
    pair.run()
    driver.association = None
    figures = association_figures(info(), driver)
    assert (figures.feedback_waiting, figures.content_waiting) == (0, 0)
    assert figures.statistics == AssociationStatistics()


def test_content_beyond_the_window_counts_as_waiting(pair: Pair) -> None:
    request = begin(pair, "abc")
    window = request.send_window.available
    pair.app.send_output(request, b"y" * (window + 5000))
    pair.run()
    assert pair.app.content_waiting == 5000
