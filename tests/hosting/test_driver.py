"""When what is queued is handed over: at the end of the loop's turn, and in a long turn in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from fcgi_core.common.loop import Handle
from fcgi_core.hosting.driver import BATCH, Driver
from fcgi_core.protocol.connection import SHORT
from fcgi_core.protocol.events import Event, Writable
from fcgi_core.protocol.flow import MAX_AHEAD
from fcgi_core.protocol.records import RecordType, record
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.web import WebConnection
from fcgi_core.sctp.carrier import MESSAGE_SIZE, URGENT_ROOM, Association, Message
from tests.protocol.helpers import ready


class Turn:
    """A loop whose turn ends when it is told to."""

    def __init__(self) -> None:
        self.soon: list[Callable[..., object]] = []

    def time(self) -> float:
        return 0.0

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        self.soon.append(callback)
        return cast(Handle, None)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Handle:
        raise AssertionError("nothing here waits for a time")

    def end(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class Wire:
    """An association that takes everything."""

    outgoing_streams = 64
    message_size = MESSAGE_SIZE

    def __init__(self) -> None:
        self.calls: list[int] = []
        """Messages of each call of `send`."""
        self.sizes: list[int] = []
        self.limit = 1 << 20
        self.aborted = ""

    def room(self, urgent: bool = False) -> int:
        return 1 << 20

    def send(self, messages: Sequence[Message], urgent: bool = False) -> int:
        for message in messages:
            if len(message.data) > self.limit:
                raise ValueError(f"a message has 1 to {self.limit} bytes, this one {len(message.data)}")
        self.calls.append(len(messages))
        self.sizes += [len(message.data) for message in messages]
        return len(messages)

    def set_priority(self, stream: int, priority: int) -> None: ...

    def abort(self, reason: str = "") -> None:
        self.aborted = reason


def made(on_down: Callable[[str], None] = lambda reason: None) -> tuple[Driver[WebConnection], Turn, Wire]:
    turn, wire = Turn(), Wire()
    connection = ready(WebConnection(), Settings(max_requests=1000))
    driver = Driver(connection, turn, on_events=lambda events: None, on_down=on_down)
    driver.association = cast(Association, wire)
    return driver, turn, wire


def begin(driver: Driver[WebConnection], count: int) -> None:
    for _ in range(count):
        driver.connection.begin_request(b"\1\1ab", body=b"")
        driver.wake()


def test_messages_of_a_turn_go_together_at_its_end() -> None:
    driver, turn, wire = made()
    begin(driver, BATCH - 1)
    assert wire.calls == []
    assert len(turn.soon) == 1
    turn.end()
    assert wire.calls == [BATCH - 1]


def test_in_a_long_turn_it_goes_in_parts_and_what_is_left_at_the_end() -> None:
    driver, turn, wire = made()
    begin(driver, 2 * BATCH + 3)
    assert wire.calls == [BATCH, BATCH]
    assert len(turn.soon) == 1
    turn.end()
    assert wire.calls == [BATCH, BATCH, 3]


def test_each_turn_counts_from_zero() -> None:
    driver, turn, wire = made()
    for _ in range(3):
        begin(driver, BATCH - 1)
        turn.end()
    assert wire.calls == [BATCH - 1] * 3


def test_a_body_goes_on_when_the_association_has_taken_what_was_before_it() -> None:
    """The peer takes a terabyte: what waits here is bounded all the same, and the rest follows by itself."""
    told: list[Event] = []
    turn, wire = Turn(), Wire()
    connection = ready(WebConnection(), Settings(window=1 << 40))
    driver = Driver(connection, turn, on_events=told.extend, on_down=lambda reason: None)
    driver.association = cast(Association, wire)
    request = connection.begin_request(b"\1\0a")
    connection.send_input(request, bytes(5 * MAX_AHEAD))
    connection.end_input(request)
    assert MAX_AHEAD <= request.lane.size < MAX_AHEAD + 100_000
    assert not request.writable
    driver.wake()
    turns = 0
    while turn.soon:
        turn.end()
        turns += 1
        assert request.lane.size < MAX_AHEAD + 100_000
    assert turns >= 5
    assert request.writable
    assert told == [Writable(request)]
    assert sum(wire.sizes) > 5 * MAX_AHEAD
    assert not connection.blocked


class FullWire(Wire):
    """An association with room for a first message alone, and for urgent ones."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[int] = []

    def room(self, urgent: bool = False) -> int:
        return (URGENT_ROOM if urgent else 1) - sum(self.sizes)

    def send(self, messages: Sequence[Message], urgent: bool = False) -> int:
        self.streams += [message.stream for message in messages]
        return super().send(messages, urgent)


def test_short_content_does_not_wait_for_room_behind_long() -> None:
    driver, turn, _ = made()
    wire = FullWire()
    driver.association = cast(Association, wire)
    connection = driver.connection
    long = connection.begin_request(b"\1\1ab")
    connection.send_input(long, bytes(2 * SHORT))
    driver.flush()
    assert set(wire.streams) == {long.lane.stream}
    assert long.lane.waiting(), "there is no room"
    begin(driver, 1)
    turn.end()
    assert wire.streams.count(long.lane.stream) == len(wire.streams) - 1
    for _ in range(20):
        connection.begin_request(b"\1\1ab", body=bytes(4000))
    driver.flush()
    assert URGENT_ROOM // 2 <= sum(wire.sizes) < URGENT_ROOM // 2 + 5000, "alerts have the rest"
    assert long.lane.waiting()


def test_credit_for_ever_does_not_fill_memory() -> None:
    connection = ready(WebConnection(), Settings())
    request = connection.begin_request(b"\1\0a")
    connection.send_input(request, bytes(8 * MAX_AHEAD))
    for step in range(1, 100):
        credit = record(RecordType.CREDIT, request.id, (step * MAX_AHEAD).to_bytes(8, "big"), request.generation)
        connection.receive([Message(2, credit)], 0.0)
        assert request.lane.size < MAX_AHEAD + 100_000
    connection.abort(request)
    assert not connection.blocked
    assert connection.resume() == []


def test_a_message_that_can_never_be_sent_ends_the_association_with_a_reason() -> None:
    down: list[str] = []
    driver, turn, wire = made(down.append)
    wire.limit = 100
    driver.connection.begin_request(bytes((1, 200)) + b"a" * 201, body=b"")
    driver.wake()
    turn.end()
    assert "a message cannot be sent: a message has 1 to 100 bytes, this one" in wire.aborted
    driver.association_down("gone")
    assert "a message cannot be sent" in down[0]


def test_an_association_that_is_aborted_before_it_is_up() -> None:
    driver, turn, wire = made()
    driver.association = None
    driver.abort("not wanted any more")
    driver.association_up(cast(Association, wire))
    assert wire.aborted == "not wanted any more"
    assert not wire.calls
    turn.end()
