"""Credit and bodies, from both sides."""

from __future__ import annotations

from typing import Any

import pytest

from fcgi_core.protocol.events import (
    Event,
    InputReceived,
    OutputReceived,
    RequestFailed,
    RequestReceived,
    Writable,
)
from fcgi_core.protocol.records import (
    RecordType,
)
from fcgi_core.protocol.settings import Settings
from tests.protocol.helpers import (
    PARAMS,
    ROOM,
    Pair,
    cut,
    message,
    of,
    one,
)


def sending_sides(window: int) -> list[tuple[Pair, Any]]:
    """Both sides with a request whose body they may send, and the peer's window."""
    sides = []
    for receiver in ("app", "web"):
        pair = Pair(**{receiver: Settings(window=window)})  # type: ignore[arg-type]
        request = pair.web.begin_request(PARAMS)
        pair.run()
        received = one(pair.take_app(), RequestReceived).request
        sides.append((pair, request if receiver == "app" else received))
    return sides


def send(pair: Pair, request: Any, data: bytes) -> None:
    if request is pair.web.requests[request.key]:
        pair.web.send_input(request, data)
    else:
        pair.app.send_output(request, data)


@pytest.mark.parametrize("which", [0, 1])
def test_a_body_waits_for_credit(which: int) -> None:
    pair, request = sending_sides(2000)[which]
    sender = (pair.web, pair.app)[which]
    receiver = (pair.app, pair.web)[which]

    def received() -> list[Event]:
        events = (pair.take_app, pair.take_web)[which]()
        return [event for event in events if isinstance(event, InputReceived | OutputReceived)]

    def own() -> list[Event]:
        return (pair.take_web, pair.take_app)[which]()

    body = bytes(range(256)) * 30
    send(pair, request, body[:1500])
    assert request.writable
    send(pair, request, body[1500:5000])
    send(pair, request, body[5000:])
    assert not request.writable
    assert sender.content_waiting >= len(body)
    pair.run()
    assert sender.content_waiting == len(body) - 2000
    got = b""
    for _ in range(20):
        for event in received():
            assert isinstance(event, InputReceived | OutputReceived)
            got += event.data
            receiver.consumed(event.request, len(event.data))
        assert len(got) - event.request.receive_window.consumed <= 2000
        assert request.send_window.sent <= request.send_window.limit
        if request.writable:
            break
        assert of(own(), Writable) == []
        pair.run()
    assert of(own(), Writable) == [Writable(request)]
    pair.run()
    got += b"".join(event.data for event in received())  # type: ignore[union-attr]
    assert got == body
    assert sender.requests


@pytest.mark.parametrize("which", [0, 1])
def test_credit_that_is_late_repeated_or_of_an_unknown_request_does_no_harm(which: int) -> None:
    pair, request = sending_sides(2000)[which]
    sender = (pair.web, pair.app)[which]
    for limit in (3000, 2500, 3000, 0):
        assert sender.receive([message(RecordType.CREDIT, request.id, limit.to_bytes(8, "big"))], 0.0) == []
    assert request.send_window.limit == 3000
    assert sender.receive([message(RecordType.CREDIT, 99, bytes(8))], 0.0) == []
    assert sender.receive([message(RecordType.CREDIT, 99, b"")], 0.0) == []
    assert sender.receive([message(RecordType.CREDIT, request.id, b"\xff" * 8)], 0.0) == []


@pytest.mark.parametrize("which", [0, 1])
def test_credit_of_the_wrong_size_ends_its_request(which: int) -> None:
    pair, request = sending_sides(2000)[which]
    sender = (pair.web, pair.app)[which]
    send(pair, request, bytes(5000))
    error = one(sender.receive([message(RecordType.CREDIT, request.id, b"1234567")], 0.0), RequestFailed).error
    assert error.request_key == request.key
    assert "CREDIT of 7 bytes" in str(error)
    assert not sender.failed
    assert not request.held


@pytest.mark.parametrize("which", [0, 1])
def test_credit_is_unordered_and_goes_first(which: int) -> None:
    pair, request = sending_sides(2000)[which]
    receiver = (pair.app, pair.web)[which]
    send(pair, request, bytes(2000))
    pair.run()
    theirs = receiver.requests[request.key]
    if receiver is pair.app:
        pair.app.send_output(theirs, bytes(10_000))
    else:
        pair.web.send_input(theirs, bytes(10_000))
    receiver.consumed(theirs, 999)
    receiver.consumed(theirs, 1)
    first, *_ = receiver.take(ROOM)
    assert first.unordered
    assert [(each.type, each.content) for each in cut(first)] == [(RecordType.CREDIT, (3000).to_bytes(8, "big"))]


@pytest.mark.parametrize("which", [0, 1])
def test_more_than_the_credit_ends_the_request(which: int) -> None:
    pair, request = sending_sides(2000)[which]
    receiver = (pair.app, pair.web)[which]
    kind = (RecordType.STDIN, RecordType.STDOUT)[which]
    events = receiver.receive([message(kind, request.id, bytes(2000)), message(kind, request.id, b"x")], 0.0)
    error = one(events, RequestFailed).error
    assert "goes to byte 2001, credit to 2000" in str(error)
    assert error.request_key == request.key
    assert not receiver.failed


def test_a_long_body_given_at_once_is_not_copied_with_each_credit() -> None:
    pair, request = sending_sides(2000)[1]
    body = bytes(100_000)
    pair.app.send_output(request, body)
    for number in range(1, 10):
        pair.app.receive([message(RecordType.CREDIT, 1, (number * 5000).to_bytes(8, "big"))], 0.0)
        ((kind, rest),) = request.held
        assert kind == RecordType.STDOUT
        assert isinstance(rest, memoryview)
        assert rest.obj is body
        assert len(rest) == len(body) - number * 5000


@pytest.mark.parametrize("which", [0, 1])
def test_parts_of_a_body_fill_messages(which: int) -> None:
    """A part of 32 KiB, as nginx sends them, leaves room in its last message: the next part begins there."""
    pair, request = sending_sides(1 << 20)[which]
    for _ in range(8):
        send(pair, request, bytes(32 << 10))
    sizes = [len(each.data) for each in (pair.web, pair.app)[which].take(ROOM)]
    assert set(sizes[:-1]) == {max(sizes)}
