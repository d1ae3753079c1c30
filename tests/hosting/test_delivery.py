"""Items on their way: to the right association, kept while there is none, and again after a loss."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcgi_core.errors import PluginError
from fcgi_core.hosting.delivery import Delivery
from fcgi_core.hosting.links import Link
from fcgi_core.hosting.outgoing import MOST_A_SECOND
from fcgi_core.plugin import AssociationInfo
from fcgi_core.protocol.channels import MAX_ITEM, Channel, Scope
from fcgi_core.protocol.events import Event, FeedbackReceived, ItemsAcknowledged
from fcgi_core.protocol.feedback import MAX_FEEDBACK_WAITING
from tests.protocol.helpers import Pair, idle, of

PLAIN = Channel("p", queue_bytes=1024)
SURE = Channel("p.sure", acknowledged=True, queue_bytes=4096)
OF_REQUEST = Channel("p.request", Scope.REQUEST)
CHANNELS = (PLAIN, SURE, OF_REQUEST)


class Clock:
    """A loop whose time and timers the test moves."""

    def __init__(self, later: list[Callable[[], None]] | None = None) -> None:
        self.now = 100.0
        self.later = [] if later is None else later

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Any:
        self.later.append(lambda: callback(*args))

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Any:
        self.later.append(lambda: callback(*args))

    def delivery(self, *channels: Channel) -> Delivery:
        return Delivery(channels, self, lambda call: call())


def linked(number: int = 1) -> tuple[Pair, Link]:
    pair = Pair(channels=CHANNELS)
    return pair, Link(idle(pair.app), AssociationInfo(number, "peer", "", "instance"))


def delivery() -> Delivery:
    def at_once(call: Callable[[], None]) -> None:
        call()

    return Delivery(CHANNELS, Clock(), at_once)


def items(events: list[Event], channel: str) -> list[bytes]:
    return [event.data for event in of(events, FeedbackReceived) if event.channel == channel]


def test_what_waits_goes_to_the_first_association_in_order_and_within_the_bound() -> None:
    sender = delivery()
    for number in range(100):
        sender.queue("p", b"%03d" % number + bytes(97), None, 6)
    assert sender.waiting("p") == 10
    assert sender.lost == {"p": 90}
    pair, link = linked()
    sender.add(link)
    pair.run()
    assert [item[:3] for item in items(pair.web_events, "p")] == [b"%03d" % number for number in range(90, 100)]


def test_an_undeclared_channel_is_an_error() -> None:
    with pytest.raises(PluginError, match="not declared"):
        delivery().queue("q", b"x", None, 6)


def test_an_item_of_a_request_that_nobody_has_is_counted() -> None:
    sender = delivery()
    _pair, link = linked()
    sender.add(link)
    sender.queue("p.request", b"x", None, 6)
    assert sender.lost == {"p.request": 1}


def test_an_acknowledged_item_is_kept_until_it_is_taken_over_and_sent_again_after_a_loss() -> None:
    sender = delivery()
    first, link = linked()
    sender.add(link)
    for number in range(5):
        sender.queue("p.sure", b"item %d" % number, None, 6)
    first.run()
    arrived = items(first.web_events, "p.sure")
    assert [item[8:] for item in arrived] == [b"item %d" % number for number in range(5)]
    assert sender.waiting("p.sure") == 5

    first.web.acknowledge("p.sure", int.from_bytes(arrived[1][:8], "big"))
    first.run()
    (event,) = of(first.app_events, ItemsAcknowledged)
    sender.acknowledged(link, event)
    assert sender.waiting("p.sure") == 3

    sender.remove(link)
    sender.queue("p.sure", b"item 5", None, 6)
    second, other = linked(2)
    sender.add(other)
    second.run()
    assert [item[8:] for item in items(second.web_events, "p.sure")] == [b"item %d" % number for number in range(2, 6)]


def test_a_second_association_takes_over_at_once() -> None:
    sender = delivery()
    first, link = linked()
    second, other = linked(2)
    sender.add(link)
    sender.add(other)
    sender.queue("p.sure", b"x", None, 6)
    first.run()
    assert items(first.web_events, "p.sure")
    sender.remove(link)
    second.run()
    assert [item[8:] for item in items(second.web_events, "p.sure")] == [b"x"]


def test_a_full_spool_refuses_and_counts() -> None:
    sender = delivery()
    for _ in range(100):
        sender.queue("p.sure", bytes(100), None, 6)
    assert 0 < sender.waiting("p.sure") < 30
    assert sender.waiting("p.sure") + sender.lost["p.sure"] == 100


def test_much_is_picked_up_in_turns_and_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcgi_core.hosting.delivery.TURN", 3)
    monkeypatch.setattr("fcgi_core.hosting.inbox.MOST", 8)
    turns: list[Callable[[], None]] = []
    sender = Delivery(CHANNELS, Clock(), turns.append)
    pair, link = linked()
    sender.add(link)
    for number in range(10):
        sender.queue("p", b"%d" % number, None, 6)
    assert len(turns) == 1
    assert sender.lost == {"p": 2}
    taken = []
    while turns:
        turns.pop(0)()
        pair.run()
        taken.append(len(items(pair.web_events, "p")))
    assert taken == [3, 6, 8]
    sender.queue("p", b"last", None, 6)
    sender.close()
    pair.run()
    assert items(pair.web_events, "p")[-1] == b"last"


def test_a_thread_that_floods_lets_the_loop_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("fcgi_core.hosting.inbox.MANY", 2)
    monkeypatch.setattr("fcgi_core.hosting.inbox.time.sleep", waited.append)
    sender = Delivery(CHANNELS, Clock(), lambda call: None)
    for _ in range(4):
        sender.queue("p", b"x", None, 6)
    assert waited == [], "the loop's own thread never waits"
    thread = threading.Thread(target=sender.queue, args=("p", b"x", None, 6))
    thread.start()
    thread.join()
    assert waited == [0.001]


def counted(*, acknowledged: bool = False) -> Channel:
    return Channel("p", queue_bytes=2048, counted=True, acknowledged=acknowledged)


def of_events(count: int, size: int = 0) -> bytes:
    return count.to_bytes(4, "big") + bytes(size)


@pytest.mark.parametrize("acknowledged", [False, True])
def test_what_is_gathered_goes_together_and_its_events_are_counted(acknowledged: bool) -> None:
    channel = counted(acknowledged=acknowledged)
    calls: list[Callable[[], None]] = []
    later: list[Callable[[], None]] = []
    sender = Delivery([channel], Clock(later), calls.append)
    pair = Pair(channels=[channel])
    link = Link(idle(pair.app), AssociationInfo(1, "peer", "", "instance"))
    made: list[bytes] = []

    def make(crowded: bool) -> list[tuple[bytes, int, AssociationInfo | None]]:
        assert not crowded
        items, made[:] = list(made), []
        return [(item, 6, link.info) for item in items]

    gathering = sender.gather("p", make)
    sender.add(link)
    made += [of_events(3), of_events(4)]
    gathering.ready()
    gathering.ready()
    assert len(calls) == 1
    calls.pop()()
    pair.run()
    start = 8 if acknowledged else 0
    assert [item[start:] for item in items(pair.web_events, "p")] == [of_events(3), of_events(4)]
    assert link.connection.feedback.figures["p"].sent == 7
    assert pair.web.feedback.figures["p"].received == 7

    made.append(of_events(5))
    gathering.ready()
    assert not calls, "it comes with the next round"
    later.pop()()
    assert link.connection.feedback.figures["p"].sent == 7 or acknowledged
    pair.run()
    assert pair.web.feedback.figures["p"].received == 12
    later.pop()()
    assert not later, "nothing was there: the next one is fetched at once"
    made.append(of_events(6))
    gathering.ready()
    assert len(calls) == 1
    sender.close()
    pair.run()
    assert pair.web.feedback.figures["p"].received == 18
    gathering.ready()
    assert len(calls) == 1, "nothing is fetched after the end"


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_crowded_channel_is_told_and_lost_events_are_counted(acknowledged: bool) -> None:
    channel = counted(acknowledged=acknowledged)
    later: list[Callable[[], None]] = []
    sender = Delivery([channel], Clock(later), later.append)
    pair = Pair(channels=[channel])
    link = Link(idle(pair.app), AssociationInfo(1, "peer", "", "instance"))
    sender.add(link)
    said: list[bool] = []

    def make(crowded: bool) -> list[tuple[bytes, int, AssociationInfo | None]]:
        said.append(crowded)
        return [(of_events(10, 300), 6, None)]

    gathering = sender.gather("p", make)
    gathering.ready()
    for _ in range(10):
        later.pop()()
    assert said[0] is False
    assert said[-1] is True
    dropped = sum(link.connection.feedback.figures["p"].dropped.values()) + sender.lost.get("p", 0)
    pair.run()
    assert pair.web.feedback.figures["p"].received + dropped == 100
    assert dropped > 0
    gathering.lose(2)
    assert sender.lost["p"] >= 2


def test_only_channels_of_association_scope_are_gathered() -> None:
    sender = delivery()
    for name in ("p.request", "unknown"):
        with pytest.raises(PluginError, match="was not declared for sending on this side at association scope"):
            sender.gather(name, lambda crowded: [])


def test_items_that_an_ended_association_did_not_send_go_to_the_next() -> None:
    sender = delivery()
    _, link = linked()
    sender.add(link)
    for number in range(10):
        sender.queue("p", b"%d" % number, None, number % 3)
    link.connection.take(1)
    sender.remove(link)
    assert sender.waiting("p") + link.connection.feedback.figures["p"].sent == 10
    assert link.connection.feedback.budget.used == 0
    other_pair, other = linked(2)
    sender.add(other)
    other_pair.run()
    came = items(other_pair.web_events, "p")
    assert came == [b"%d" % number for number in range(10 - len(came), 10)]
    assert len(came) == sender.waiting("p") + other.connection.feedback.figures["p"].sent
    assert sender.lost == {}


# ---- spools


def test_a_damaged_spool_and_one_that_holds_too_much_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def sender(bound: int) -> Delivery:
        channel = Channel("p.sure", acknowledged=True, queue_bytes=bound, spool=str(tmp_path), counted=True)
        return Delivery([channel], Clock(), lambda call: None)

    path = tmp_path / "p.sure.0.spool"
    first = sender(1 << 20)
    for _ in range(20):
        first.queue("p.sure", of_events(1, 996), None, 6)
    first.close()
    assert caplog.messages == []
    with path.open("r+b") as file:
        file.seek(1030)
        file.write(b"\xaa")
    again = sender(4096)
    assert caplog.messages == [
        f"spool {path}: 1016 bytes are damaged and were skipped; 19 items could be read",
        f"spool {path} holds more than the 4096 bytes of channel p.sure; its latest 16 items are lost",
    ]
    assert (again.waiting("p.sure"), again.lost) == (3, {"p.sure": 16})
    again.close()


# ---- what a plugin cannot do


def test_no_plugin_hands_over_more_than_its_share(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    channel = Channel("p", queue_bytes=1 << 24)
    sender = clock.delivery(channel, Channel("p.more", queue_bytes=1 << 24), Channel("q", queue_bytes=1 << 24))
    pair = Pair(channels=[channel, Channel("p.more"), Channel("q")])
    sender.add(Link(idle(pair.app), AssociationInfo(1, "peer", "", "instance")))
    for _ in range(MOST_A_SECOND + 100):
        sender.queue("p", b"x", None, 6)
    sender.queue("p.more", b"x", None, 6)
    sender.queue("q", b"of another plugin", None, 6)
    assert sender.lost == {"p": 100, "p.more": 1}
    (message,) = caplog.messages
    assert message.startswith("plugin p sends more than 20000 items a second; further ones are dropped (1 events")
    clock.now += 0.9
    sender.queue("p", b"x", None, 6)
    assert sender.lost["p"] == 101
    clock.now += 0.2
    sender.queue("p", b"x", None, 6)
    assert sender.lost["p"] == 101
    pair.run()
    assert len(items(pair.web_events, "p")) == MOST_A_SECOND + 1
    assert items(pair.web_events, "q") == [b"of another plugin"]
    for _ in range(MOST_A_SECOND):
        sender.queue("p", b"x", None, 6)
    assert len(caplog.messages) == 1
    clock.now += 60
    for _ in range(2 * MOST_A_SECOND):
        sender.queue("p", b"x", None, 6)
    assert "(103 events since the last report)" in caplog.messages[1]


def test_what_is_gathered_is_held_to_the_same_share() -> None:
    clock = Clock()
    channel = counted()
    sender = clock.delivery(channel)
    left = [MOST_A_SECOND + 50]

    def make(crowded: bool) -> list[tuple[bytes, int, AssociationInfo | None]]:
        many, left[0] = left[0], 0
        return [(of_events(2), 6, None)] * many

    sender.gather("p", make).ready()
    assert sender.lost["p"] + 2 * sender.waiting("p") == 2 * (MOST_A_SECOND + 50)
    before = sender.lost["p"]
    sender.queue("p", of_events(2), None, 6)
    assert sender.lost["p"] == before + 2


def test_a_thread_that_has_handed_over_too_much_lets_time_pass_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcgi_core.hosting.outgoing.MOST_A_SECOND", 2)
    clock = Clock()
    sender = clock.delivery(PLAIN)

    def sleep(seconds: float) -> None:
        clock.now += 0.6

    monkeypatch.setattr("fcgi_core.hosting.inbox.time.sleep", sleep)

    def hand_over() -> None:
        for _ in range(6):
            sender.queue("p", b"x", None, 6)

    thread = threading.Thread(target=hand_over)
    thread.start()
    thread.join()
    assert sender.lost == {"p": 2}, "the third and the last; before the fourth a second had passed"


def test_an_interruption_when_the_loop_is_woken_is_not_for_ever() -> None:
    """A flag that stays set would end all sending without a word."""
    calls: list[Callable[[], None]] = []
    broken = True

    def wake(call: Callable[[], None]) -> None:
        if broken:
            raise KeyboardInterrupt
        calls.append(call)

    sender = Delivery(CHANNELS, Clock(), wake)
    pair, link = linked()
    sender.add(link)
    gathering = sender.gather("p", lambda crowded: [])
    request = pair.web.begin_request(b"", body=b"")
    pair.run()
    target = type("Target", (), {"link": link, "request": pair.app.requests[request.key]})()
    hand_over: list[Callable[[], None]] = [
        gathering.ready,
        lambda: sender.queue("p.request", b"x", target, 6),
        lambda: sender.queue("p", b"x", None, 6),
    ]
    for one in hand_over:
        with pytest.raises(KeyboardInterrupt):
            one()
    broken = False
    for one in hand_over:
        one()
    assert len(calls) == 3


@pytest.mark.parametrize("item", [b"", bytes(MAX_ITEM - 7)], ids=["empty", "too long"])
def test_an_acknowledged_item_that_can_never_go_holds_up_nothing(item: bytes) -> None:
    sender = delivery_of(Channel("p.sure", acknowledged=True, queue_bytes=8 << 20))
    sender.queue("p.sure", item, None, 6)
    sender.queue("p.sure", bytes(MAX_ITEM - 8), None, 6)
    sender.queue("p.sure", b"after it", None, 6)
    assert sender.lost == {"p.sure": 1}
    pair = Pair(channels=[Channel("p.sure", acknowledged=True, queue_bytes=8 << 20)])
    sender.add(Link(idle(pair.app), AssociationInfo(1, "peer", "", "instance")))
    pair.run()
    assert [len(item) for item in items(pair.web_events, "p.sure")] == [MAX_ITEM, 16]


def delivery_of(*channels: Channel) -> Delivery:
    return Clock().delivery(*channels)


def test_what_finds_no_room_with_an_association_is_not_lost_and_comes_without_being_asked_for() -> None:
    """Other channels have filled what all have together."""
    clock = Clock()
    sure = Channel("p.sure", acknowledged=True, queue_bytes=1 << 20)
    other = Channel("q", queue_bytes=1 << 30)
    sender = clock.delivery(sure, other)
    pair = Pair(channels=[sure, other])
    link = Link(idle(pair.app), AssociationInfo(1, "peer", "", "instance"))
    sender.add(link)
    for _ in range(MAX_FEEDBACK_WAITING >> 20):
        sender.queue("q", bytes(1 << 20), None, 6)
    sender.queue("p.sure", bytes(1000), None, 6)
    sender.queue("p.sure", b"another", None, 6)
    assert link.connection.feedback.figures["p.sure"].dropped == {}
    pair.run()
    assert items(pair.web_events, "p.sure") == []
    for call in clock.later:
        call()
    pair.run()
    assert len(items(pair.web_events, "p.sure")) == 2
    assert link.connection.feedback.figures["p.sure"].dropped == {}
    assert sender.lost == {}


def test_events_of_a_channel_that_was_withdrawn_are_counted() -> None:
    sender = delivery_of(counted())
    sender.declare([])
    sender.queue("p", of_events(7), None, 6)
    assert sender.lost == {"p": 7}


def test_what_waits_at_the_end_is_counted_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    sender = delivery_of(counted())
    for _ in range(3):
        sender.queue("p", of_events(5), None, 6)
    sender.close()
    assert sender.lost == {"p": 15}
    assert caplog.messages == ["channel p: 3 items are lost with this process, because no peer has accepted them"]


def test_what_an_acknowledged_channel_has_beyond_its_share_stays_in_the_spool_for_a_while() -> None:
    clock = Clock()
    sure = Channel("p.sure", acknowledged=True, queue_bytes=8 << 20)
    sender = clock.delivery(sure)
    pair = Pair(channels=[sure])
    link = Link(idle(pair.app), AssociationInfo(1, "peer", "", "instance"))
    sender.add(link)
    for _ in range(MOST_A_SECOND + 100):
        sender.queue("p.sure", b"x", None, 6)
    pair.run()
    assert len(items(pair.web_events, "p.sure")) == MOST_A_SECOND
    assert len(clock.later) == 1
    clock.now += 1.0
    clock.later.pop()()
    pair.run()
    assert len(items(pair.web_events, "p.sure")) == MOST_A_SECOND + 100
    assert sender.lost == {}


def test_what_no_peer_has_taken_at_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    sender = delivery()
    for _ in range(3):
        sender.queue("p", b"x", None, 6)
    sender.queue("p.sure", b"x", None, 6)
    sender.close()
    assert [record.getMessage() for record in caplog.records] == [
        "channel p: 3 items are lost with this process, because no peer has accepted them",
        "channel p.sure: 1 items are lost with this process, because no peer has accepted them",
    ]


def test_nothing_is_told_at_the_end_where_a_peer_has_taken_all(caplog: pytest.LogCaptureFixture) -> None:
    sender = delivery()
    sender.queue("p", b"x", None, 6)
    _pair, link = linked()
    sender.add(link)
    sender.close()
    assert caplog.records == []
