"""Feedback where two processes have several associations: which one carries an item, and that none comes twice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcgi_core.hosting.isolation import FAILURES_ALLOWED
from fcgi_core.hosting.links import LOOK_AFTER
from fcgi_core.protocol.channels import MAX_ITEM
from fcgi_core.sctp.memory import MemoryAssociation
from fcgi_core.sctp.statistics import AssociationStatistics

from .processes import Process, Processes

BULK = bytes(1 << 20)


def carriers(process: Process, channel: str) -> set[int]:
    """The associations that brought items of a channel."""
    return {serial for name, _, _, serial in process.half.heard if name == channel}


def send(processes: Processes, channel: str, *items: bytes, request: object = None) -> None:
    for item in items:
        processes.app.half.host.send(channel, item, request=request, urgency=1)


def figures(processes: Processes, channel: str) -> tuple[int, int, int]:
    """Items sent, received, and dropped on either side."""
    (ours,) = [one for one in processes.app.supervisor.transport().channels if one.name == channel]
    (theirs,) = [one for one in processes.web.supervisor.transport().channels if one.name == channel]
    return ours.sent, theirs.received, ours.dropped + theirs.dropped


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"%03d" % number for number in range(first, first + count)]


def test_items_come_once_and_those_with_an_order_in_order() -> None:
    processes = Processes(4, loss=0.2, jitter=0.02)
    for number in numbered(200):
        for channel in ("lines", "lines.sure", "lines.urgent"):
            send(processes, channel, number)
        processes.run(0.01)
    processes.run(20)
    half = processes.web.half
    assert half.items("lines") == half.items("lines.sure") == numbered(200)
    assert sorted(half.items("lines.urgent")) == numbered(200)
    assert carriers(processes.web, "lines") == carriers(processes.web, "lines.sure") == {1}
    assert len(carriers(processes.web, "lines.urgent")) > 1
    assert figures(processes, "lines.urgent") == (200, 200, 0)


@pytest.mark.parametrize("busy", [1, 2, 3])
def test_urgent_items_take_associations_without_content(busy: int) -> None:
    processes = Processes(3)
    processes.web.begin(busy)
    processes.run()
    (request,) = processes.app.requests
    connection = request.link.driver.connection
    connection.send_output(request.request, BULK)
    request.link.driver.wake()
    processes.run(0.01)
    began = processes.now
    for number in numbered(20):
        send(processes, "lines.urgent", number)
        send(processes, "lines.alert", number, request=request)
        processes.run(LOOK_AFTER)
    processes.run(began + processes.network.delay + 20 * LOOK_AFTER + 0.001 - processes.now)
    assert len(processes.web.half.items("lines.urgent")) == len(processes.web.half.items("lines.alert")) == 20
    assert busy not in carriers(processes.web, "lines.urgent") | carriers(processes.web, "lines.alert")


def test_urgent_items_avoid_a_long_way_and_a_small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(3)
    known = {
        1: AssociationStatistics(round_trip=0.1, congestion_window=3000, queued=3000),
        2: AssociationStatistics(round_trip=0.3, congestion_window=30_000),
        3: AssociationStatistics(round_trip=0.1, congestion_window=30_000, queued=3000),
    }
    ends = {processes.app.association(serial): known[serial] for serial in known}
    monkeypatch.setattr(MemoryAssociation, "statistics", lambda association: ends[association])
    send(processes, "lines.urgent", *numbered(5))
    processes.run()
    assert carriers(processes.web, "lines.urgent") == {3}


def test_a_single_association_is_not_asked_how_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(1)
    monkeypatch.delattr(MemoryAssociation, "statistics")
    send(processes, "lines.urgent", *numbered(5))
    processes.web.begin(1)
    processes.run()
    send(processes, "lines.alert", *numbered(5), request=processes.app.requests[0])
    processes.run()
    assert processes.web.half.items("lines.urgent") == processes.web.half.items("lines.alert") == numbered(5)


def test_an_item_finds_its_request_from_another_association_and_after_the_end() -> None:
    processes = Processes(3)
    begun = [processes.web.begin(serial) for serial in (1, 2)]
    processes.run()
    for number, request in enumerate(processes.app.requests):
        send(processes, "lines.alert", b"running %d" % number, request=request)
    processes.run()
    for number, request in enumerate(processes.app.requests):
        connection = request.link.driver.connection
        connection.send_output(request.request, BULK[:200_000])  # the end is behind it
        connection.end_request(request.request)
        request.link.driver.wake()
        send(processes, "lines.alert", b"ended %d" % number, request=request)
    processes.run(20)
    for number, request in enumerate(processes.app.requests):
        send(processes, "lines.alert", b"late %d" % number, request=request)
    processes.run()
    heard = {item: (request, serial) for _, item, request, serial in processes.web.half.heard}
    for when in (b"running", b"ended", b"late"):
        for number, request in enumerate(begun):
            assert heard[b"%s %d" % (when, number)][0] is request
    assert 3 in carriers(processes.web, "lines.alert")
    assert figures(processes, "lines.alert") == (6, 6, 0)


def test_no_application_speaks_for_a_request_of_another_process() -> None:
    processes = Processes(2)
    other = Process(processes, "other", web=False)
    processes.web.begin(1)
    processes.run()
    (request,) = processes.app.requests
    there = processes.app
    processes.app = other
    serial = processes.connect()
    reference = request.reference
    assert reference is not None
    connection = other.links[serial].driver.connection
    connection.send_feedback("lines.alert", b"not its own", None, of=reference[1])
    connection = there.links[2].driver.connection
    connection.send_feedback("lines.alert", b"its own", None, of=reference[1])
    for process, number in ((other, serial), (there, 2)):
        process.links[number].driver.wake()
    processes.run()
    heard = {item: request for _, item, request, _ in processes.web.half.heard}
    assert heard[b"not its own"] is None
    assert heard[b"its own"] is not None


def test_the_number_of_an_acknowledged_item_names_no_request() -> None:
    processes = Processes(2)
    processes.web.begin(1)
    processes.run()
    (request,) = processes.app.requests
    assert request.reference is not None
    link = processes.app.links[2]
    link.driver.connection.send_feedback("lines.sure", request.reference[1].to_bytes(8, "big") + b"item")
    link.driver.wake()
    processes.run()
    assert processes.web.half.heard == [("lines.sure", b"item", None, 2)]


def test_the_longest_item_of_a_request_stays_with_it() -> None:
    processes = Processes(2)
    begun = processes.web.begin(1)
    processes.run()
    (request,) = processes.app.requests
    send(processes, "lines.alert", bytes(MAX_ITEM - 8), bytes(MAX_ITEM), request=request)
    processes.run(60)
    heard = [(len(item), request, serial) for _, item, request, serial in processes.web.half.heard]
    assert sorted(heard) == [(MAX_ITEM - 8, begun, 2), (MAX_ITEM, begun, 1)]


def test_long_urgent_items_arrive_whole_among_short_ones() -> None:
    processes = Processes(2, loss=0.3, jitter=0.05)
    items = [bytes([number]) * (100_000 if number % 3 == 0 else 100) for number in range(30)]
    for item in items:
        send(processes, "lines.urgent", item)
        processes.run(0.02)
    processes.run(60)
    assert sorted(processes.web.half.items("lines.urgent")) == items


def test_what_a_lost_association_did_not_send_goes_to_another_of_the_same_process() -> None:
    """In order, once; only what SCTP held is lost, and the figures say how much."""
    processes = Processes(0)
    strangers = Process(processes, "strangers", web=True)
    for web in (processes.web, strangers, processes.web):
        processes.connect(web)
    half = processes.app.half
    for number in range(40):
        half.host.send("lines", b"%03d" % number + bytes(10_000), urgency=1)
        half.host.send("lines.sure", b"%03d" % number + bytes(10_000))
    processes.run(0.001)
    waiting = processes.app.links[1].driver.connection.feedback.budget.used
    assert waiting > 0
    processes.app.association(1).lose("the test cut it")
    processes.run(20)
    assert strangers.half.heard == []
    sure = [item[:3] for item in processes.web.half.items("lines.sure")]
    assert sure == numbered(40)
    plain = [item[:3] for item in processes.web.half.items("lines")]
    assert plain == sorted(set(plain))
    sent, received, dropped = figures(processes, "lines")
    assert (received, dropped) == (len(plain), 0)
    assert 0 < sent - received <= 40 - waiting // 20_006, "what SCTP had"
    assert processes.app.supervisor.delivery.waiting("lines.sure") == 0


def test_what_is_for_one_web_server_stays_with_it_when_an_association_is_lost() -> None:
    processes = Processes(0)
    others = Process(processes, "others", web=True)
    for web in (others, processes.web, processes.web):
        processes.connect(web)
    processes.web.begin(3)
    processes.run()
    items = [b"%03d" % number + bytes(10_000) for number in range(40)]
    send(processes, "lines", *items, request=processes.app.requests[0])
    processes.run(0.001)
    processes.app.association(2).lose("the test cut it")
    processes.run(20)
    assert others.half.heard == []
    assert carriers(processes.web, "lines") == {3}
    assert processes.web.half.items("lines") == items[-len(processes.web.half.heard) :]


def test_an_alert_that_waited_for_a_lost_association_names_its_request_on_another() -> None:
    processes = Processes(3)
    begun = processes.web.begin(1)
    processes.run()
    (request,) = processes.app.requests
    link = processes.app.links[3]
    assert request.reference is not None
    link.driver.connection.send_feedback("lines.alert", b"alert", None, of=request.reference[1])
    processes.app.association(3).lose("the test cut it")
    processes.run()
    assert [(item, request) for _, item, request, _ in processes.web.half.heard] == [(b"alert", begun)]


def test_alerts_of_a_process_that_is_gone_are_counted() -> None:
    processes = Processes(2)
    processes.web.begin(1)
    processes.run()
    (request,) = processes.app.requests
    assert request.reference is not None
    processes.app.links[2].driver.connection.send_feedback("lines.alert", b"alert", None, of=request.reference[1])
    for serial in (1, 2):
        processes.app.association(serial).lose("the test cut it")
    processes.run()
    send(processes, "lines.alert", b"too late", request=request)
    processes.run()
    assert processes.app.supervisor.delivery.lost == {"lines.alert": 2}


def test_acknowledged_items_come_once_while_associations_come_and_go() -> None:
    processes = Processes(2, loss=0.2, jitter=0.02)
    for number in range(300):
        send(processes, "lines.sure", b"%03d" % number)
        processes.run(0.02)
        if number % 60 == 30:
            processes.connect()
        elif number % 60 == 0:
            processes.app.association(min(processes.app.links)).lose("the test cut it")
    processes.run(20)
    assert sorted(processes.web.half.items("lines.sure")) == numbered(300)
    assert processes.app.supervisor.delivery.waiting("lines.sure") == 0


def test_another_association_does_not_take_what_waits_for_its_turn_on_the_first() -> None:
    """Acknowledged items that the first had no room for: two associations would change their order."""
    processes = Processes(1)
    processes.app.links[1].driver.connection.feedback.budget.limit = 200_000
    items = [b"%03d" % number + bytes(50_000) for number in range(18)]
    send(processes, "lines.sure", *items)
    processes.run(0.001)
    processes.connect()
    processes.run(20)
    assert processes.web.half.items("lines.sure") == items
    assert carriers(processes.web, "lines.sure") == {1}


def test_a_web_side_that_starts_again_gets_what_the_one_before_had_not_acknowledged() -> None:
    processes = Processes(2)
    send(processes, "lines.sure", *numbered(10))
    processes.run()
    before = processes.web
    send(processes, "lines.sure", *numbered(10, first=10))
    processes.run(0.001)
    for serial in tuple(before.links):
        processes.app.association(serial).lose("killed")
    send(processes, "lines", *numbered(5))
    send(processes, "lines.urgent", *numbered(5))
    processes.run()
    processes.web = Process(processes, "web again", web=True)
    for _ in range(2):
        processes.connect()
    processes.run()
    assert before.half.items("lines.sure") == numbered(10)
    assert processes.web.half.items("lines.sure") == numbered(10, first=10)
    assert processes.web.half.items("lines") == processes.web.half.items("lines.urgent") == numbered(5)


def test_a_broadcast_reaches_each_process_once() -> None:
    processes = Processes(3)
    other = Process(processes, "another", web=True)
    for _ in range(2):
        processes.connect(other)
    processes.app.half.host.broadcast("lines", b"to all")
    processes.run()
    assert processes.web.half.items("lines") == other.half.items("lines") == [b"to all"]


def test_a_draining_association_gets_no_urgent_items_while_there_is_another() -> None:
    processes = Processes(2)
    processes.web.begin(2)  # which makes it the slower one
    processes.run()
    processes.web.links[1].driver.connection.drain()
    processes.web.links[1].driver.wake()
    processes.run()
    send(processes, "lines.urgent", *numbered(5))
    processes.run()
    assert carriers(processes.web, "lines.urgent") == {2}


def test_a_process_whose_items_fail_is_set_aside_with_all_its_associations(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(2)

    class Broken(Exception):
        pass

    def feedback(*about: object) -> None:
        raise Broken

    monkeypatch.setattr(processes.web.half, "feedback", feedback)
    for serial in (1, 2):
        for number in numbered(FAILURES_ALLOWED // 2):
            link = processes.app.links[serial]
            link.driver.connection.send_feedback("lines", number)
            link.driver.wake()
    processes.run(0.5)
    ((aside,),) = [one["aside"] for one in processes.web.supervisor.statistics()]
    assert aside["peer"] == "peer 1"
    assert all(not link.connection.takes("lines") for link in processes.app.links.values())
    processes.connect()
    assert not processes.app.links[3].connection.takes("lines"), "nor does it help to come again"


@pytest.mark.parametrize("associations", [1, 3])
def test_acknowledged_items_come_again_if_the_peer_had_refused_them_for_a_moment(associations: int) -> None:
    """Its SETTINGS without the plugin and with it arrive together, after a loss: it has discarded what came between,
    and acknowledges what came later."""
    processes = Processes(associations)
    network, supervisor = processes.network, processes.web.supervisor
    half = processes.web.half
    send(processes, "lines.sure", *numbered(5))
    processes.run()
    send(processes, "lines.sure", *numbered(5, first=5))
    processes.run(0.01)
    network.delay = 0.5
    running = supervisor.running("lines")
    assert running is not None
    supervisor.stop(running)
    processes.run(0.2)
    network.delay = 0.05
    supervisor.start(supervisor.known["lines"])
    send(processes, "lines.sure", *numbered(5, first=10))
    processes.run(10)
    assert half.items("lines.sure") == numbered(5)
    assert sorted(processes.web.half.items("lines.sure")) == numbered(10, first=5)
    assert processes.app.supervisor.delivery.waiting("lines.sure") == 0


def set_aside(processes: Processes, aside: bool) -> None:
    """Set the web side's plugin aside, or take it back, and tell the application."""
    running = processes.web.supervisor.running("lines")
    assert running is not None
    running.aside_until = math.inf if aside else 0.0
    processes.web.supervisor._inform_all()


def test_a_late_acknowledgement_takes_nothing_that_was_discarded_and_is_on_its_way_again() -> None:
    """The first item is discarded and the second is not; the acknowledgement of the second comes when both have been
    sent again, and the association is lost before they arrive."""
    processes = Processes(1)
    network = processes.network
    send(processes, "lines.sure", b"first")
    processes.run(0.02)
    send(processes, "lines.sure", b"second")
    processes.run(0.025)
    set_aside(processes, True)
    processes.run(0.01)
    set_aside(processes, False)
    assert processes.web.half.items("lines.sure") == []
    processes.run(0.04)
    assert processes.web.half.items("lines.sure") == [b"second"]
    network.delay = 5.0  # what is sent again does not arrive
    processes.run(0.02)
    network.delay = 0.05
    processes.run(0.1)
    assert processes.app.supervisor.delivery.waiting("lines.sure") == 1, "the second is acknowledged"
    processes.app.association(1).lose("the test cut it")
    processes.connect()
    assert processes.web.half.items("lines.sure") == [b"second", b"first"]
    assert processes.app.supervisor.delivery.waiting("lines.sure") == 0


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 3)),
    st.tuples(st.just("run"), st.sampled_from([0.001, 0.01, 0.03, 0.06, 0.2])),
    st.tuples(st.just("aside"), st.booleans()),
    st.tuples(st.just("delay"), st.sampled_from([0.001, 0.05, 0.3])),
    st.tuples(st.just("lose"), st.just(0)),
    st.tuples(st.just("connect"), st.just(0)),
)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.lists(STEPS, max_size=40), st.integers(0, 1 << 16))
def test_acknowledged_items_come_once_whatever_happens(
    associations: int, steps: list[tuple[str, float]], seed: int
) -> None:
    processes = Processes(associations, seed=seed, loss=0.1, jitter=0.02)
    sent = 0
    for what, value in steps:
        if what == "send":
            send(processes, "lines.sure", *numbered(int(value), first=sent))
            sent += int(value)
        elif what == "run":
            processes.run(value)
        elif what == "aside":
            set_aside(processes, bool(value))
        elif what == "delay":
            processes.network.delay = value
        elif what == "connect":
            processes.network.delay = 0.05
            processes.connect()
        elif processes.app.links:
            processes.app.association(min(processes.app.links)).lose("the test cut it")
    processes.network.delay = 0.05
    set_aside(processes, False)
    processes.connect()
    processes.run(30)
    assert sorted(processes.web.half.items("lines.sure")) == numbered(sent)
    assert processes.app.supervisor.delivery.waiting("lines.sure") == 0
