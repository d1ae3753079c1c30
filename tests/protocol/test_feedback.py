"""Feedback on a connection: scopes, queues, long items, and items that cannot be used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.streams.policies import POLICIES
from fcgi_core.errors import LocalProtocolError
from fcgi_core.protocol.channels import MAX_ITEM, Channel, Priority
from fcgi_core.protocol.connection import Connection
from fcgi_core.protocol.events import (
    ConnectionFailed,
    FeedbackReceived,
    RecordRefused,
    RequestReceived,
)
from fcgi_core.protocol.feedback import MAX_UNFINISHED_BYTES, MAX_UNFINISHED_ITEMS
from fcgi_core.protocol.records import (
    PREFERRED_CONTENT,
    RecordType,
)
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.streams import Policy
from tests.protocol.helpers import (
    CHANNELS,
    PARAMS,
    ROOM,
    Pair,
    cut,
    failure,
    message,
    of,
    one,
    other_way,
    peer_of,
    ready,
    settings_message,
    way,
)


def dropped(connection: Connection, channel: str) -> int:
    return sum(connection.feedback.figures[channel].dropped.values())


def test_feedback_of_both_scopes_and_directions() -> None:
    pair = Pair(channels=CHANNELS)
    request = pair.web.begin_request(PARAMS, body=b"")
    pair.run()
    received = one(pair.take_app(), RequestReceived).request
    assert pair.web.send_feedback("application.association", b"a")
    assert pair.web.send_feedback("application.request", b"b", request)
    assert pair.app.send_feedback("web.association", b"c")
    assert pair.app.send_feedback("web.request", b"d", received)
    assert pair.app.send_feedback("web.loose", b"e")
    pair.run()
    assert sorted((event.channel, event.request, event.data) for event in of(pair.take_app(), FeedbackReceived)) == [
        ("application.association", None, b"a"),
        ("application.request", received, b"b"),
    ]
    assert [(event.channel, event.request, event.data) for event in of(pair.take_web(), FeedbackReceived)] == [
        ("web.association", None, b"c"),  # urgent
        ("web.request", request, b"d"),
        ("web.loose", None, b"e"),
    ]
    sent, got = pair.app.feedback.figures["web.request"], pair.web.feedback.figures["web.request"]
    assert (sent.sent, sent.sent_bytes, got.received, got.received_bytes) == (1, 1, 1, 1)


def test_each_channel_travels_as_it_was_declared() -> None:
    pair = Pair(channels=CHANNELS)
    pair.web.begin_request(PARAMS, body=b"")
    pair.run()
    request = one(pair.take_app(), RequestReceived).request
    pair.app.send_feedback("web.association", b"c")
    pair.app.send_feedback("web.request", b"d", request)
    pair.app.send_feedback("web.loose", b"e")
    messages = pair.app.take(ROOM)
    assert [(each.unordered, each.lifetime) for each in messages] == [(False, None), (False, None), (True, 3.0)]
    assert len({each.stream for each in messages}) == 3
    assert dict(pair.app.pool.priorities)[messages[0].stream] == Priority.URGENT


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("size", [1, 8176, 8177, 16_384, 100_000, MAX_ITEM])
def test_a_long_item_arrives_whole(policy: Policy | None, size: int) -> None:
    channels = tuple(replace(channel, queue_bytes=2 << 20) for channel in CHANNELS)
    pair = Pair(channels=channels, policy=policy, streams=3)
    item = (b"0123456789abc" * (size // 13 + 1))[:size]
    pair.app.send_feedback("web.association", b"before")
    assert pair.app.send_feedback("web.association", item)
    pair.app.send_feedback("web.association", b"after")
    pair.run()
    assert [event.data for event in of(pair.take_web(), FeedbackReceived)] == [b"before", item, b"after"]
    assert pair.web.feedback.figures["web.association"].received == 3
    assert not pair.web.feedback._parts


def test_long_items_of_many_requests_at_once() -> None:
    pair = Pair(channels=CHANNELS, policy=POLICIES["per-type"])
    count = MAX_UNFINISHED_ITEMS + 50
    for _ in range(count):
        pair.web.begin_request(PARAMS, body=b"")
    pair.run()
    for event in of(pair.take_app(), RequestReceived):
        pair.app.send_feedback("web.request", bytes([event.request.id % 256]) * 40_000, event.request)
        pair.app.end_request(event.request)
        pair.app.send_feedback("web.request", bytes([event.request.id % 256]) * 40_000, event.request)
    pair.run()
    received = of(pair.take_web(), FeedbackReceived)
    assert len(received) == 2 * count
    assert all(event.data == bytes([event.request.id % 256]) * 40_000 for event in received if event.request)


def test_items_that_are_not_sent_are_counted(lone: Connection) -> None:
    name = way(lone)
    assert not lone.send_feedback(f"{name}.association", b"", urgency=3)
    assert not lone.send_feedback(f"{name}.association", bytes(MAX_ITEM + 1), urgency=3)
    assert not lone.send_feedback(f"{name}.loose", bytes(MAX_ITEM + 1))
    assert lone.send_feedback(f"{name}.loose", bytes(PREFERRED_CONTENT))
    assert lone.feedback.figures[f"{name}.association"].dropped == {3: 2}
    assert lone.feedback.figures[f"{name}.loose"].dropped == {6: 1}


def test_a_long_item_without_an_order_travels_in_order_and_short_ones_overtake_it() -> None:
    pair = Pair(channels=(Channel("loose", ordered=False),))
    for item in (b"a", b"b" * 40_000, b"c"):
        pair.app.send_feedback("loose", item)
    pair.run()
    assert [event.data for event in of(pair.take_web(), FeedbackReceived)] == [b"a", b"b" * 40_000, b"c"]
    pair.app.send_feedback("loose", b"b" * 40_000)
    parts = pair.app.take(ROOM)
    assert len(parts) > 2
    pair.app.send_feedback("loose", b"c")
    (short,) = pair.app.take(ROOM)
    assert [each.unordered for each in (*parts, short)] == [False] * len(parts) + [True]
    assert {each.stream for each in parts} == {short.stream}
    events = pair.web.receive([*parts[:-1], short, parts[-1]], 0.0)
    assert [event.data for event in of(events, FeedbackReceived)] == [b"c", b"b" * 40_000]


def test_an_item_can_name_a_request_of_another_association() -> None:
    pair = Pair(channels=CHANNELS)
    assert pair.app.send_feedback("web.request", b"an item", of=7 << 8)
    pair.run()
    assert of(pair.take_web(), FeedbackReceived) == [FeedbackReceived("web.request", None, b"an item", 7 << 8)]
    sent, got = pair.app.feedback.figures["web.request"], pair.web.feedback.figures["web.request"]
    assert (got.received, got.received_bytes) == (sent.sent, sent.sent_bytes)
    number = pair.app.feedback.number("web.request", True)
    events = pair.web.receive([message(RecordType.FEEDBACK + number, 0, bytes(8))], 0.0)
    assert "an item without its request" in str(one(events, ConnectionFailed).error)


def test_when_a_channel_is_full_the_least_urgent_are_dropped_and_counted(lone: Connection) -> None:
    channel = f"{way(lone)}.association"
    for _ in range(2):
        assert lone.send_feedback(channel, bytes(1 << 19), urgency=6)
    assert lone.send_feedback(channel, b"fire", urgency=0)
    assert lone.feedback.figures[channel].dropped == {6: 1}
    assert not lone.send_feedback(channel, bytes(1 << 19), urgency=6)
    assert lone.feedback.figures[channel].dropped == {6: 2}
    assert lone.feedback.figures[channel].sent == 0
    assert lone.feedback.budget.used == (1 << 19) + 4
    lone.take(ROOM)
    assert lone.feedback.figures[channel].sent == 2
    assert lone.feedback.budget.used == 0


def test_a_channel_that_the_peer_does_not_take(fresh: Connection) -> None:
    ready(fresh, Settings())
    channel = f"{way(fresh)}.association"
    assert not fresh.takes(channel)
    assert not fresh.send_feedback(channel, b"x")
    assert dropped(fresh, channel) == 1
    assert not fresh.waiting()


def test_feedback_before_the_peer_has_spoken(fresh: Connection) -> None:
    wanted, unwanted = f"{way(fresh)}.association", f"{way(fresh)}.loose"
    assert not fresh.send_feedback(wanted, b"x")  # not open: no stream is known
    fresh.open(8, 0.0)
    assert fresh.send_feedback(wanted, b"x" * 2000)
    assert fresh.send_feedback(unwanted, b"y")
    assert [each.type for each in cut(*fresh.take(ROOM))] == [RecordType.SETTINGS]
    fresh.receive([settings_message(Settings(accepts=(wanted,)))], 0.0)
    messages = fresh.take(ROOM)
    assert b"".join(each.content for each in cut(*messages)) == b"x" * 2000
    assert all(each.stream >= 2 for each in messages)
    assert (dropped(fresh, wanted), dropped(fresh, unwanted)) == (1, 1)


def test_a_channel_that_was_not_declared(lone: Connection) -> None:
    for channel in ("nobody", f"{other_way(lone)}.association"):
        with pytest.raises(LocalProtocolError, match="not declared"):
            lone.send_feedback(channel, b"x")


def test_the_wrong_scope() -> None:
    pair = Pair(channels=CHANNELS)
    request = pair.web.begin_request(PARAMS, body=b"")
    for channel, wrong in [("application.request", None), ("application.association", request)]:
        with pytest.raises(LocalProtocolError, match="scope is"):
            pair.web.send_feedback(channel, b"x", wrong)


def test_feedback_that_nobody_named_or_takes(lone: Connection) -> None:
    error = one(lone.receive([message(RecordType.FEEDBACK + 3, 5, b"x", 1)], 0.0), RecordRefused).error
    assert error.request_key == (5, 1)
    one(lone.receive([message(RecordType.FEEDBACK_MORE + 95, 0, b"x")], 0.0), RecordRefused)
    unwanted = ready(type(lone)(), peer_of(lone))
    assert unwanted.receive([message(RecordType.FEEDBACK, 5, b"x", 1)], 0.0) == []


def test_feedback_of_an_unknown_request_has_none(lone: Connection) -> None:
    event = one(lone.receive([message(RecordType.FEEDBACK, 5, b"x", 1)], 0.0), FeedbackReceived)
    assert event.request is None


def test_items_of_several_streams_and_requests_do_not_mix(lone: Connection) -> None:
    more, last = RecordType.FEEDBACK_MORE, RecordType.FEEDBACK
    events = lone.receive(
        [
            message(more, 1, b"a", stream=2),
            message(more, 2, b"b", stream=2),
            message(more + 1, 0, b"c", stream=2),
            message(more, 1, b"d", stream=3),
            message(more, 1, b"e", 1, stream=2),
            message(last, 9, b"z", stream=2),
            message(last, 2, b"B", stream=2),
            message(last, 1, b"D", stream=3),
            message(last, 1, b"A", stream=2),
            message(last, 1, b"E", 1, stream=2),
            message(last + 1, 0, b"", stream=2),
        ],
        0.0,
    )
    assert [event.data for event in of(events, FeedbackReceived)] == [b"z", b"bB", b"dD", b"aA", b"eE", b"c"]


def test_unfinished_items_are_bounded(lone: Connection) -> None:
    more = RecordType.FEEDBACK_MORE
    assert lone.receive([message(more, number, b"x") for number in range(MAX_UNFINISHED_ITEMS)], 0.0) == []
    assert "unfinished" in str(failure(lone, message(more, 1000, b"x")))


def test_unfinished_items_are_bounded_all_together(lone: Connection) -> None:
    part = bytes(1 << 13)
    for number in range(100):  # items that end give back what they took
        more = [message(RecordType.FEEDBACK_MORE, number, part)] * 64
        assert len(lone.receive([*more, message(RecordType.FEEDBACK, number, b"x")], 0.0)) == 1
    unfinished = [message(RecordType.FEEDBACK_MORE, number % 250, part) for number in range(MAX_UNFINISHED_BYTES >> 13)]
    assert lone.receive(unfinished, 0.0) == []
    assert lone.receive([message(RecordType.FEEDBACK, 0, b"x")], 0.0) != []
    assert lone.receive([message(RecordType.FEEDBACK_MORE, 0, bytes(8000))], 0.0) == []
    told = failure(lone, *[message(RecordType.FEEDBACK_MORE, number, part) for number in range(250)])
    assert "more than 16777216 bytes together" in str(told)


def test_an_item_of_too_many_bytes(lone: Connection) -> None:
    part = message(RecordType.FEEDBACK_MORE, 1, bytes(1 << 13))
    assert lone.receive([part] * (MAX_ITEM >> 13), 0.0) == []
    assert "longer than" in str(failure(lone, message(RecordType.FEEDBACK, 1, b"x")))
