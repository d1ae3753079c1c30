"""Channels that come and go while an association lives: SETTINGS that come again, on both sides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcgi_core.errors import LocalProtocolError
from fcgi_core.protocol.channels import ASIDE, MAX_CHANNELS, Channel, Direction, Priority, Scope
from fcgi_core.protocol.connection import Connection
from fcgi_core.protocol.events import ConnectionFailed, FeedbackReceived, PeerChanged
from fcgi_core.protocol.records import RecordType
from fcgi_core.protocol.settings import Settings
from tests.protocol.helpers import ROOM, Pair, cut, settings_message

LOG = Channel("log")
COUNTED = replace(LOG, counted=True)
MORE = Channel("more", Scope.REQUEST)
DOWN = Channel("down", direction=Direction.TO_APPLICATION)


def received(events: list[Any]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, FeedbackReceived)]


def test_a_channel_that_both_sides_add_carries_items() -> None:
    pair = Pair(channels=(LOG,))
    for side in (pair.app, pair.web):
        side.set_channels((LOG, MORE, DOWN))
    assert not pair.app.takes("more"), "nobody knows yet whether the web side has heard of its number"
    pair.run()
    assert pair.app.takes("more")
    assert pair.web.takes("down")
    request = pair.web.begin_request(b"", body=b"")
    pair.run()
    (key,) = pair.app.requests
    assert pair.app.send_feedback("more", b"of a request", pair.app.requests[key])
    assert pair.app.send_feedback("log", b"as before")
    assert pair.web.send_feedback("down", b"down")
    pair.run()
    assert sorted(received(pair.take_web())) == [b"as before", b"of a request"]
    assert received(pair.take_app()) == [b"down"]
    assert request.key == key


def test_one_side_alone_changes_nothing_for_the_other() -> None:
    pair = Pair(channels=(LOG,))
    pair.app.set_channels((LOG, MORE))
    pair.run()
    assert not pair.app.takes("more")
    assert pair.app.takes("log")
    assert not pair.app.set_channels((LOG, MORE))
    assert not pair.app.waiting(), "what is as it was is not said again"


def test_settings_are_answered_once() -> None:
    pair = Pair(channels=(LOG,))
    pair.app.set_channels(())
    (said,) = cut(*pair.app.take(ROOM))
    events = pair.web.receive([settings_message(Settings.decode(said.content))], 0.0)
    assert events == [PeerChanged()]
    (answer,) = cut(*pair.web.take(ROOM))
    assert answer.type == RecordType.SETTINGS
    assert Settings.decode(answer.content).seen == 1
    assert pair.app.receive([settings_message(Settings.decode(answer.content))], 0.0) == [PeerChanged()]
    assert not pair.app.waiting()


def test_what_is_under_way_when_a_channel_goes_is_counted() -> None:
    pair = Pair(channels=(LOG,))
    assert pair.app.send_feedback("log", b"under way")
    under_way = pair.app.take(ROOM)
    pair.web.set_channels(())
    assert received(pair.web.receive(under_way, 0.0)) == [], "the peer could not know"
    assert pair.web.feedback.figures["log"].dropped == {7: 1}
    pair.run()
    assert not pair.app.takes("log")
    assert not pair.app.send_feedback("log", b"too late")


def test_what_waits_on_a_channel_that_is_withdrawn_still_goes() -> None:
    pair = Pair(channels=(LOG,))
    assert pair.app.send_feedback("log", b"the last words")
    pair.app.set_channels(())
    with pytest.raises(LocalProtocolError, match="not declared"):
        pair.app.send_feedback("log", b"x")
    pair.run()
    assert received(pair.take_web()) == [b"the last words"]


def test_a_channel_of_another_kind_has_another_number() -> None:
    """Items of the old kind are never read as ones of the new."""
    pair = Pair(channels=(LOG,))
    pair.app.send_feedback("log", b"\xff\xff\xff\xff of the old kind")
    old = pair.app.take(ROOM)
    pair.web.set_channels((COUNTED,))
    pair.run()
    assert not pair.app.takes("log"), "the sides do not mean the same by it"
    assert received(pair.web.receive(old, 0.0)) == []
    pair.app.set_channels((COUNTED,))
    pair.run()
    assert pair.app.takes("log")
    pair.app.send_feedback("log", b"\0\0\0\5 of the new kind")
    pair.run()
    assert received(pair.take_web()) == [b"\0\0\0\5 of the new kind"]
    assert pair.web.feedback.figures["log"].received == 5
    assert pair.app.current_settings().channels == (
        "log;association;ordinary;withdrawn",
        "log;association;ordinary;counted",
    )
    for side in (pair.app, pair.web):
        side.set_channels((LOG,))
    pair.run()
    assert len(pair.app.current_settings().channels) == 2, "it gets its old number back"
    assert pair.app.takes("log")
    pair.app.send_feedback("log", b"of the old kind again")
    pair.run()
    assert received(pair.take_web()) == [b"of the old kind again"]


def test_priorities_may_differ() -> None:
    pair = Pair(channels=(LOG,))
    pair.app.set_channels((replace(LOG, priority=Priority.URGENT),))
    pair.run()
    assert pair.app.takes("log"), "it is the sender's matter"
    assert pair.app.send_feedback("log", b"urgent")
    pair.run()
    assert received(pair.take_web()) == [b"urgent"]


def test_numbers_are_bounded() -> None:
    pair = Pair()
    for number in range(MAX_CHANNELS):
        pair.app.set_channels((Channel(f"c{number}"),))
    with pytest.raises(LocalProtocolError, match="more than 96 channels"):
        pair.app.set_channels((Channel("one-more"),))
    assert pair.app.send_feedback("c95", b"x") is pair.app.takes("c95")
    pair.app.set_channels((Channel("c7"),))
    pair.run()
    assert pair.web.peer_settings is not None
    assert len(pair.web.peer_settings.channels) == MAX_CHANNELS
    assert not any(isinstance(event, ConnectionFailed) for event in pair.web_events + pair.app_events)


def test_changed_before_it_is_open() -> None:
    pair = Pair()
    fresh = type(pair.app)(channels=(LOG,))
    fresh.set_channels((MORE,))
    fresh.open(8, 0.0)
    (said,) = cut(*fresh.take(ROOM))
    assert Settings.decode(said.content).channels == ("log;association;ordinary;withdrawn", "more;request;ordinary")
    assert Settings.decode(said.content).serial == 0


@pytest.mark.parametrize(
    "wrong",
    [
        Settings(serial=2, seen=1),  # we have said but 0
        Settings(serial=0),  # behind
        Settings(serial=1),  # the same once more
    ],
)
def test_settings_that_do_not_follow(wrong: Settings) -> None:
    pair = Pair(channels=(LOG,))
    assert pair.web.receive([settings_message(Settings(serial=1))], 0.0) == [PeerChanged()]
    (event,) = pair.web.receive([settings_message(wrong)], 0.0)
    assert isinstance(event, ConnectionFailed)
    assert "SETTINGS" in str(event.error)


def test_a_flood_of_settings_is_given_up() -> None:
    pair = Pair()
    failed = False
    for serial in range(1, 20_000):
        events = pair.web.receive([settings_message(Settings(serial=serial))], 0.0)
        if failed := isinstance(events[-1], ConnectionFailed):
            break
    assert failed


EVERY = (LOG, COUNTED, MORE, DOWN, Channel("sure", acknowledged=True), Channel("sure"))


def one_of_a_name(channels: list[Channel]) -> tuple[Channel, ...]:
    return tuple({channel.name: channel for channel in channels}.values())


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.sampled_from(EVERY), max_size=4).map(one_of_a_name), st.integers(0, 2)),
        max_size=12,
    )
)
def test_whatever_the_sides_change_they_agree_in_the_end(
    changes: list[tuple[bool, tuple[Channel, ...], int]],
) -> None:
    """`steps`: how much travels before the next change. Items are read as what they were sent as, or not at all."""
    pair = Pair(channels=(LOG, DOWN))
    declared: dict[Connection, tuple[Channel, ...]] = {pair.web: (LOG, DOWN), pair.app: (LOG, DOWN)}
    for on_web, channels, steps in changes:
        side = pair.web if on_web else pair.app
        side.set_channels(channels)
        declared[side] = channels
        for connection in (pair.web, pair.app):
            for channel in declared[connection]:
                if channel.direction is connection.sends and channel.scope is Scope.ASSOCIATION:
                    prefix = (b"\0\0\0\7" if channel.counted else b"") + (b"number.." if channel.acknowledged else b"")
                    connection.send_feedback(channel.name, prefix + channel.describe().encode())
        for _ in range(steps):
            to_app = pair.web.take(ROOM)
            pair.app_events += pair.app.receive(to_app, 0.0)
            if steps == 2:
                pair.web_events += pair.web.receive(pair.app.take(ROOM), 0.0)
    pair.run()
    for events in (pair.take_web(), pair.take_app()):
        for event in events:
            assert not isinstance(event, ConnectionFailed), event
            if isinstance(event, FeedbackReceived):
                assert event.data.decode("latin-1").lstrip("\0\7").removeprefix("number..").startswith(event.channel)
    for sender, receiver in ((pair.web, pair.app), (pair.app, pair.web)):
        for channel in declared[sender]:
            if channel.direction is sender.sends:
                assert sender.takes(channel.name) is (channel in declared[receiver])


@pytest.mark.parametrize("acknowledged", [False, True])
def test_events_of_an_item_in_parts_that_is_left_out_are_counted(acknowledged: bool) -> None:
    channel = replace(COUNTED, acknowledged=acknowledged)
    pair = Pair(channels=(channel,))
    number = bytes(8) if acknowledged else b""
    assert pair.app.send_feedback("log", number + (300).to_bytes(4, "big") + bytes(100_000))
    under_way = pair.app.take(ROOM)
    assert len(under_way) > 5
    pair.web.set_channels(())
    assert received(pair.web.receive(under_way, 0.0)) == []
    assert pair.app.feedback.figures["log"].sent == 300
    assert pair.web.feedback.figures["log"].dropped == {7: 300}
    assert not pair.web.feedback._parts


def test_one_whose_plugin_is_set_aside_is_known_and_not_taken() -> None:
    pair = Pair(channels=(LOG, DOWN))
    pair.web.set_channels((LOG, DOWN), aside={"log"})
    pair.run()
    assert not pair.app.takes("log")
    assert pair.web.takes("down")
    assert pair.app.peer_settings is not None
    assert pair.app.peer_settings.accepts == (LOG.describe() + ASIDE,)
    pair.web.set_channels((LOG, DOWN))
    pair.run()
    assert pair.app.takes("log")
    assert pair.app.send_feedback("log", b"again")
    pair.run()
    assert received(pair.take_web()) == [b"again"]


def test_what_is_refused_counts_as_dropped_and_not_as_received() -> None:
    pair = Pair(channels=(COUNTED,))
    item = (7).to_bytes(4, "big") + b"x"
    for _ in range(2):
        pair.app.send_feedback("log", item)
    pair.run()
    pair.web.feedback.refuse("log", item)
    figures = pair.web.feedback.figures["log"]
    assert (figures.received, figures.received_bytes, figures.dropped) == (7, 5, {7: 7})
