from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_core.common.bounded_queue import BoundedQueue
from fcgi_core.protocol.channels import Priority
from fcgi_core.protocol.outbox import MOST_PASSED, PPID, FeedbackLane, Lane, Outbox
from fcgi_core.protocol.records import RecordType
from fcgi_core.sctp.carrier import Message
from tests.protocol.helpers import ROOM, cut

CONTENT = Priority.CONTENT
CONTROL = Priority.CONTROL


@pytest.fixture
def outbox() -> Outbox:
    made = Outbox()
    made.open = True
    return made


def feedback_lane(
    stream: int, request_id: int = 1, *, lifetime: float | None = None, unordered: bool = False
) -> FeedbackLane:
    """A lane with records of at most 10 bytes of content."""
    queue = BoundedQueue(10_000, lambda urgency, size: None)
    key = request_id, 0
    return FeedbackLane(
        stream, Priority.ORDINARY, queue, RecordType.FEEDBACK, key, 10, lifetime=lifetime, unordered=unordered
    )


def streams(messages: list[Message]) -> list[int]:
    return [message.stream for message in messages]


def test_a_lane_s_records_fill_messages_in_order(outbox: Outbox) -> None:
    lane = Lane(2, CONTENT)
    for size in (4, 3, 3, 9, 30, 1):
        outbox.add(lane, bytes([size]) * size)
    outbox.post(CONTENT, Message(3, bytes(7)))
    assert outbox.waiting()
    assert outbox.waiting_bytes() == 57
    assert outbox.take(1, 10) == [Message(3, bytes(7))]
    assert not lane.sent
    messages = outbox.take(ROOM, 10)
    assert [len(message.data) for message in messages] == [10, 9, 30, 1]
    assert all(message == Message(2, message.data, PPID) for message in messages)
    assert b"".join(message.data for message in messages) == b"".join(bytes([n]) * n for n in (4, 3, 3, 9, 30, 1))
    assert lane.sent
    assert not outbox.waiting()
    assert outbox.take(ROOM, 10) == []


def test_before_settings_only_control_goes(outbox: Outbox) -> None:
    outbox.open = False
    outbox.add(Lane(2, CONTENT), b"content")
    assert not outbox.waiting()
    outbox.post(CONTROL, Message(1, b"settings"))
    assert outbox.waiting()
    assert outbox.take(ROOM, 100) == [Message(1, b"settings")]
    assert outbox.take(ROOM, 100) == []
    outbox.open = True
    assert streams(outbox.take(ROOM, 100)) == [2]


def test_the_lower_priority_number_goes_first(outbox: Outbox) -> None:
    for priority in (Priority.BACKGROUND, Priority.CONTENT, Priority.URGENT, Priority.ORDINARY):
        outbox.add(Lane(10 + priority, priority), b"x")
    outbox.post(CONTROL, Message(1, b"control"))
    outbox.post(CONTENT, Message(2, b"at once"))
    assert streams(outbox.take(ROOM, 100)) == [1, 11, 2, 12, 13, 14]


def test_only_what_is_urgent(outbox: Outbox) -> None:
    outbox.add(Lane(12, CONTENT), b"x")
    assert outbox.waiting()
    assert not outbox.waiting(urgent=True)
    outbox.add(Lane(11, Priority.URGENT), b"x")
    outbox.post(CONTROL, Message(1, b"control"))
    assert outbox.waiting(urgent=True)
    assert streams(outbox.take(ROOM, 100, urgent=True)) == [1, 11]
    assert not outbox.waiting(urgent=True)
    assert streams(outbox.take(ROOM, 100)) == [12]


def test_room_is_what_is_taken_and_the_last_message_may_pass_it(outbox: Outbox) -> None:
    lane = Lane(2, CONTENT)
    for _ in range(5):
        outbox.add(lane, bytes(10))
    assert outbox.take(0, 10) == []
    assert len(outbox.take(1, 10)) == 1
    assert len(outbox.take(11, 10)) == 2
    outbox.post(CONTROL, Message(1, bytes(10)))
    outbox.post(CONTROL, Message(1, bytes(10)))
    assert streams(outbox.take(10, 10)) == [1]
    assert streams(outbox.take(ROOM, 10)) == [1, 2, 2]


def test_lanes_take_turns_a_message_each(outbox: Outbox) -> None:
    lanes = [Lane(stream, CONTENT) for stream in (2, 3, 4)]
    for lane in lanes:
        for _ in range(3):
            outbox.add(lane, bytes(10))
    assert streams(outbox.take(ROOM, 10)) == [2, 3, 4] * 3


def test_a_new_lane_goes_before_the_old(outbox: Outbox) -> None:
    for stream in range(2, 200):
        lane = Lane(stream, CONTENT)
        for _ in range(9):
            outbox.add(lane, bytes(10))
    outbox.take(10 * 198, 10)
    outbox.add(Lane(200, CONTENT), bytes(10))
    assert streams(outbox.take(20, 10)) == [200, 2]


def test_long_content_goes_behind_short(outbox: Outbox) -> None:
    long, busy = Lane(2, CONTENT), Lane(3, CONTENT)
    for _ in range(4):
        outbox.add(long, bytes(10))
        outbox.add(busy, bytes(10))
    long.is_long = True  # while it waits
    assert streams(outbox.take(10, 10)) == [3]
    outbox.add(Lane(4, CONTENT), bytes(10))
    outbox.add(Lane(5, Priority.ORDINARY), bytes(10))
    assert streams(outbox.take(ROOM, 10)) == [4, 2, 3, 2, 3, 2, 3, 2, 5]
    outbox.add(long, bytes(10))  # before it was queued
    outbox.add(Lane(6, CONTENT), bytes(10))
    assert streams(outbox.take(ROOM, 10)) == [6, 2]


def test_a_lane_refilled_as_fast_as_it_empties_starves_nobody(outbox: Outbox) -> None:
    bulk, quick = Lane(2, CONTENT), Lane(3, CONTENT)
    for _ in range(20):
        outbox.add(bulk, bytes(10))
    outbox.take(10, 10)
    sent = []
    for _ in range(20):
        outbox.add(quick, bytes(10))
        sent += streams(outbox.take(10, 10))
    assert sent.count(2) == 10


def add_short(outbox: Outbox, stream: int) -> None:
    """A short answer that is complete."""
    lane = Lane(stream, CONTENT)
    outbox.add(lane, bytes(1000))
    outbox.close_lane(lane, lambda: None)


@pytest.mark.parametrize("long", [1, 3])
def test_new_lanes_that_fill_all_room_starve_nobody(outbox: Outbox, long: int) -> None:
    lanes = [Lane(stream, CONTENT) for stream in range(2, 2 + long)]
    for lane in lanes:
        lane.is_long = True
        for _ in range(100):
            outbox.add(lane, bytes(1000))
    sent = []
    for _ in range(5 * MOST_PASSED // 1000):
        for stream in (50, 51):
            add_short(outbox, stream)
        sent += streams(outbox.take(1, 1000))
    for lane in lanes:
        assert 4 <= sent.count(lane.stream) <= 6


def test_what_has_waited_long_enough_goes_before_more_that_is_short(outbox: Outbox) -> None:
    """SCTP has no room for it, but for short content: it must send what it has first."""
    lane = Lane(2, CONTENT)
    lane.is_long = True
    for _ in range(10):
        outbox.add(lane, bytes(1000))
    passed = 0
    for _ in range(2 * MOST_PASSED // 1000):
        add_short(outbox, 50)
        passed += sum(len(message.data) for message in outbox.take(1000, 1000, True, True))
    assert MOST_PASSED <= passed < MOST_PASSED + 1000
    assert streams(outbox.take(2000, 1000)) == [2, 50]
    assert streams(outbox.take(2000, 1000, True, True)) == [50, 50]


def test_what_was_cleared_is_not_sent(outbox: Outbox) -> None:
    lane, other = Lane(2, CONTENT), Lane(3, CONTENT)
    outbox.add(lane, b"x")
    outbox.add(other, b"y")
    lane.clear()
    assert streams(outbox.take(ROOM, 10)) == [3]
    assert not lane.queued
    outbox.add(lane, b"z")
    assert [message.data for message in outbox.take(ROOM, 10)] == [b"z"]


def test_a_closed_lane_says_when_it_is_drained(outbox: Outbox) -> None:
    drained = []
    idle, busy, cleared = Lane(2, CONTENT), Lane(3, CONTENT), Lane(4, CONTENT)
    outbox.add(busy, bytes(10))
    outbox.add(busy, bytes(10))
    outbox.add(cleared, bytes(10))
    cleared.clear()
    for lane in (idle, busy, cleared):
        outbox.close_lane(lane, lambda stream=lane.stream: drained.append(stream))
    assert drained == [2]
    outbox.take(10, 10)
    assert drained == [2]  # busy has more, and the room was used up before cleared had its turn
    outbox.take(ROOM, 10)
    assert sorted(drained) == [2, 3, 4]
    assert not outbox.waiting()
    assert outbox.take(ROOM, 10) == []


def test_a_closed_lane_is_drained_at_once_among_busy_ones(outbox: Outbox) -> None:
    drained = []
    bulk, short = Lane(2, CONTENT), Lane(3, CONTENT)
    for _ in range(9):
        outbox.add(bulk, bytes(10))
    outbox.take(10, 10)
    outbox.add(short, b"x")
    outbox.close_lane(short, lambda: drained.append(True))
    assert streams(outbox.take(1, 10)) == [3]
    assert drained == [True]


def test_feedback_is_encoded_when_it_goes(outbox: Outbox) -> None:
    lane = feedback_lane(5, unordered=True, lifetime=2.0)
    for item in (b"\x01a", b"\x01b", b"\x01c"):
        lane.items.push(item, 6)
        outbox.wake(lane)
    messages = outbox.take(ROOM, 20)
    assert [one.content for one in cut(*messages)] == [b"\x01a", b"\x01b", b"\x01c"]
    assert all((one.unordered, one.lifetime, one.stream) == (True, 2.0, 5) for one in messages)
    assert [len(one.data) for one in messages] == [20, 10]
    assert not outbox.waiting()


def test_a_feedback_lane_whose_items_were_dropped_leaves(outbox: Outbox) -> None:
    lane = feedback_lane(5)
    lane.items.push(b"\x01a", 6)
    outbox.wake(lane)
    lane.items.drop_all()
    assert outbox.take(ROOM, 20) == []
    assert not lane.queued


def test_an_item_of_several_messages_keeps_its_turn_and_has_no_lifetime(outbox: Outbox) -> None:
    one, other = feedback_lane(5, 1, lifetime=1.0), feedback_lane(6, 2, lifetime=1.0)
    for lane, number in ((one, 1), (other, 2)):
        for size in (35, 3, 3, 3):
            lane.items.push(bytes([number]) * size, 6)
            outbox.wake(lane)
    messages = []
    while outbox.waiting():
        messages += outbox.take(1, 20)
    assert streams(messages) == [5, 5, 5, 5, 6, 6, 6, 6, 5, 6, 5, 6, 5, 6]
    assert [message.lifetime for message in messages] == [None] * 8 + [1.0] * 6
    for number in (1, 2):
        whole, unfinished = [], b""
        for each in cut(*messages):
            if each.id == number:
                unfinished += each.content
                if each.type == RecordType.FEEDBACK:
                    whole.append(len(unfinished))
                    unfinished = b""
        assert whole == [35, 3, 3, 3]


def test_a_closed_outbox_sends_its_last_message_and_nothing_else() -> None:
    outbox = Outbox()
    outbox.close(Message(1, b"ERROR"))
    drained = []
    lane = Lane(2, CONTENT)
    outbox.add(lane, b"x")
    outbox.post(CONTROL, Message(1, b"x"))
    outbox.wake(feedback_lane(3))
    outbox.close_lane(lane, lambda: drained.append(True))
    assert outbox.take(ROOM, 100) == [Message(1, b"ERROR")]
    assert not outbox.waiting()
    assert not lane.queue
    assert drained == [True]


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(1, 25), st.integers(0, 40)),
        max_size=60,
    ),
    st.integers(8, 30),
)
def test_every_lane_s_records_arrive_once_and_in_order(steps: list[tuple[int, int, int]], limit: int) -> None:
    outbox = Outbox()
    outbox.open = True
    lanes = [Lane(number, Priority(1 + number % 3)) for number in range(5)]
    given: dict[int, bytes] = dict.fromkeys(range(5), b"")
    taken: dict[int, bytes] = dict.fromkeys(range(5), b"")
    for number, (which, size, room) in enumerate(steps):
        data = bytes([number % 256]) * size
        outbox.add(lanes[which], data)
        given[which] += data
        messages = outbox.take(room, limit)
        assert sum(len(message.data) for message in messages[:-1]) < max(room, 1)
        for message in messages:
            taken[message.stream] += message.data
            assert len(message.data) <= max(limit, 25)
    for message in outbox.take(ROOM, limit):
        taken[message.stream] += message.data
    assert taken == given
    assert not outbox.waiting()
    assert not any(lane.queued or lane.queue for lane in lanes)
