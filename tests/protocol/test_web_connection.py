from __future__ import annotations

import pytest

from fcgi_core.errors import RequestRefused
from fcgi_core.protocol import web as web_connection
from fcgi_core.protocol.channels import Channel, Direction, Scope
from fcgi_core.protocol.events import (
    Event,
    FeedbackReceived,
    OutputReceived,
    RecordRefused,
    RequestEnded,
    RequestFailed,
    RequestReceived,
    StderrReceived,
    Writable,
)
from fcgi_core.protocol.records import ProtocolStatus, RecordType, Role, encode_pairs, end_request
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.states import Input, Output
from fcgi_core.protocol.web import REMEMBER_FOR, REMEMBERED, WebConnection
from fcgi_core.sctp.carrier import Message
from tests.protocol.helpers import ROOM, Cut, Pair, control, cut, message, one, ready

PARAMS = encode_pairs({"SERVER_NAME": "example.org", "REQUEST_METHOD": "GET"})
BEGIN, ABORT, END, PARAM, STDIN, STDOUT, STDERR, DATA = range(1, 9)
LOG = Channel("log", Scope.REQUEST, Direction.TO_WEB)


@pytest.fixture
def web() -> WebConnection:
    return ready(WebConnection(channels=(LOG,)), Settings(channels=(LOG.describe(),)))


def ended(request_id: int = 1, generation: int = 0, status: int = 0) -> Message:
    return Message(2, end_request(request_id, 5, status, generation))


def kinds(messages: list[Message]) -> list[int]:
    return [each.type for each in cut(*messages)]


# ---- beginning


def test_a_short_request_is_one_message(web: WebConnection) -> None:
    request = web.begin_request(PARAMS, flags=1, body=b"a=b")
    (sent,) = web.take(ROOM)
    assert cut(sent) == [
        Cut(BEGIN, 1, 0, b"\x00\x01\x01" + bytes(5)),
        Cut(PARAM, 1, 0, PARAMS),
        Cut(PARAM, 1, 0, b""),
        Cut(STDIN, 1, 0, b"a=b"),
        Cut(STDIN, 1, 0, b""),
    ]
    assert (request.input, request.output) == (Input.COMPLETE, Output.OPEN)
    assert request.send_window.sent == 3


@pytest.mark.parametrize("body", [b"", b"x"])
def test_a_request_without_params_ends_them_once(web: WebConnection, body: bytes) -> None:
    web.begin_request(b"", body=body)
    assert kinds(web.take(ROOM)) == [BEGIN, PARAM, *([STDIN] if body else []), STDIN]


@pytest.mark.parametrize("peer_takes", [1024, 1040, 1064, 1065, 2048])
def test_a_short_request_that_just_fits_no_message(peer_takes: int) -> None:
    web = ready(WebConnection(), Settings(max_message=peer_takes))
    web.begin_request(bytes(500), body=bytes(516))
    messages = web.take(ROOM)
    assert all(len(each.data) <= peer_takes for each in messages)
    records = cut(*messages)
    assert b"".join(each.content for each in records if each.type == PARAM) == bytes(500)
    assert b"".join(each.content for each in records if each.type == STDIN) == bytes(516)
    assert len(messages) == (1 if peer_takes >= 16 + 8 + 500 + 8 + 8 + 516 + 8 else 2)


def test_long_params_and_body_are_cut() -> None:
    web = ready(WebConnection(), Settings(max_message=2000, window=10_000))
    params, body = bytes(range(256)) * 20, bytes(range(256)) * 30
    request = web.begin_request(params, body=body)
    messages = web.take(ROOM)
    records = cut(*messages)
    assert all(len(each.data) <= 2000 for each in messages)
    assert b"".join(each.content for each in records if each.type == PARAM) == params
    assert b"".join(each.content for each in records if each.type == STDIN) == body
    assert [each.type for each in records if not each.content] == [PARAM, STDIN]
    assert request.input is Input.COMPLETE
    assert request.writable


def test_a_body_longer_than_the_window_waits() -> None:
    web = ready(WebConnection(), Settings(window=1024))
    request = web.begin_request(PARAMS, body=bytes(1500))
    assert sum(len(each.content) for each in cut(*web.take(ROOM)) if each.type == STDIN) == 1024
    assert not request.writable
    events = web.receive([message(RecordType.CREDIT, 1, (1536).to_bytes(8, "big"))], 7.0)
    assert events == [Writable(request)]
    web.receive([message(RecordType.CREDIT, 1, (1536).to_bytes(8, "big"))], 8.0)
    assert request.credited_at == 7.0, "what grants nothing says nothing"
    assert [(each.type, len(each.content)) for each in cut(*web.take(ROOM))] == [(STDIN, 476), (STDIN, 0)]


@pytest.mark.parametrize(
    ("role", "ends"), [(Role.RESPONDER, [STDIN]), (Role.AUTHORIZER, []), (Role.FILTER, [STDIN, DATA])]
)
def test_each_role_has_its_bodies(web: WebConnection, role: Role, ends: list[int]) -> None:
    request = web.begin_request(PARAMS, role=role)
    assert kinds(web.take(ROOM)) == [BEGIN, PARAM, PARAM]
    for is_data in (False, True):
        web.send_input(request, b"x", is_data=is_data)
        web.send_input(request, b"", is_data=is_data)
        for _ in range(2):  # the second says nothing new
            web.end_input(request, is_data=is_data)
    assert kinds(web.take(ROOM)) == [kind for kind in ends for _ in range(2)]
    assert request.input is Input.COMPLETE
    web.send_input(request, b"late")
    assert not web.waiting()


def test_data_does_not_go_before_stdin_has_ended(web: WebConnection) -> None:
    request = web.begin_request(PARAMS, role=Role.FILTER, body=b"stdin")
    web.send_input(request, b"data", is_data=True)
    assert kinds(web.take(ROOM)) == [BEGIN, PARAM, PARAM, STDIN, STDIN, DATA]
    other = web.begin_request(PARAMS, role=Role.FILTER)
    web.send_input(other, b"data", is_data=True)
    web.end_input(other, is_data=True)
    assert kinds(web.take(ROOM)) == [BEGIN, PARAM, PARAM]


def test_an_authorizer_with_its_body_said() -> None:
    pair = Pair()
    pair.web.begin_request(PARAMS, role=Role.AUTHORIZER, body=b"")
    pair.run()
    assert [type(event) for event in pair.take_app()] == [RequestReceived]


def test_ids_are_used_again_with_another_generation(web: WebConnection) -> None:
    stays = web.begin_request(PARAMS, body=b"")
    web._serial = 65534
    assert web.begin_request(PARAMS, body=b"").key == (65535, 0)
    assert web.begin_request(PARAMS, body=b"").key == (1, 1)
    assert web.begin_request(PARAMS, body=b"").key == (2, 1)
    web._serial = 65535 * 256  # all generations have passed
    assert web.begin_request(PARAMS, body=b"").key == (2, 0)  # 1.0 is still under way
    assert web.requests[1, 0] is stays


def test_capacity_is_what_the_peer_takes() -> None:
    web = WebConnection()
    web.open(8, 0.0)
    assert web.capacity == 0
    with pytest.raises(RequestRefused):
        web.begin_request(PARAMS)
    web = ready(WebConnection(), Settings(max_requests=2))
    assert web.capacity == 2
    request = web.begin_request(PARAMS)
    web.begin_request(PARAMS)
    assert web.capacity == 0
    with pytest.raises(RequestRefused):
        web.begin_request(PARAMS)
    web.abort(request)  # nothing of it was sent
    assert web.capacity == 1


def test_no_capacity_when_either_side_drains_or_failed() -> None:
    web = ready(WebConnection())
    web.receive([control(RecordType.DRAIN)], 0.0)
    assert web.capacity == 0
    web = ready(WebConnection())
    web.drain()
    assert web.capacity == 0
    web = ready(WebConnection())
    web.fail("bye")
    assert web.capacity == 0


# ---- the answer


def test_an_answer(web: WebConnection) -> None:
    request = web.begin_request(PARAMS, body=b"")
    web.take(ROOM)
    events = web.receive(
        [message(STDERR, 1, b"oh"), message(STDOUT, 1, b"yes"), message(STDOUT, 1), ended(), message(STDERR, 1, b"!")],
        0.0,
    )
    assert events == [
        StderrReceived(request, b"oh"),
        OutputReceived(request, b"yes"),
        RequestEnded(request, 5, ProtocolStatus.REQUEST_COMPLETE),
        StderrReceived(request, b"!"),
    ]
    assert not web.requests
    assert len(web.pool.holders) == 0
    assert web.receive([message(STDERR, 1)], 0.0) == []


@pytest.mark.parametrize("sent", [0, 1, 70_000, 0xFFFFFF])
def test_an_end_tells_how_much_stderr_there_is(web: WebConnection, sent: int) -> None:
    request = web.begin_request(PARAMS, body=b"")
    web.take(ROOM)
    end = end_request(1, 5)[:-3] + sent.to_bytes(3, "big")
    events = web.receive([message(STDERR, 1, b"oh"), Message(2, end)], 0.0)
    assert events[-1] == RequestEnded(request, 5, ProtocolStatus.REQUEST_COMPLETE, sent)
    assert request.stderr_bytes == 2


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("status", ProtocolStatus)
def test_an_answer_may_end_without_closing_stdout(web: WebConnection, closed: bool, status: ProtocolStatus) -> None:
    request = web.begin_request(PARAMS, body=b"")
    web.take(ROOM)
    records = [message(STDOUT, 1)] if closed else []
    assert web.receive([*records, ended(status=status)], 0.0) == [RequestEnded(request, 5, status)]


def test_an_answer_before_the_body_was_sent() -> None:
    web = ready(WebConnection(), Settings(window=1024))
    request = web.begin_request(PARAMS, body=bytes(5000))
    web.take(100)
    one(web.receive([ended()], 0.0), RequestEnded)
    assert kinds(web.take(ROOM)) == []
    assert len(web.pool.holders) == 0
    assert request.writable
    web.send_input(request, b"more")
    web.end_input(request)
    web.abort(request)
    web.consumed(request, 1 << 20)
    assert not web.waiting()


def test_an_answer_to_what_was_not_sent_yet(web: WebConnection) -> None:
    request = web.begin_request(PARAMS, body=b"")
    assert web.receive([ended()], 0.0) == [RequestEnded(request, 5, ProtocolStatus.REQUEST_COMPLETE)]
    assert web.take(ROOM) == []
    assert len(web.pool.holders) == 0


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("content", [b"", bytes(7), bytes(9), b"\0\0\0\0\x04\0\0\0"])
def test_an_end_that_is_malformed_ends_it_all_the_same(web: WebConnection, content: bytes, sent: bool) -> None:
    request = web.begin_request(PARAMS)
    if sent:
        web.take(ROOM)
    event = one(web.receive([message(END, 1, content)], 0.0), RequestFailed)
    assert event.request is request
    assert event.error.request_key == (1, 0)
    assert event.error.record_type == END
    assert not web.requests
    assert web.take(ROOM) == []
    assert len(web.pool.holders) == 0


@pytest.mark.parametrize("late", [message(STDOUT, 1, b"x"), message(STDOUT, 1)])
def test_output_after_its_end_fails_the_request(web: WebConnection, late: Message) -> None:
    request = web.begin_request(PARAMS, body=b"")
    web.take(ROOM)
    event = one(web.receive([message(STDOUT, 1), late, late], 0.0), RequestFailed)
    assert event.request is request
    assert "STDOUT closed" in str(event.error)
    assert kinds(web.take(ROOM)) == [ABORT]
    assert web.receive([ended()], 0.0) == []
    assert not web.requests


@pytest.mark.parametrize("kind", [STDOUT, STDERR, END])
def test_a_record_for_nobody_is_left_out(web: WebConnection, kind: int) -> None:
    request = web.begin_request(PARAMS)
    web.take(ROOM)
    error = one(web.receive([message(kind, 1, bytes(8), generation=1)], 0.0), RecordRefused).error
    assert error.request_key == (1, 1)
    assert web.requests == {(1, 0): request}


@pytest.mark.parametrize("kind", [BEGIN, ABORT, PARAM, STDIN, DATA, 99 - 50])
def test_a_record_of_the_other_direction_fails_its_request(web: WebConnection, kind: int) -> None:
    request = web.begin_request(PARAMS)
    other = web.begin_request(PARAMS)
    web.take(ROOM)
    assert one(web.receive([message(kind, 1, b"")], 0.0), RequestFailed).request is request
    assert kinds(web.take(ROOM)) == [ABORT]
    assert one(web.receive([ended(2)], 0.0), RequestEnded).request is other


def test_a_request_that_fails_before_anything_was_sent_is_over(web: WebConnection) -> None:
    web.begin_request(PARAMS)
    one(web.receive([message(BEGIN, 1)], 0.0), RequestFailed)
    assert not web.requests
    assert web.take(ROOM) == []


# ---- aborting


def test_abort_of_a_request_that_was_not_sent(web: WebConnection) -> None:
    request = web.begin_request(PARAMS, body=b"")
    web.abort(request)
    web.abort(request)
    assert web.take(ROOM) == []
    assert not web.requests
    assert len(web.pool.holders) == 0


def test_abort_goes_behind_the_beginning_on_the_same_stream(web: WebConnection) -> None:
    request = web.begin_request(PARAMS)
    web.send_input(request, bytes(20_000))
    first = web.take(1)
    web.abort(request)
    rest = web.take(ROOM)
    assert kinds(first)[0] == BEGIN
    assert kinds(rest) == [ABORT]
    assert {each.stream for each in first + rest} == {request.lane.stream}
    assert not any(each.unordered for each in rest)
    assert list(web.requests) == [(1, 0)]
    web.send_input(request, b"more")
    web.end_input(request)
    web.abort(request)
    assert not web.waiting()


def test_after_an_abort_output_is_swallowed_and_credited(web: WebConnection) -> None:
    request = web.begin_request(PARAMS, body=b"")
    web.take(ROOM)
    web.abort(request)
    web.take(ROOM)
    chunk = bytes(8000)
    for _ in range(100):
        assert web.receive([message(STDOUT, 1, chunk)], 0.0) == []
    credits = cut(*web.take(ROOM))
    assert {each.type for each in credits} == {RecordType.CREDIT}
    assert int.from_bytes(credits[-1].content, "big") > 800_000
    assert web.receive([ended()], 0.0) == []
    assert not web.requests
    assert len(web.pool.holders) == 0


def test_an_aborted_request_whose_end_is_malformed_is_over(web: WebConnection) -> None:
    request = web.begin_request(PARAMS, body=b"")
    web.take(ROOM)
    web.abort(request)
    assert web.receive([message(END, 1, b"")], 0.0) == []
    assert not web.requests


def test_stderr_of_an_aborted_request_is_still_heard(web: WebConnection) -> None:
    request = web.begin_request(PARAMS, body=b"")
    web.take(ROOM)
    web.abort(request)
    assert web.receive([message(STDERR, 1, b"why")], 0.0) == [StderrReceived(request, b"why")]


# ---- what comes late


def feedback(web: WebConnection, request_id: int, now: float) -> Event:
    (event,) = web.receive([message(RecordType.FEEDBACK, request_id, b"item")], now)
    return event


def test_late_feedback_finds_its_request_for_a_while(web: WebConnection) -> None:
    request = web.begin_request(PARAMS, body=b"")
    request.context = "mine"
    web.receive([ended()], 10.0)
    assert feedback(web, 1, 11.0) == FeedbackReceived("log", request, b"item")
    web.begin_request(PARAMS, body=b"")
    web.receive([ended(2)], 10.0 + REMEMBER_FOR)
    assert feedback(web, 1, 10.0 + REMEMBER_FOR) == FeedbackReceived("log", request, b"item")
    assert request.context == "mine"
    web.begin_request(PARAMS, body=b"")
    web.receive([ended(3)], 10.1 + REMEMBER_FOR)
    assert feedback(web, 1, 10.1 + REMEMBER_FOR) == FeedbackReceived("log", None, b"item")
    assert request.context is None


@pytest.mark.parametrize(("came", "known"), [(b"oh", True), (b"oh dear", False)])
def test_a_request_is_forgotten_when_nothing_of_it_may_come(came: bytes, known: bool) -> None:
    web = ready(WebConnection(), Settings())  # no channel of request scope
    request = web.begin_request(PARAMS, body=b"")
    web.take(ROOM)
    end = Message(2, end_request(1, 5, stderr=len(b"oh dear")))
    web.receive([message(STDERR, 1, came), end], 0.0)
    assert list(web._recent) == ([(1, 0)] if known else [])
    late = web.receive([message(STDERR, 1, b" dear")], 0.0)
    assert (late == [StderrReceived(request, b" dear")]) is known


def test_the_user_s_object_is_let_go_when_a_request_is_forgotten() -> None:
    web = ready(WebConnection(), Settings())
    request = web.begin_request(PARAMS, body=b"")
    request.context = "mine"
    web.take(ROOM)
    one(web.receive([ended()], 0.0), RequestEnded)
    assert request.context == "mine"  # for the user, who hears of the end
    web.receive([], 0.0)
    assert request.context is None


def test_ended_requests_are_remembered_up_to_a_bound(web: WebConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REMEMBERED == 4096
    monkeypatch.setattr(web_connection, "REMEMBERED", 3)
    for number in range(1, 6):
        web.begin_request(PARAMS, body=b"")
        web.receive([ended(number)], 1.0)
    assert list(web._recent) == [(3, 0), (4, 0), (5, 0)]


def test_an_id_that_comes_again_while_it_is_remembered(web: WebConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_connection, "REQUEST_IDS", 1)
    first = web.begin_request(PARAMS, body=b"")
    web.receive([ended(1)], 1.0)
    for generation in range(1, 256):
        web.begin_request(PARAMS, body=b"")
        web.receive([ended(1, generation)], 1.0)
    again = web.begin_request(PARAMS, body=b"")
    again.context = "mine"
    assert again.key == first.key
    web.receive([ended(1)], 1.0)
    assert feedback(web, 1, 1.0) == FeedbackReceived("log", again, b"item")
    monkeypatch.setattr(web_connection, "REMEMBERED", 2)
    web.begin_request(PARAMS, body=b"")
    web.receive([ended(1, 1)], 1.0)  # the older one of each is forgotten, not the one that has its key now
    assert list(web._recent) == [(1, 0), (1, 1)]
    assert web._recent_bytes == 2 * len(PARAMS)
    assert again.context == "mine"


def test_large_params_of_ended_requests_are_not_remembered_beyond_a_bound(
    web: WebConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_connection, "REMEMBERED_BYTES", 2 * len(PARAMS))
    for number in range(1, 4):
        web.begin_request(PARAMS, body=b"")
        web.receive([ended(number)], 1.0)
    assert list(web._recent) == [(2, 0), (3, 0)]
    web.begin_request(PARAMS * 5, body=b"")
    web.receive([ended(4)], 1.0)
    assert list(web._recent) == [(4, 0)]  # what has just ended stays
    web.begin_request(PARAMS, body=b"")
    web.receive([ended(5)], 1.0)
    assert list(web._recent) == [(5, 0)]
    assert feedback(web, 2, 1.0) == FeedbackReceived("log", None, b"item")
