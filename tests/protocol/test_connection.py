"""What both sides share: opening, control records, bad input, feedback, windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.streams.policies import POLICIES
from fcgi_core.common.bounded_queue import Budget
from fcgi_core.errors import LocalProtocolError, RemoteProtocolError
from fcgi_core.protocol import connection as module
from fcgi_core.protocol.application import ApplicationConnection
from fcgi_core.protocol.channels import MAX_CHANNELS, MAX_ITEM, Channel, Direction, Priority, Scope
from fcgi_core.protocol.connection import MAX_EARLY, SETTINGS_TIMEOUT, Connection
from fcgi_core.protocol.events import (
    ConfigAnswered,
    ConfigReceived,
    ConnectionFailed,
    Event,
    FeedbackReceived,
    InputReceived,
    ItemsAcknowledged,
    OutputReceived,
    PeerDraining,
    PeerError,
    PeerReady,
    RecordRefused,
    RequestEnded,
    RequestFailed,
    RequestReceived,
    Writable,
)
from fcgi_core.protocol.feedback import MAX_FEEDBACK_WAITING, MAX_UNFINISHED_BYTES, MAX_UNFINISHED_ITEMS, Feedback
from fcgi_core.protocol.records import (
    HEADER,
    HEADER_SIZE,
    MAX_CONTENT,
    PREFERRED_CONTENT,
    RecordType,
    Role,
    decode_pairs,
    encode_pairs,
    record,
)
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.streams import Policy
from fcgi_core.protocol.web import WebConnection
from fcgi_core.sctp.carrier import LARGE_MESSAGE, MESSAGE_SIZE, Message
from tests.protocol.helpers import ROOM, Pair, control, cut, message, of, one, ready, settings_message, together

CHANNELS = tuple(
    channel
    for direction in Direction
    for name in [direction.value.removeprefix("to-")]
    for channel in (
        Channel(f"{name}.request", Scope.REQUEST, direction),
        Channel(f"{name}.association", Scope.ASSOCIATION, direction, Priority.URGENT),
        Channel(f"{name}.loose", Scope.ASSOCIATION, direction, ordered=False, lifetime=3.0),
    )
)
PARAMS = encode_pairs({"SERVER_NAME": "example.org"})


def way(connection: Connection) -> str:
    """The beginning of the names of the channels that a connection sends on."""
    return "application" if isinstance(connection, WebConnection) else "web"


def other_way(connection: Connection) -> str:
    return "web" if isinstance(connection, WebConnection) else "application"


@pytest.fixture(params=[WebConnection, ApplicationConnection])
def fresh(request: pytest.FixtureRequest) -> Any:
    return request.param(channels=CHANNELS)


@pytest.fixture
def lone(fresh: Connection) -> Connection:
    """Open, with the SETTINGS of a peer that sends and takes every channel."""
    return ready(fresh, peer_of(fresh))


def peer_of(connection: Connection, **named: Any) -> Settings:
    sent = tuple(channel.describe() for channel in CHANNELS if channel.name.startswith(other_way(connection)))
    return Settings(channels=sent, accepts=tuple(channel.name for channel in connection.feedback.outgoing), **named)


def failure(connection: Connection, *messages: Message) -> RemoteProtocolError:
    """The error that ends the association when these messages come; it is told to both sides, once."""
    events = connection.receive(messages, 0.0)
    assert isinstance(events[-1], ConnectionFailed)
    error = one(events, ConnectionFailed).error
    assert connection.failed
    assert error.request_key is None
    (told,) = cut(*connection.take(ROOM))
    assert told.type == RecordType.ERROR
    assert told.content.decode() == str(error)[:1024]
    assert connection.receive([control(RecordType.DRAIN)], 0.0) == []
    assert connection.timer() is None
    return error


# ---- opening


def test_settings_go_first_and_say_what_the_plugins_declared(fresh: Connection) -> None:
    fresh.open(8, 100.0)
    (said,) = cut(*fresh.take(ROOM))
    assert (said.type, said.id) == (RecordType.SETTINGS, 0)
    settings = Settings.decode(said.content)
    assert [channel.partition(".")[0] for channel in settings.channels] == [way(fresh)] * 3
    assert {name.partition(".")[0] for name in settings.accepts} == {other_way(fresh)}
    assert fresh.timer() == 100.0 + SETTINGS_TIMEOUT


def test_the_peer_s_settings_make_it_ready(fresh: Connection) -> None:
    fresh.open(8, 0.0)
    settings = Settings(name="php", window=5000)
    assert fresh.receive([settings_message(settings)], 1.0) == [PeerReady(settings)]
    assert fresh.peer_settings == settings
    assert fresh.timer() is None
    assert fresh.handle_timer(1000.0) == []


@pytest.mark.parametrize(
    ("carried", "ours", "theirs", "size"),
    [
        (LARGE_MESSAGE, LARGE_MESSAGE, LARGE_MESSAGE, LARGE_MESSAGE),
        (MESSAGE_SIZE, LARGE_MESSAGE, LARGE_MESSAGE, MESSAGE_SIZE),
        (LARGE_MESSAGE, MESSAGE_SIZE, LARGE_MESSAGE, MESSAGE_SIZE),
        (LARGE_MESSAGE, LARGE_MESSAGE, MESSAGE_SIZE, MESSAGE_SIZE),
        (LARGE_MESSAGE, 1 << 20, 1 << 20, LARGE_MESSAGE),
    ],
)
def test_messages_are_as_large_as_the_association_and_both_sides_take(
    carried: int, ours: int, theirs: int, size: int
) -> None:
    web = WebConnection(Settings(max_message=ours))
    web.open(8, 0.0, carried)
    web.receive([settings_message(Settings(max_message=theirs))], 0.0)
    web.take(ROOM)
    web.begin_request(PARAMS, body=bytes(200_000))
    messages = web.take(ROOM)
    assert max(len(each.data) for each in messages) == size
    assert max(len(each.content) for each in cut(*messages)) == size - HEADER_SIZE


@pytest.mark.parametrize("streams", [0, 1, 2])
def test_too_few_streams(fresh: Connection, streams: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"accepts {streams} streams"):
        fresh.open(streams, 0.0)


def test_a_peer_without_settings_is_given_up(fresh: Connection) -> None:
    fresh.open(3, 5.0)
    fresh.take(ROOM)
    assert fresh.handle_timer(5.0 + SETTINGS_TIMEOUT - 0.01) == []
    error = one(fresh.handle_timer(5.0 + SETTINGS_TIMEOUT), ConnectionFailed).error
    assert "no SETTINGS within 10 s" in str(error)
    assert [each.type for each in cut(*fresh.take(ROOM))] == [RecordType.ERROR]
    assert fresh.timer() is None


def test_too_many_channels() -> None:
    channels = [Channel(f"c{number}") for number in range(MAX_CHANNELS + 1)]
    WebConnection(channels=channels)  # it takes them, that is no number
    ApplicationConnection(channels=channels[1:])
    with pytest.raises(LocalProtocolError, match="more than 96 channels"):
        ApplicationConnection(channels=channels)


def test_settings_larger_than_the_peer_s_messages_are_taken(fresh: Connection) -> None:
    made = type(fresh)(Settings(max_message=1024))
    made.open(3, 0.0)
    large = Settings(channels=tuple(f"channel-{number};request;ordinary" for number in range(MAX_CHANNELS)))
    assert len(large.encode()) > 1024
    assert one(made.receive([settings_message(large)], 0.0), PeerReady).settings == large


def test_settings_twice(lone: Connection) -> None:
    assert "SETTINGS came twice" in str(failure(lone, settings_message(Settings())))


def test_settings_that_are_wrong(fresh: Connection) -> None:
    fresh.open(3, 0.0)
    assert "FCGI_SCTP_VERSION is ''" in str(failure(fresh, control(RecordType.SETTINGS)))


# ---- messages that overtook SETTINGS


def test_early_messages_are_kept_and_taken_in_order(fresh: Connection) -> None:
    fresh.open(8, 0.0)
    early = [message(RecordType.FEEDBACK + 1, 0, item) for item in (b"one", b"two")]
    assert fresh.receive(early, 0.0) == []
    events = fresh.receive([settings_message(peer_of(fresh)), message(RecordType.FEEDBACK + 1, 0, b"three")], 0.0)
    assert isinstance(events[0], PeerReady)
    assert [event.data for event in of(events, FeedbackReceived)] == [b"one", b"two", b"three"]


def test_early_messages_that_are_wrong(fresh: Connection) -> None:
    fresh.open(8, 0.0)
    fresh.take(ROOM)
    fresh.receive([message(RecordType.SETTINGS, 0)], 0.0)
    assert "off stream 1" in str(failure(fresh, settings_message(Settings())))


@pytest.mark.parametrize("size", [9, 10_000])
def test_early_messages_are_bounded(fresh: Connection, size: int) -> None:
    fresh.open(8, 0.0)
    count = MAX_EARLY // (size + module.EARLY_OVERHEAD)
    data = Message(2, bytes(size))
    assert fresh.receive([data] * count, 0.0) == []
    fresh.take(ROOM)
    assert "before SETTINGS" in str(failure(fresh, data))


def test_the_document_names_the_bound_of_early_messages() -> None:
    document = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    assert f"messages that come too early are kept, up to {MAX_EARLY >> 20} MiB (`MAX_EARLY`" in document


# ---- bad messages


@pytest.mark.parametrize("ready_first", [True, False])
@pytest.mark.parametrize(("data", "hint"), [(b"\x01" * 8, "same security"), (b"GET / HTTP/1.1", "HTTP"), (b"", "same")])
def test_stream_0_is_silent(fresh: Connection, ready_first: bool, data: bytes, hint: str) -> None:
    fresh.open(8, 0.0)
    fresh.take(ROOM)
    if ready_first:
        fresh.receive([settings_message(Settings())], 0.0)
    error = failure(fresh, Message(0, data))
    assert error.stream == 0
    assert hint in str(error)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x01" * 7, "a message ends 7 bytes into a record's header of 8"),
        (record(RecordType.DRAIN, 0)[:3], "3 bytes into"),
        (record(RecordType.STDOUT, 1, b"abc")[:-1], "a record of 11 bytes is cut"),
        (HEADER.pack(1, 6, 1, 0, 4, 0) + b"abc", "a record of 12 bytes is cut"),
        (record(RecordType.FEEDBACK + 90, 0, b"a") + b"\x01", "1 bytes into"),
        (b"\x02" + bytes(7), "begins with byte 0x02"),
        (b"GET / HTTP/1.1\r\n\r\n", "the peer seems to speak HTTP"),
        (bytes(LARGE_MESSAGE + 1), "a message of 61441 bytes; at most 61440"),
    ],
)
def test_a_message_that_is_not_whole_records(lone: Connection, data: bytes, said: str) -> None:
    assert said in str(failure(lone, Message(2, data)))


def test_padding_is_passed_over(lone: Connection) -> None:
    padded = HEADER.pack(1, RecordType.FEEDBACK + 1, 0, 3, 5, 0) + b"abcxxxxx"
    events = lone.receive([Message(9, padded + record(RecordType.FEEDBACK + 1, 0, b"d"))], 0.0)
    assert [event.data for event in of(events, FeedbackReceived)] == [b"abc", b"d"]


@pytest.mark.parametrize(
    "kind", [RecordType.SETTINGS, RecordType.CONFIG, RecordType.CONFIG_RESULT, RecordType.DRAIN, RecordType.ERROR]
)
def test_control_records_off_stream_1(lone: Connection, kind: int) -> None:
    error = failure(lone, message(kind, 0, b"", stream=7))
    assert (error.stream, error.record_type) == (7, kind)


@pytest.mark.parametrize("kind", [*range(1, 9), RecordType.DRAIN])
def test_what_is_no_control_record_on_stream_1(lone: Connection, kind: int) -> None:
    error = failure(lone, control(kind, b"", request_id=3 if kind == RecordType.DRAIN else 0))
    assert (error.stream, error.record_type) == (1, kind)


@pytest.mark.parametrize("kind", [RecordType.GET_VALUES, 63, 64, 255])
def test_a_control_record_of_unknown_type_is_answered(lone: Connection, kind: int) -> None:
    error = one(lone.receive([control(kind, b"what?")], 0.0), RecordRefused).error
    assert error.record_type == kind
    (answer,) = cut(*lone.take(ROOM))
    assert (answer.type, answer.content) == (RecordType.UNKNOWN_TYPE, bytes([kind]) + bytes(7))


def test_unknown_type_is_not_answered(lone: Connection) -> None:
    one(lone.receive([control(RecordType.UNKNOWN_TYPE, bytes(8))], 0.0), RecordRefused)
    assert not lone.waiting()


@pytest.mark.parametrize("kind", [0, 12, 31, 40, 63, RecordType.GET_VALUES])
def test_an_unknown_type_for_no_known_request_is_left_out(lone: Connection, kind: int) -> None:
    error = one(lone.receive([message(kind, 7, b"x", generation=2)], 0.0), RecordRefused).error
    assert error.request_key == (7, 2)
    assert not lone.waiting()


def test_what_came_before_a_bad_message_still_counts(lone: Connection) -> None:
    good = message(RecordType.FEEDBACK + 1, 0, b"x")
    events = lone.receive([good, Message(0, b"x"), good], 0.0)
    assert [type(event) for event in events] == [FeedbackReceived, ConnectionFailed]


# ---- the other control records


def test_acknowledgements_name_the_channel_as_its_sender_numbered_it() -> None:
    pair = Pair(channels=CHANNELS)
    pair.web.acknowledge("web.loose", 1 << 60)
    pair.web.acknowledge("web.association", 3)
    pair.web.acknowledge("application.loose", 3)  # its own: nobody sends it on this channel
    pair.web.acknowledge("nobody", 3)
    pair.run()
    assert pair.take_app() == [ItemsAcknowledged("web.loose", 1 << 60), ItemsAcknowledged("web.association", 3)]


def test_an_acknowledgement_of_a_channel_that_is_not_there(lone: Connection) -> None:
    events = lone.receive([control(RecordType.ACK, bytes([3]) + bytes(15))], 0.0)
    assert "ACK of channel 3" in str(one(events, RecordRefused).error)
    assert "ACK of 15 bytes" in str(failure(lone, control(RecordType.ACK, bytes(15))))


def test_config_and_its_answer() -> None:
    pair = Pair()
    pair.web.send_config(7, {"level": "debug", "x": "y"})
    pair.run()
    event = one(pair.take_app(), ConfigReceived)
    assert event == ConfigReceived(7, {"level": "debug", "x": "y"})
    pair.app.answer_config(7, {"level": "", "x": "unknown"})
    pair.run()
    assert one(pair.take_web(), ConfigAnswered) == ConfigAnswered(7, {"level": "", "x": "unknown"})


def test_config_is_one_record(lone: Connection) -> None:
    with pytest.raises(LocalProtocolError, match="a record holds at most 65535"):
        lone.send_config(1, {"a": "b" * MAX_CONTENT})
    lone.send_config(1, {"a": "b" * 60_000})
    lone.answer_config(1, {f"{number:04}": "no such thing" for number in range(5000)})
    config, result = cut(*lone.take(ROOM))
    assert len(config.content) > 60_000
    pairs = decode_pairs(result.content)
    assert MAX_CONTENT - 30 < len(result.content) <= MAX_CONTENT
    assert pairs["FCGI_SCTP_ID"] == "1"
    assert "0000" in pairs


def test_associations_of_a_peer_hold_so_much_together_and_give_it_back() -> None:
    account = Budget(100_000)
    ends = [WebConnection(channels=CHANNELS), ApplicationConnection(channels=CHANNELS)]
    for end in ends:
        end.account = account
        end.open(64, 0.0)
        assert not of(end.receive([message(RecordType.STDIN, 1, bytes(40_000))], 0.0), ConnectionFailed)
    assert 80_000 < account.used <= 100_000
    last = ApplicationConnection(channels=CHANNELS)
    last.account = account
    last.open(64, 0.0)
    error = one(last.receive([message(RecordType.STDIN, 1, bytes(40_000))], 0.0), ConnectionFailed).error
    assert "the associations of this peer hold more than 100000 bytes" in str(error)
    last.close()
    ends[0].receive([settings_message(Settings())], 0.0)  # what came too early is of use now
    assert account.used < 60_000
    for end in ends:
        end.close()
    assert account.used == 0


def test_all_queues_of_an_association_are_bounded_together() -> None:
    """Whatever channels have each for itself, and however many requests there are."""
    lone = ready(WebConnection(channels=CHANNELS))
    lone.feedback.budget.limit = 10_000
    requests = [lone.begin_request(PARAMS) for _ in range(20)]
    for request in requests:
        lone.send_feedback("application.request", bytes(1000), request)
    assert lone.feedback_waiting <= 10_000
    assert lone.feedback.figures["application.request"].dropped == {6: 10}
    assert Feedback([], []).budget.limit == MAX_FEEDBACK_WAITING


def test_reasons_are_short_and_of_any_characters(lone: Connection) -> None:
    lone.answer_config(1, {"a": "\u2026" + "x" * 100_000, "b": ""})
    (result,) = cut(*lone.take(ROOM))
    pairs = decode_pairs(result.content)
    assert pairs == {"FCGI_SCTP_ID": "1", "a": "\\u2026" + "x" * (module.MAX_REASON - 1), "b": ""}


def test_questions_whose_answers_nobody_reads_have_an_end(lone: Connection) -> None:
    """Of SETTINGS, CONFIG and unknown records alike: what waits is bounded by the memory that it takes."""
    question = control(RecordType.CONFIG, encode_pairs({"FCGI_SCTP_ID": "1", "a.b": "c"}))
    for _ in range(200):
        events = lone.receive([question], 0.0)
        if lone.failed:
            break
        lone.answer_config(1, {f"{number:04}": "no" for number in range(3000)})
    assert lone.failed
    assert "answers wait to be read" in str(one(events, ConnectionFailed).error)


@pytest.mark.parametrize("kind", [RecordType.CONFIG, RecordType.CONFIG_RESULT])
@pytest.mark.parametrize(
    "content", [b"", *(encode_pairs({"FCGI_SCTP_ID": number}) for number in ("x", "-1", "9" * 5000, "\xb2")), b"\x05"]
)
def test_config_without_a_number(lone: Connection, kind: int, content: bytes) -> None:
    assert "FCGI_SCTP_ID" in str(failure(lone, control(kind, content)))


def test_drain_is_said_once() -> None:
    pair = Pair()
    pair.app.drain()
    pair.app.drain()
    pair.run()
    assert pair.take_web() == [PeerDraining()]
    assert pair.web.peer_draining
    pair.web.receive([control(RecordType.DRAIN)], 0.0)
    assert pair.take_web() == []


def test_the_peer_says_why_it_aborts(lone: Connection) -> None:
    events = lone.receive([control(RecordType.ERROR, b"no\xff" + b"x" * 2000)], 0.0)
    assert events == [PeerError("no\ufffd" + "x" * 1021)]
    assert not lone.failed


def test_fail_tells_the_peer_and_nothing_is_sent_after_it(lone: Connection) -> None:
    lone.drain()
    lone.fail("out of memory")
    lone.fail("again")
    lone.send_config(1, {})
    assert not lone.send_feedback(f"{way(lone)}.association", b"x")
    (said,) = cut(*lone.take(ROOM))
    assert (said.type, said.content) == (RecordType.ERROR, b"out of memory")
    assert not lone.waiting()
    assert lone.receive([control(RecordType.DRAIN)], 0.0) == []


# ---- feedback


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
    assert lone.feedback_waiting == (1 << 19) + 4
    lone.take(ROOM)
    assert lone.feedback.figures[channel].sent == 2
    assert lone.feedback_waiting == 0


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


# ---- credit and bodies, from both sides


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


def test_a_request_says_where_it_is() -> None:
    request = WebConnectionReady().begin_request(PARAMS)
    assert repr(request) == "<Request 1.0 STDIN/open>"
    assert request.params == {"SERVER_NAME": "example.org"}
    assert request.params is request.params


def WebConnectionReady() -> WebConnection:
    return ready(WebConnection())


def test_malformed_params_are_told_to_who_asks() -> None:
    request = WebConnectionReady().begin_request(b"\x05")
    with pytest.raises(ValueError, match="cut"):
        _ = request.params


# ---- whatever comes


kinds = st.one_of(st.integers(0, 255), st.sampled_from(list(RecordType)))
some_records = st.builds(
    record,
    kinds,
    st.integers(0, 4),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [bytes(8), b"", b"\x00\x01\x01" + bytes(5), b"\x00\x03\x00" + bytes(5), PARAMS, bytes(900), b"\xff" * 8]
        ),
    ),
    st.integers(0, 1),
)


def mutate(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for place, value in changes:
        if changed:
            changed[place % len(changed)] = value
    return bytes(changed)


some_messages = st.builds(
    lambda stream, records, changes: Message(stream, mutate(b"".join(records), changes)),
    st.sampled_from([1, 2, 2, 2, 3, 4]),
    st.lists(some_records, max_size=4),
    st.one_of(st.just([]), st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), max_size=2)),
)
SMALL = Settings(window=1024, max_message=1024, max_requests=6)


@pytest.mark.parametrize("side", [WebConnection, ApplicationConnection])
@given(messages=st.lists(some_messages, max_size=12), settings_first=st.booleans())
def test_whatever_comes_nothing_is_raised_and_other_requests_go_on(
    side: type[Connection], messages: list[Message], settings_first: bool
) -> None:
    pair = Pair(SMALL, SMALL, channels=CHANNELS, streams=4)
    if not settings_first:
        unready = side(SMALL, channels=CHANNELS)
        unready.open(4, 0.0)
        check_events(unready, unready.receive(messages, 0.0))
        unready.take(ROOM)
    # ids 1 to 3 are under way in several states, and the messages may hit them; the last one, id 5, is left alone
    requests = [
        pair.web.begin_request(PARAMS, body=b""),
        pair.web.begin_request(PARAMS),
        pair.web.begin_request(PARAMS, role=Role.FILTER),
        pair.web.begin_request(PARAMS),
        pair.web.begin_request(PARAMS, body=b"hello"),
    ]
    pair.run()
    begun = [event.request for event in of(pair.take_app(), RequestReceived)]
    untouched = requests[-1]
    pair.app.send_output(begun[0], b"x" * 2000)
    pair.app.end_request(begun[0])
    victim: Connection = pair.web if side is WebConnection else pair.app
    victim.take(ROOM)
    check_events(victim, victim.receive(messages, 0.0))
    for connection in (pair.web, pair.app):
        for request in connection.requests.values():
            assert request.send_window.sent <= request.send_window.limit
    if victim.failed:
        assert [each.type for each in cut(*victim.take(ROOM))] == [RecordType.ERROR]
        return
    pair.app.send_output(begun[-1], b"answer")
    pair.app.end_request(begun[-1], 3)
    pair.run()
    events = pair.take_web()
    if side is ApplicationConnection and pair.web.failed:
        return  # what the messages made the application answer
    assert [event.data for event in of(events, OutputReceived) if event.request is untouched] == [b"answer"]
    assert [event.app_status for event in of(events, RequestEnded) if event.request is untouched] == [3]


def check_events(connection: Connection, events: list[Event]) -> None:
    assert all(not isinstance(event, ConnectionFailed) for event in events[:-1])
    assert connection.failed is (bool(events) and isinstance(events[-1], ConnectionFailed))


def test_short_records_in_one_message(lone: Connection) -> None:
    records = [message(RecordType.FEEDBACK + 1, 0, bytes([number])) for number in range(1, 9)]
    events = lone.receive([together(*records)], 0.0)
    assert [event.data for event in of(events, FeedbackReceived)] == [bytes([number]) for number in range(1, 9)]
