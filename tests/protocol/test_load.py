"""LOAD, and requests that are counted over several associations."""

from __future__ import annotations

import pytest

from fcgi_core.protocol.events import ConnectionFailed, PeerLoad, RequestEnded, RequestReceived
from fcgi_core.protocol.records import ProtocolStatus, RecordType, encode_pairs
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.web import WebConnection
from tests.protocol.helpers import Pair, control, message, of, one, ready

PARAMS = encode_pairs({"REQUEST_METHOD": "GET"})


def test_what_waits_at_the_application_is_told() -> None:
    pair = Pair()
    pair.app.send_load(3_000_000_000_000, 14_600, 0.1234567)
    pair.run()
    assert pair.web_events == [PeerLoad(3_000_000_000_000, 14_600, 0.123456)]


@pytest.mark.parametrize("content", [b"", bytes(23), bytes(25)])
def test_a_load_of_another_length_breaks_the_protocol(content: bytes) -> None:
    web = ready(WebConnection())
    error = one(web.receive([control(RecordType.LOAD, content)], 0.0), ConnectionFailed).error
    assert "LOAD of" in str(error)


def test_a_load_off_stream_1_breaks_the_protocol() -> None:
    web = ready(WebConnection())
    assert of(web.receive([message(RecordType.LOAD, 0, bytes(24))], 0.0), ConnectionFailed)


def test_the_requests_of_all_associations_count() -> None:
    first, second = (Pair(app=Settings(max_requests=2)) for _ in range(2))
    for one_, other in ((first, second), (second, first)):
        one_.web.siblings = (other.web,)
        one_.app.siblings = (other.app,)
    first.web.begin_request(PARAMS, body=b"")
    assert (first.web.capacity, second.web.capacity) == (1, 1)
    second.web.begin_request(PARAMS, body=b"")
    assert (first.web.capacity, second.web.capacity) == (0, 0)
    # a web side that counts wrongly
    first.web.siblings = ()
    extra = first.web.begin_request(PARAMS, body=b"")
    second.run()
    first.run()
    assert len(of(second.app_events, RequestReceived)) == 1
    assert len(of(first.app_events, RequestReceived)) == 1
    assert one(first.web_events, RequestEnded) == RequestEnded(extra, 0, ProtocolStatus.OVERLOADED)


def test_an_association_that_is_gone_does_not_count() -> None:
    first, second = Pair(app=Settings(max_requests=1)), Pair(app=Settings(max_requests=1))
    first.web.siblings = (second.web,)
    second.web.siblings = (first.web,)
    second.web.close()
    assert not second.web.siblings
    assert second.web.count_requests() == 0
