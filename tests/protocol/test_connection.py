"""What both sides share: opening, control records, bad input, feedback, windows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.common.bounded_queue import Budget
from fcgi_core.errors import LocalProtocolError, RemoteProtocolError
from fcgi_core.protocol import connection as module
from fcgi_core.protocol.application import ApplicationConnection
from fcgi_core.protocol.channels import MAX_CHANNELS, Channel
from fcgi_core.protocol.connection import MAX_EARLY, SETTINGS_TIMEOUT, Connection
from fcgi_core.protocol.events import (
    ConfigAnswered,
    ConfigReceived,
    ConnectionFailed,
    Event,
    FeedbackReceived,
    ItemsAcknowledged,
    OutputReceived,
    PeerDraining,
    PeerError,
    PeerReady,
    RecordRefused,
    RequestEnded,
    RequestReceived,
)
from fcgi_core.protocol.feedback import MAX_FEEDBACK_WAITING, Feedback
from fcgi_core.protocol.records import (
    HEADER,
    HEADER_SIZE,
    MAX_CONTENT,
    RecordType,
    Role,
    decode_pairs,
    encode_pairs,
    record,
)
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.web import WebConnection
from fcgi_core.sctp.carrier import LARGE_MESSAGE, MESSAGE_SIZE, Message
from tests.protocol.helpers import (
    CHANNELS,
    PARAMS,
    ROOM,
    Pair,
    control,
    cut,
    failure,
    message,
    of,
    one,
    other_way,
    peer_of,
    ready,
    settings_message,
    together,
    way,
)

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
    pair.web.acknowledge("web.association", 3, 2)
    pair.web.acknowledge("application.loose", 3)  # its own: nobody sends it on this channel
    pair.web.acknowledge("nobody", 3)
    pair.run()
    assert pair.take_app() == [ItemsAcknowledged("web.loose", 1 << 60), ItemsAcknowledged("web.association", 3, 2)]


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
    assert lone.feedback.budget.used <= 10_000
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


kinds = st.one_of(
    st.integers(0, 255), st.sampled_from([kind for name, kind in vars(RecordType).items() if name.isupper()])
)
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
