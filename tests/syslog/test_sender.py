"""Lines on their way from an application: gathered, divided by association and severity, bounded."""

from __future__ import annotations

import logging
import logging.config
from pathlib import Path
from typing import Any

import pytest
from fcgi_syslog import batch, sender

from fcgi_core.plugin import AssociationInfo, bound_to_request
from tests.syslog.items import MakeHalf, ask, messages_in, texts


@pytest.mark.parametrize("spool", [False, True])
def test_a_line_logged_while_a_line_is_sent_goes_once(
    make: MakeHalf, host: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, spool: bool
) -> None:
    half = make(**({"delivery": "acknowledged", "spool": str(tmp_path)} if spool else {}))
    host.on_send = lambda: logging.getLogger("carrier").error("cannot send")
    logging.error("one")
    assert texts(host) == ["one", "cannot send"], "and not what sending that made them say"
    half.tick()
    assert "1 lines could not be sent (1 since the start)" in caplog.text
    assert host.gathering.lost == 1


def test_failures_are_reported_once(make: MakeHalf, host: Any, caplog: pytest.LogCaptureFixture) -> None:
    half = make()

    def fail() -> None:
        raise OSError("no")

    host.on_send = fail
    logging.error("one")
    logging.error("two")
    half.tick()
    half.tick()
    reports = [record.getMessage() for record in caplog.records if record.name == host.log.name]
    assert reports == ["2 lines could not be sent (2 since the start)"]


def test_acknowledged_lines_travel_with_the_association(make: MakeHalf, host: Any, make_request: Any) -> None:
    make(delivery="acknowledged")
    ask(make_request(), logging.ERROR, logging.CRITICAL)
    assert [(sent.channel, messages_in(sent.item)[0].text) for sent in host.sent] == [
        ("syslog", "shop.example: text 40"),
        ("syslog.urgent", "shop.example: text 50"),
    ]


def test_lines_wait_for_the_loop_and_go_together(make: MakeHalf, host: Any) -> None:
    make(scope="association")
    host.gathering.waits = True
    for number in range(1000):
        logging.error("line %d %s", number, "x" * 200)
    assert host.sent == []
    host.gathering.fetch()
    assert 5 < len(host.sent) < 20
    assert texts(host) == [f"line {number} {'x' * 200}" for number in range(1000)]
    host.gathering.fetch()
    assert len(texts(host)) == 1000


def test_a_crowded_channel_gets_items_of_one_severity(make: MakeHalf, host: Any) -> None:
    make(scope="association")
    host.gathering.waits = True
    for number in range(100):
        logging.log(logging.ERROR if number % 2 else logging.WARNING, "%d", number)
    host.gathering.crowded = True
    host.gathering.fetch()
    assert [(sent.urgency, {message.severity for message in messages_in(sent.item)}) for sent in host.sent] == [
        (3, {3}),
        (4, {4}),
    ]
    host.gathering.crowded = False
    logging.warning("least")
    logging.error("most")
    host.gathering.fetch()
    assert host.sent[2].urgency == 3
    assert texts(host)[100:] == ["least", "most"]


@pytest.mark.parametrize("scope", ["request", "association"])
def test_each_web_server_gets_the_lines_of_its_requests(
    make: MakeHalf, host: Any, make_request: Any, scope: str
) -> None:
    make(scope=scope)
    host.gathering.waits = True
    associations = [AssociationInfo(number, "peer", "", f"web {number}") for number in range(2)]
    requests = [make_request(identity=f"r{one.identity}", association=one, number=7) for one in associations]
    host.by_request = dict(zip(requests, associations, strict=True))
    for _ in range(2):
        for request in requests:
            with bound_to_request(request):
                logging.error("text")
    host.gathering.fetch()
    assert [(sent.association.identity, len(messages_in(sent.item))) for sent in host.sent] == [(0, 2), (1, 2)]
    named = {number for sent in host.sent for number in batch.decode(sent.item).requests}
    assert named == ({7} if scope == "request" else {0})


def test_waiting_lines_are_bounded_in_number_and_bytes(
    make: MakeHalf, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "KEPT_LINES", 10)
    monkeypatch.setattr(sender, "KEPT_LONG", 5000)
    monkeypatch.setattr(sender, "MANY", 5)
    make(scope="association")
    host.gathering.waits = True
    for _ in range(20):
        logging.error("text")
    assert host.gathering.lost == 10
    host.gathering.fetch()
    assert len(texts(host)) == 10
    for _ in range(4):
        logging.error("x" * 2000)
    assert host.gathering.lost == 12
    host.gathering.fetch()
    assert len(texts(host)) == 12
