from __future__ import annotations

import pytest

from bench.streams.policies import POLICIES
from fcgi_core.errors import LocalProtocolError
from fcgi_core.protocol import application as application_connection
from fcgi_core.protocol.application import (
    MAX_PARAMS,
    MAX_STDERR_AHEAD,
    MAX_STDERR_WAITING,
    PARAMS_TIMEOUT,
    REMEMBERED,
    ApplicationConnection,
)
from fcgi_core.protocol.channels import Channel, Direction, Scope
from fcgi_core.protocol.connection import SHORT
from fcgi_core.protocol.events import (
    ConnectionFailed,
    Event,
    InputClosed,
    InputReceived,
    RecordRefused,
    RequestAborted,
    RequestEnded,
    RequestFailed,
    RequestReceived,
    StderrReceived,
    Writable,
)
from fcgi_core.protocol.records import ProtocolStatus, RecordType, Role, begin_request, encode_pairs
from fcgi_core.protocol.request import Request
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.states import Input, Output
from fcgi_core.protocol.streams import FIRST_STREAM
from fcgi_core.sctp.carrier import Message
from tests.protocol.helpers import ROOM, Cut, Pair, cut, message, of, one, ready, together

PARAMS = encode_pairs({"SERVER_NAME": "example.org", "REQUEST_METHOD": "POST"})
BEGIN, ABORT, END, PARAM, STDIN, STDOUT, STDERR, DATA = range(1, 9)
CREDIT = RecordType.CREDIT
LOG = Channel("log", Scope.REQUEST, Direction.TO_WEB)


@pytest.fixture
def app() -> ApplicationConnection:
    return ready(
        ApplicationConnection(Settings(max_requests=4), channels=(LOG,)), Settings(window=1024, accepts=("log",))
    )


def begin(request_id: int = 1, role: int = Role.RESPONDER, generation: int = 0) -> Message:
    return Message(2, begin_request(request_id, role, 1, generation))


def begun(app: ApplicationConnection, request_id: int = 1, role: int = Role.RESPONDER) -> Request:
    events = app.receive([begin(request_id, role), message(PARAM, request_id, PARAMS), message(PARAM, request_id)], 0.0)
    assert app.take(ROOM) == []
    return one(events, RequestReceived).request


def sent(app: ApplicationConnection) -> list[tuple[int, bytes]]:
    return [(each.type, each.content) for each in cut(*app.take(ROOM))]


def ending(status: int = 0, app_status: int = 0) -> tuple[int, bytes]:
    return END, app_status.to_bytes(4, "big") + bytes([status, 0, 0, 0])


def credit(limit: int, request_id: int = 1) -> Message:
    return message(CREDIT, request_id, limit.to_bytes(8, "big"))


# ---- taking requests


def test_a_request_and_its_answer(app: ApplicationConnection) -> None:
    parts = [begin(), message(PARAM, 1, PARAMS[:9]), message(PARAM, 1, PARAMS[9:]), message(PARAM, 1)]
    events = app.receive([together(*parts, message(STDIN, 1, b"a=b"), message(STDIN, 1))], 0.0)
    request = one(events, RequestReceived).request
    assert events == [RequestReceived(request), InputReceived(request, b"a=b"), InputClosed(request)]
    assert request.params == {"SERVER_NAME": "example.org", "REQUEST_METHOD": "POST"}
    assert (request.role, request.flags, request.key) == (Role.RESPONDER, 1, (1, 0))
    app.send_output(request, b"Status: 200\r\n\r\n")
    app.send_output(request, b"")
    app.end_request(request, 7)
    (answer,) = app.take(ROOM)
    assert cut(answer) == [
        Cut(STDOUT, 1, 0, b"Status: 200\r\n\r\n"),
        Cut(STDOUT, 1, 0, b""),
        Cut(END, 1, 0, ending(app_status=7)[1]),
    ]
    assert not app.requests
    assert len(app.pool.holders) == 0


def test_an_empty_answer_is_an_end_alone(app: ApplicationConnection) -> None:
    app.end_request(begun(app), status=ProtocolStatus.OVERLOADED)
    assert sent(app) == [ending(status=2)]


@pytest.mark.parametrize("role", [0, 4, 0x0101])
def test_an_unknown_role(app: ApplicationConnection, role: int) -> None:
    later = [message(PARAM, 1, PARAMS), message(PARAM, 1), message(STDIN, 1)]
    assert app.receive([begin(role=role), *later], 0.0) == []
    (answer,) = app.take(ROOM)
    assert answer.stream == FIRST_STREAM
    assert cut(answer) == [Cut(END, 1, 0, ending(status=3)[1])]
    assert not app.requests


def test_a_filter_has_two_bodies(app: ApplicationConnection) -> None:
    request = begun(app, role=Role.FILTER)
    bodies = [message(STDIN, 1, b"x"), message(STDIN, 1), message(DATA, 1, b"y"), message(DATA, 1), message(STDIN, 1)]
    assert app.receive(bodies, 0.0) == [
        InputReceived(request, b"x"),
        InputClosed(request),
        InputReceived(request, b"y", True),
        InputClosed(request, True),
    ]


@pytest.mark.parametrize("closes", [0, 1, 2])
def test_an_authorizer_hears_of_no_body(app: ApplicationConnection, closes: int) -> None:
    begun(app, role=Role.AUTHORIZER)
    assert app.receive([message(STDIN, 1)] * closes, 0.0) == []
    event = one(app.receive([message(STDIN, 1, b"x")], 0.0), RequestFailed)
    assert "the input is: complete" in str(event.error)


def test_too_many_requests_and_draining(app: ApplicationConnection) -> None:
    for number in range(1, 5):
        begun(app, number)
    more = [begin(9), message(PARAM, 9, PARAMS), message(PARAM, 9), message(ABORT, 9)]
    assert app.receive(more, 0.0) == []
    assert sent(app) == [ending(status=2)]
    app.end_request(app.requests[1, 0])
    app.take(ROOM)
    app.drain()
    app.take(ROOM)
    assert app.receive([begin(10)], 0.0) == []
    assert sent(app) == [ending(status=2)]
    assert len(app.requests) == 3  # those that run are finished
    app.send_output(app.requests[2, 0], b"x")
    app.end_request(app.requests[2, 0])
    assert sent(app) == [(STDOUT, b"x"), (STDOUT, b""), ending()]


@pytest.mark.parametrize("bad", [begin(0), message(BEGIN, 1, bytes(7)), message(BEGIN, 1, b"")])
def test_a_begin_that_is_malformed_is_left_out(app: ApplicationConnection, bad: Message) -> None:
    one(app.receive([bad], 0.0), RecordRefused)
    assert not app.requests
    assert app.take(ROOM) == []


def test_a_request_that_begins_twice(app: ApplicationConnection) -> None:
    request = begun(app)
    event = one(app.receive([begin()], 0.0), RequestFailed)
    assert event.request is request
    assert "began before" in str(event.error)
    assert app.receive([begin(generation=1)], 0.0) == []  # that is another one
    assert list(app.requests) == [(1, 0), (1, 1)]


@pytest.mark.parametrize("kind", [PARAM, STDIN, DATA])
def test_a_record_for_nobody_is_left_out(app: ApplicationConnection, kind: int) -> None:
    error = one(app.receive([message(kind, 3, b"", 9)], 0.0), RecordRefused).error
    assert error.request_key == (3, 9)


def test_an_abort_of_a_request_that_has_ended_is_nothing_special(app: ApplicationConnection) -> None:
    assert app.receive([message(ABORT, 3, b"", 9)], 0.0) == []
    assert app.take(ROOM) == []


@pytest.mark.parametrize("kind", [PARAM, STDIN, DATA, ABORT])
def test_a_record_that_crossed_the_end_is_passed_over(app: ApplicationConnection, kind: int) -> None:
    app.end_request(begun(app))
    app.take(ROOM)
    assert app.receive([message(kind, 1, b"")], 0.0) == []


def test_what_is_remembered_is_bounded(app: ApplicationConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REMEMBERED == 16384
    monkeypatch.setattr(application_connection, "REMEMBERED", 3)
    app.drain()
    for number in range(1, 6):
        app.receive([begin(number)], 0.0)
    assert list(app._recent) == [(3, 0), (4, 0), (5, 0)]


def test_a_record_that_is_not_the_application_s(app: ApplicationConnection) -> None:
    begun(app)
    for kind in (STDOUT, STDERR, END):
        request = begun(app, kind + 10)
        event = one(app.receive([message(kind, kind + 10)], 0.0), RequestFailed)
        assert event.request is request
    assert not app.requests[1, 0].aborted


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([message(STDIN, 1, b"x")], "the input is: PARAMS"),
        ([message(STDIN, 1)], "the input is: PARAMS"),
        ([message(PARAM, 1, b"\x05"), message(PARAM, 1)], "cut"),
        ([message(PARAM, 1, bytes(MAX_PARAMS + 1 >> 7))] * 128, None),
        ([message(PARAM, 1, bytes(8192))] * 129, "more than 1048576 bytes"),
        ([message(STDERR, 1)], "does not accept"),
    ],
)
def test_a_request_that_fails_before_it_was_known_ends_by_itself(
    app: ApplicationConnection, records: list[Message], said: str | None
) -> None:
    events = app.receive([begin(), *records], 0.0)
    if said is None:
        assert events == []
        return
    event = one(events, RequestFailed)
    assert said in str(event.error)
    assert event.request.context is None
    assert sent(app) == [ending(app_status=1)]
    assert not app.requests
    assert len(app.pool.holders) == 0
    assert app.receive([message(PARAM, 1, b"x"), message(STDIN, 1)], 0.0) == []


@pytest.mark.parametrize(
    ("role", "records", "said"),
    [
        (1, [message(PARAM, 1)], "PARAMS came after their end"),
        (1, [message(DATA, 1, b"x")], "the input is: STDIN"),
        (1, [message(STDIN, 1), message(STDIN, 1, b"x")], "the input is: complete"),
        (3, [message(DATA, 1, b"x")], "the input is: STDIN, then DATA"),
        (3, [message(STDIN, 1), message(STDIN, 1)], "the input is: DATA"),
    ],
)
def test_a_request_that_fails_is_ended_by_who_runs_it(
    app: ApplicationConnection, role: int, records: list[Message], said: str
) -> None:
    request = begun(app, role=role)
    app.send_output(request, b"x" * 5000)
    events = app.receive([*records, message(STDIN, 1, b"ignored"), message(ABORT, 1)], 0.0)
    event = one(events, RequestFailed)
    assert said in str(event.error)
    assert [each for each in events if not isinstance(each, InputClosed)] == [event]
    app.send_output(request, b"not sent")
    assert sent(app) == []
    assert list(app.requests) == [(1, 0)]
    app.end_request(request)
    assert sent(app) == [ending()]
    assert not app.requests
    assert len(app.pool.holders) == 0


# ---- answering


def test_the_end_waits_for_credit_behind_the_output(app: ApplicationConnection) -> None:
    request = begun(app)
    app.send_output(request, bytes(1500))
    app.end_request(request, 9)
    assert sent(app) == [(STDOUT, bytes(1024))]
    assert list(app.requests) == [(1, 0)]
    assert app.receive([message(STDIN, 1, b"late"), message(STDIN, 1)], 0.0) == []
    assert app.receive([credit(1200)], 0.0) == []
    assert sent(app) == [(STDOUT, bytes(176))]
    assert app.receive([credit(1500)], 0.0) == []  # no Writable: it is over
    assert sent(app) == [(STDOUT, bytes(300)), (STDOUT, b""), ending(app_status=9)]
    assert not app.requests
    assert len(app.pool.holders) == 0


def test_writable_when_the_window_has_taken_everything(app: ApplicationConnection) -> None:
    request = begun(app)
    app.send_output(request, bytes(1100))
    assert app.receive([credit(1099)], 0.0) == []
    assert app.receive([credit(1100)], 0.0) == [Writable(request)]
    app.send_output(request, b"x")
    assert app.receive([credit(2000)], 0.0) == [Writable(request)]


def test_nothing_after_the_end(app: ApplicationConnection) -> None:
    request = begun(app)
    app.end_request(request)
    with pytest.raises(LocalProtocolError, match="STDOUT after its end"):
        app.send_output(request, b"x")
    with pytest.raises(LocalProtocolError, match="ended already"):
        app.end_request(request)
    app.send_stderr(request, b"x")
    app.consumed(request, 1 << 20)
    assert sent(app) == [ending()]
    assert (request.input, request.output) == (Input.COMPLETE, Output.ENDED)


def test_credit_for_the_body_ends_with_it(app: ApplicationConnection) -> None:
    request = begun(app)
    app.consumed(request, 200_000)
    assert [kind for kind, _ in sent(app)] == [CREDIT]
    app.receive([message(STDIN, 1)], 0.0)
    app.consumed(request, 200_000)
    assert sent(app) == []


# ---- being aborted


def test_an_abort_discards_the_output_and_waits_for_the_end(app: ApplicationConnection) -> None:
    request = begun(app)
    app.send_output(request, bytes(5000))
    assert app.receive([message(ABORT, 1), message(ABORT, 1), message(STDIN, 1)], 0.0) == [RequestAborted(request)]
    app.send_output(request, b"more")
    assert sent(app) == []
    assert request.writable
    app.end_request(request, 1)
    assert sent(app) == [ending(app_status=1)]
    assert not app.requests
    assert len(app.pool.holders) == 0


def test_an_abort_before_the_params_are_whole_is_answered_at_once(app: ApplicationConnection) -> None:
    assert app.receive([begin(), message(PARAM, 1, PARAMS), message(ABORT, 1)], 0.0) == []
    assert sent(app) == [ending(app_status=1)]
    assert not app.requests


@pytest.mark.parametrize("what", [message(ABORT, 1), message(CREDIT, 1, b"bad"), message(PARAM, 1, b""), begin()])
def test_what_stops_a_request_whose_end_waits_for_credit_ends_it(app: ApplicationConnection, what: Message) -> None:
    request = begun(app)
    app.send_output(request, bytes(5000))
    app.end_request(request)
    app.take(ROOM)
    events = app.receive([what], 0.0)
    assert len(of(events, RequestFailed)) == len(events)
    if what.data[1] == PARAM:
        assert events == []  # it crossed the answer
        return
    assert sent(app) == [ending(app_status=1)]
    assert not app.requests
    assert len(app.pool.holders) == 0


# ---- STDERR and feedback


def test_stderr_has_a_stream_of_its_own_and_the_end_does_not_wait() -> None:
    pair = Pair()
    theirs = pair.web.begin_request(PARAMS, body=b"")
    pair.run()
    request = one(pair.take_app(), RequestReceived).request
    pair.app.send_stderr(request, b"")
    assert request.stderr is None
    pair.app.send_stderr(request, b"e" * 20_000)
    pair.app.send_output(request, b"o" * 100)
    pair.app.end_request(request)
    messages = pair.app.take(ROOM)
    assert [{each.type for each in cut(one)} for one in messages] == [{STDERR}, {STDOUT, END}, {STDERR}]
    assert messages[0].stream == messages[2].stream != messages[1].stream
    assert len(pair.app.pool.holders) == 0
    (end,) = of(pair.web.receive([messages[1]], 0.0), RequestEnded)
    assert (end.stderr, theirs.stderr_bytes) == (20_000, 0), "what has not come is known"
    late = pair.web.receive([messages[0], messages[2]], 0.0)
    assert all(event.request is theirs for event in of(late, StderrReceived))
    assert b"".join(event.data for event in of(late, StderrReceived)) == b"e" * 20_000
    assert theirs.stderr_bytes == end.stderr


def test_a_short_answer_goes_before_a_long_one_that_waits() -> None:
    app = ready(ApplicationConnection(), Settings(window=2 * SHORT))
    long, short = begun(app, 1), begun(app, 2)
    for _ in range(3):
        app.send_output(long, bytes(SHORT // 2))
    app.send_output(short, b"short")
    app.end_request(short)
    told = dict(app.pool.priorities)
    assert told[long.lane.stream] > told[short.lane.stream], "in SCTP's queue, too"
    order = [message.stream for message in app.take(ROOM)]
    assert order[0] == short.lane.stream
    assert set(order[1:]) == {long.lane.stream}


@pytest.mark.parametrize("policy", POLICIES)
def test_streams_are_held_until_everything_has_gone(app: ApplicationConnection, policy: str) -> None:
    app = ready(ApplicationConnection(channels=(LOG,)))
    app.pool.policy = POLICIES[policy]
    request = begun(app)
    app.send_output(request, b"o" * 9000)
    app.send_stderr(request, b"e" * 9000)
    app.send_feedback("log", b"f" * 9000, request)
    app.end_request(request)
    held = len(app.pool.holders)
    assert held == {"single": 0, "per-type": 0, "per-request": 1, "per-channel": 3}[policy]
    while messages := app.take(1):
        if app.waiting():
            assert len(app.pool.holders) == held
        assert len(messages) == 1
    assert len(app.pool.holders) == 0
    assert app.send_feedback("log", b"late", request)
    assert len(app.pool.holders) == 0
    (late,) = app.take(ROOM)
    assert cut(late) == [Cut(RecordType.FEEDBACK, 1, 0, b"late")]
    if policy == "per-channel":
        assert late.stream not in request.streams.streams.values()


def test_stderr_that_is_not_read_is_bounded_and_counted(app: ApplicationConnection) -> None:
    request = begun(app)
    for _ in range(3):
        app.send_stderr(request, bytes(MAX_STDERR_WAITING // 2))
    received = sum(len(content) for kind, content in sent(app) if kind == STDERR)
    assert received == MAX_STDERR_WAITING
    assert app.stderr_dropped == MAX_STDERR_WAITING // 2
    assert request.stderr_bytes == MAX_STDERR_WAITING, "what was dropped is not waited for"
    app.send_stderr(request, b"x")
    assert sent(app) == [(STDERR, b"x")]
    app.send_stderr(begun(app, 2), b"")
    app.feedback.budget.limit = 0  # others have used it up
    app.send_stderr(request, b"x")
    assert sent(app) == []
    app.fail("bye")
    app.take(ROOM)
    app.send_stderr(request, b"x")
    assert request.stderr is not None
    assert not request.stderr.waiting()


def test_a_peer_that_floods_and_does_not_read_is_given_up() -> None:
    pair = Pair(app=Settings(max_requests=1))
    pair.web.begin_request(PARAMS, body=b"")
    pair.run()
    events: list[Event] = []
    for number in range(2, 20_000):
        events += pair.app.receive([begin(number)], 0.0)
        if pair.app.failed:
            break
    assert of(events, ConnectionFailed)
    assert number < 11_000


# ---- PARAMS that are not whole


def test_params_in_records_of_one_byte_cost_what_they_hold(app: ApplicationConnection) -> None:
    """No copy of all for each: that is seen by what is kept, an object that grows in place."""
    app.receive([begin(), message(PARAM, 1, PARAMS[:1]), message(PARAM, 1, PARAMS[1:2])], 0.0)
    growing = app.requests[1, 0].growing_params
    assert growing is not None
    for position in range(2, len(PARAMS)):
        app.receive([message(PARAM, 1, PARAMS[position : position + 1])], 0.0)
    assert app.requests[1, 0].growing_params is growing
    request = one(app.receive([message(PARAM, 1)], 0.0), RequestReceived).request
    assert request.raw_params == PARAMS
    assert request.params["SERVER_NAME"] == "example.org"
    assert request.growing_params is None


def test_params_that_are_not_whole_have_a_bound_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes beyond it is refused as what has not begun, and memory is given back however a request ends."""
    monkeypatch.setattr(application_connection, "MAX_UNFINISHED_PARAMS", 100_000)
    app = ready(ApplicationConnection(Settings(max_requests=1000)))
    piece = bytes(10_000)
    for number in range(1, 201):
        assert app.receive([begin(number), message(PARAM, number, piece), message(PARAM, number, piece)], 0.0) == []
    assert len(app.requests) == 5
    assert sent(app) == [ending(status=2)] * 195
    assert app.receive([message(PARAM, 200, piece), message(PARAM, 200), message(STDIN, 200)], 0.0) == []
    assert (
        len(app.receive([message(ABORT, 1), message(STDERR, 2), message(PARAM, 3, b"\x05"), message(PARAM, 3)], 0.0))
        == 2
    )
    app.receive([message(PARAM, 4), begin(5)], 0.0)
    app.take(ROOM)
    assert app.receive([begin(6), message(PARAM, 6, PARAMS), message(PARAM, 6)], 0.0) != []
    assert app.timer() is None, "none is left that is not whole"
    assert len(app.receive([begin(7), *[message(PARAM, 7, piece)] * 10], 0.0)) == 0
    assert sent(app) == [], "all of it is free again"


def test_params_have_a_deadline(app: ApplicationConnection) -> None:
    begun(app, 1)
    app.receive([begin(2), message(PARAM, 2, PARAMS)], 5.0)
    assert app.timer() == 5.0 + PARAMS_TIMEOUT
    assert app.handle_timer(5.0 + PARAMS_TIMEOUT) == []
    app.receive([begin(3), message(PARAM, 3, PARAMS)], 6.0 + PARAMS_TIMEOUT)
    event = one(app.handle_timer(5.0 + 2 * PARAMS_TIMEOUT), RequestFailed)
    assert event.request.id == 2
    assert "unfinished after" in str(event.error)
    assert sent(app) == [ending(app_status=1)]
    assert list(app.requests) == [(1, 0), (3, 0)]
    one(app.receive([message(PARAM, 3)], 100.0), RequestReceived)
    assert app.timer() is None
    assert app.handle_timer(1000.0) == []


# ---- STDERR before the response


def test_stderr_before_the_response_comes_before_it(app: ApplicationConnection) -> None:
    """On the same stream, for no content waits for another stream's packet."""
    request = begun(app)
    app.send_stderr(request, b"PHP Fatal error")
    app.send_output(request, b"Status: 500\r\n\r\n")
    app.send_stderr(request, b"later")
    app.end_request(request)
    answer, later = app.take(ROOM)
    assert [(each.type, each.content) for each in cut(answer)] == [
        (STDERR, b"PHP Fatal error"),
        (STDOUT, b"Status: 500\r\n\r\n"),
        (STDOUT, b""),
        (END, bytes(7) + bytes([len(b"PHP Fatal errorlater")])),
    ]
    assert [(each.type, each.content) for each in cut(later)] == [(STDERR, b"later")]
    assert answer.stream != later.stream


def test_no_more_stderr_comes_before_the_response_than_a_web_server_takes(app: ApplicationConnection) -> None:
    request = begun(app)
    for _ in range(3):
        app.send_stderr(request, bytes(MAX_STDERR_AHEAD // 2))
    app.send_stderr(request, b"x")
    assert request.stderr is not None
    messages = app.take(ROOM)
    ahead = [each for each in messages if each.stream == request.lane.stream]
    assert sum(len(each.content) for each in cut(*ahead)) == MAX_STDERR_AHEAD
    rest = [each.content for each in cut(*messages) if each not in cut(*ahead)]
    assert rest == [b"x"], "what is too much goes by itself, in its order"


def test_an_abort_throws_away_the_output_and_not_the_stderr_before_it(app: ApplicationConnection) -> None:
    request = begun(app)
    app.send_stderr(request, b"why")
    app.send_output(request, b"o" * 5000)
    app.receive([message(ABORT, 1)], 0.0)
    app.end_request(request)
    assert sent(app) == [(STDERR, b"why"), (END, bytes(7) + b"\x03")]
    assert len(app.pool.holders) == 0
