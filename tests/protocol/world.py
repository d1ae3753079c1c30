"""Two connections and a network, with requests, feedback and the checks that hold at each step."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from fcgi_core.errors import RequestRefused
from fcgi_core.hosting.driver import Driver
from fcgi_core.protocol import web as web_connection
from fcgi_core.protocol.application import ApplicationConnection
from fcgi_core.protocol.channels import Channel, Direction, Priority, Scope
from fcgi_core.protocol.connection import Connection
from fcgi_core.protocol.events import (
    Event,
    FeedbackReceived,
    InputClosed,
    InputReceived,
    OutputReceived,
    PeerDraining,
    PeerReady,
    RequestAborted,
    RequestEnded,
    RequestReceived,
    StderrReceived,
    Writable,
)
from fcgi_core.protocol.records import ProtocolStatus, RecordType, Role, encode_pairs
from fcgi_core.protocol.settings import Settings
from fcgi_core.protocol.streams import Policy
from fcgi_core.sctp.carrier import Address, CarrierOptions
from fcgi_core.sctp.memory import MemoryAssociation, MemoryNetwork, VirtualLoop
from tests.protocol.helpers import cut

ADDRESS = Address(("192.0.2.1",), 9000)
SCOPES = {"log": Scope.REQUEST, "trace": Scope.REQUEST, "alert": Scope.ASSOCIATION, "metrics": Scope.ASSOCIATION}
CHANNELS = tuple(
    Channel(
        f"{name}.{direction.value}",
        scope,
        direction,
        {"alert": Priority.URGENT, "metrics": Priority.BACKGROUND}.get(name, Priority.ORDINARY),
        ordered=name != "trace",
        lifetime=0.3 if name == "metrics" else None,
        queue_bytes=8192,
    )
    for direction in Direction
    for name, scope in SCOPES.items()
)


def payload(tag: str, size: int) -> bytes:
    return random.Random(tag).randbytes(size)


class Run:
    """What both sides did with one request, and saw of it."""

    def __init__(self, number: int, *, eager: bool, role: Role) -> None:
        self.number = number
        self.role = role
        self.eager = eager
        """Whether what comes is passed on at once, on both sides."""
        self.params: dict[str, str] = {}
        self.web: Any = None
        self.app: Any = None
        self.input = {False: b"", True: b""}
        """What was given, by whether it is DATA."""
        self.input_closed = {False: False, True: False}
        self.got_input = {False: b"", True: b""}
        self.got_close: list[bool] = []
        self.output = b""
        self.got_output = b""
        self.stderr = b""
        self.got_stderr = b""
        self.owed = {"web": 0, "app": 0}
        """Bytes that were received and not passed on."""
        self.web_aborted = self.app_aborted = self.web_ended = self.app_ended = False
        self.app_status = 0

    @property
    def over(self) -> bool:
        return self.web_ended or self.web_aborted


class World:
    """Two sides on a network. What must always hold is asserted as events come."""

    def __init__(
        self,
        network: MemoryNetwork,
        policy: Policy | None = None,
        *,
        web: Settings | None = None,
        app: Settings | None = None,
        streams: int = 256,
        most_streams: int = 2048,
    ) -> None:
        self.network = network
        loop = VirtualLoop(network)
        self.web = web_connection.WebConnection(web, channels=CHANNELS)
        self.app = ApplicationConnection(app, channels=CHANNELS)
        self.web.pool.policy = self.app.pool.policy = policy
        self.down: list[str] = []
        self.web_driver = Driver(self.web, loop, on_events=self.on_web, on_down=self.down.append)
        self.app_driver = Driver(self.app, loop, on_events=self.on_app, on_down=self.down.append)
        options = CarrierOptions(outgoing_streams=streams, incoming_streams=most_streams)
        network.carrier(options).listen(ADDRESS, lambda peer: self.app_driver)
        association = network.carrier(options).connect(ADDRESS, self.web_driver)
        assert isinstance(association, MemoryAssociation)
        self.association = association
        self.runs: list[Run] = []
        self.keys: set[tuple[int, int]] = set()
        self.ready = 0
        self.items: dict[str, dict[bytes, tuple[Run | None, bool]]] = defaultdict(dict)
        """By channel: each item that was queued, its request, and whether that had ended for the sender."""
        self.offered: dict[str, int] = defaultdict(int)
        self.got_items: dict[str, list[bytes]] = defaultdict(list)

    # ---- what the users do

    def begin(
        self, body: int | None = 0, *, role: Role = Role.RESPONDER, params: int = 20, eager: bool = True
    ) -> Run | None:
        run = Run(len(self.runs), eager=eager, role=role)
        run.params = {"NUMBER": str(run.number), "FILL": "x" * params}
        if body is not None and role is not Role.AUTHORIZER:
            run.input[False] = payload(f"in{run.number}", body)
            run.input_closed[False] = True
        capacity = self.web.capacity
        given = None if body is None else run.input[False]
        try:
            run.web = self.web.begin_request(encode_pairs(run.params), role=role, body=given)
        except RequestRefused:
            assert capacity == 0
            return None
        assert capacity > 0
        assert run.web.key not in self.keys
        self.keys.add(run.web.key)
        run.web.context = run
        self.runs.append(run)
        self.web_driver.wake()
        return run

    def send_input(self, run: Run, size: int, *, end: bool) -> None:
        is_data = run.input_closed[False]
        if is_data and (run.role is not Role.FILTER or run.input_closed[True]):
            return
        if run.role is Role.AUTHORIZER:
            return
        data = payload(f"in{run.number}.{is_data}.{len(run.input[is_data])}", size)
        self.web.send_input(run.web, data, is_data=is_data)
        run.input[is_data] += data
        if end:
            self.web.end_input(run.web, is_data=is_data)
            run.input_closed[is_data] = True
        self.web_driver.wake()

    def abort(self, run: Run) -> None:
        self.web.abort(run.web)
        run.web_aborted = not run.web_ended
        self.web_driver.wake()

    def send_output(self, run: Run, size: int) -> None:
        if not run.app_ended and run.app is not None:
            data = payload(f"out{run.number}.{len(run.output)}", size)
            self.app.send_output(run.app, data)
            if not run.app_aborted:
                run.output += data
            self.app_driver.wake()

    def send_stderr(self, run: Run, size: int) -> None:
        if run.app is not None and run.app.key in self.app.requests:
            data = payload(f"err{run.number}.{len(run.stderr)}", size)
            self.app.send_stderr(run.app, data)
            run.stderr += data
            self.app_driver.wake()

    def end(self, run: Run, app_status: int = 0) -> None:
        if run.app is not None and not run.app_ended:
            run.app_ended = True
            run.app_status = app_status
            self.app.end_request(run.app, app_status)
            self.app_driver.wake()

    def send_feedback(self, name: str, size: int, urgency: int, run: Run | None, *, from_app: bool) -> None:
        direction = Direction.TO_WEB if from_app else Direction.TO_APPLICATION
        connection: Connection = self.app if from_app else self.web
        channel = f"{name}.{direction.value}"
        request = None
        if SCOPES[name] is Scope.REQUEST:
            if run is None or (request := run.app if from_app else run.web) is None:
                return
        else:
            run = None
        late = request is not None and request.key not in connection.requests
        number = self.offered[channel]
        self.offered[channel] += 1
        item = number.to_bytes(8, "big") + payload(f"{channel}{number}", size)
        if connection.send_feedback(channel, item, request, urgency):
            self.items[channel][item] = (run, late)
        (self.app_driver if from_app else self.web_driver).wake()

    def consume(self, run: Run) -> None:
        for side, connection, request in (("web", self.web, run.web), ("app", self.app, run.app)):
            if owed := run.owed[side]:
                run.owed[side] = 0
                connection.consumed(request, owed)
        self.web_driver.wake()
        self.app_driver.wake()

    # ---- what they hear

    def on_web(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case OutputReceived():
                    run = event.request.context
                    assert not run.over
                    run.got_output += event.data
                    assert run.output.startswith(run.got_output)
                    window = event.request.receive_window
                    assert window.received - window.consumed <= window.size
                    run.owed["web"] += len(event.data)
                    if run.eager:
                        self.consume(run)
                case StderrReceived():
                    run = event.request.context
                    run.got_stderr += event.data
                    assert run.stderr.startswith(run.got_stderr)
                case RequestEnded():
                    run = event.request.context
                    assert not run.over
                    run.web_ended = True
                    if event.status is ProtocolStatus.OVERLOADED:
                        assert self.app.draining
                        assert run.app is None
                    else:
                        assert event.status is ProtocolStatus.REQUEST_COMPLETE
                        assert run.app_ended
                        assert run.got_output == run.output
                        assert event.app_status == run.app_status
                case FeedbackReceived():
                    self.on_item(event, Direction.TO_WEB)
                case PeerReady():
                    self.ready += 1
                case PeerDraining():
                    assert self.app.draining
                case Writable():
                    assert event.request.writable
                    assert not event.request.context.over
                case _:
                    raise AssertionError(event)

    def on_app(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case RequestReceived():
                    run = self.runs[int(event.request.params["NUMBER"])]
                    assert run.app is None
                    assert event.request.params == run.params
                    assert event.request.key == run.web.key
                    assert event.request.role is run.role
                    run.app = event.request
                    run.app.context = run
                case InputReceived():
                    run = event.request.context
                    assert not run.app_ended
                    assert not run.app_aborted
                    run.got_input[event.is_data] += event.data
                    assert run.input[event.is_data].startswith(run.got_input[event.is_data])
                    window = event.request.receive_window
                    assert window.received - window.consumed <= window.size
                    run.owed["app"] += len(event.data)
                    if run.eager:
                        self.consume(run)
                case InputClosed():
                    run = event.request.context
                    assert run.input_closed[event.is_data]
                    assert run.got_input[event.is_data] == run.input[event.is_data]
                    run.got_close.append(event.is_data)
                case RequestAborted():
                    run = event.request.context
                    assert run.web_aborted
                    assert not run.app_aborted
                    assert not run.app_ended
                    run.app_aborted = True
                case FeedbackReceived():
                    self.on_item(event, Direction.TO_APPLICATION)
                case PeerReady():
                    self.ready += 1
                case PeerDraining():  # the answer to ours
                    assert self.app.draining
                    assert not self.web.requests
                    assert not self.app.requests
                case Writable():
                    assert event.request.writable
                    assert not event.request.context.app_ended
                case _:
                    raise AssertionError(event)

    def on_item(self, event: FeedbackReceived, direction: Direction) -> None:
        run, late = self.items[event.channel][event.data]
        got = self.got_items[event.channel]
        if run is None:
            assert event.request is None
        elif direction is Direction.TO_WEB:
            assert event.request is run.web
        elif event.request is None:
            assert run.app is None or run.app.key not in self.app.requests
        else:
            assert event.request.key == run.web.key
        if not event.channel.startswith("trace"):
            # in order among those of one request that were sent while it ran, and among those sent later
            alike = [item for item in got if self.items[event.channel][item] == (run, late)]
            assert not alike or alike[-1] < event.data
        assert event.data not in got
        got.append(event.data)

    # ---- what must hold in the end

    def check_windows(self) -> None:
        for connection in (self.web, self.app):
            for request in connection.requests.values():
                assert request.send_window.sent <= request.send_window.limit

    def finish(self) -> None:
        """Everything is closed and taken; then nothing may be left."""
        self.network.run()
        for run in self.runs:
            run.eager = True
            for _ in range(2):
                self.send_input(run, 0, end=True)
            self.consume(run)
        self.network.run()
        for run in self.runs:
            self.end(run, run.number)
        self.network.run()
        assert not self.down
        assert self.ready == 2
        for run in self.runs:
            assert run.over, run.number
            assert run.app is None or run.app_ended
            if run.app is not None:
                assert run.got_stderr == run.stderr
            if run.app is not None and run.web_ended and run.got_close == [False, True][: len(run.got_close)]:
                for is_data in run.got_close:
                    assert run.got_input[is_data] == run.input[is_data]
        for connection, other, association in (
            (self.web, self.app, self.association),
            (self.app, self.web, self.association.other),
        ):
            assert not connection.failed
            assert connection.requests == {}
            assert not connection.waiting()
            assert connection.take(1 << 30) == []
            assert len(connection.pool.holders) == 0
            assert connection.feedback.budget.used == 0
            assert connection.content_waiting == 0
            assert association is not None
            given_up = defaultdict[str, int](int)
            for given_up_message in association.abandoned:
                *_, last = records = cut(given_up_message)
                assert last.type < RecordType.FEEDBACK_MORE  # no part of an item is given up without the rest
                for each in records:
                    if each.type < RecordType.FEEDBACK_MORE:
                        given_up[names_of(connection)[each.type - RecordType.FEEDBACK]] += 1
            for channel in names_of(connection):
                sent, received = connection.feedback.figures[channel], other.feedback.figures[channel]
                assert self.offered[channel] == sent.sent + sum(sent.dropped.values())
                assert sent.sent == received.received + given_up[channel]
                assert received.received == len(self.got_items[channel])


def names_of(connection: Connection) -> list[str]:
    return [channel.name for channel in CHANNELS if channel.direction is connection.sends]
