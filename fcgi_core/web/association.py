"""One association with a process of an application: the requests on it, and what becomes of them when it is lost.

The upstream has one of these or several, and is what all of them have in common: see `upstream`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol

from ..hosting.byte_stream import KEEP_CONN
from ..hosting.delivery import Link
from ..hosting.driver import Driver
from ..hosting.load_watch import LONG_ROUND_TRIP
from ..hosting.supervisor import Supervisor
from ..protocol.events import (
    ConfigAnswered,
    ConnectionFailed,
    Event,
    FeedbackReceived,
    ItemsAcknowledged,
    OutputReceived,
    PeerChanged,
    PeerDraining,
    PeerError,
    PeerLoad,
    PeerReady,
    RecordRefused,
    RequestEnded,
    RequestFailed,
    StderrReceived,
    Writable,
)
from ..protocol.records import ProtocolStatus, RecordType
from ..protocol.web import WebConnection
from ..sctp.carrier import Address, Association, Carrier, CarrierError
from ..sctp.end_reasons import SILENT
from .attempts import FIRST_RETRY
from .balance import Health
from .exchange import State, WebExchange
from .late_stderr import LateStderr, stderr_missing
from .overload import Overload
from .pool import Answers, Load
from .probe import Probe

__all__ = ["BackEnd", "Requests", "WebAssociation"]

GATEWAY_FAILURES = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT})
"""Answers that count as failures: a bridge gives them when its FastCGI server failed."""

MEASURE_AGAIN = 1.0
"""Seconds after which the round trip is looked at again that was not known when the association came up: the kernel
learns it from the first message that is acknowledged."""
LEFT_FOR = 30.0
"""Seconds that an application has to end an association that got DRAIN: 1 MiB of STDERR takes 17 at 500 kbit/s."""
REPEAT_WITHIN = 5.0
"""Seconds that a request may have been inside a process that ended at once. One that was there for longer may be what
made it hang until its parent killed it, and would do the same to the next process."""
ANSWER_WITHIN = 5.0
"""Seconds that an application has to answer a change of configuration."""


class Requests(Protocol):
    """What becomes of requests, for the service."""

    supervisor: Supervisor

    def finished(self, exchange: WebExchange, *, aborted: bool = False, error: str = "") -> None:
        """Count an exchange that is over, and report it to plugins."""

    def requeue(self, exchange: WebExchange, *, overloaded: bool = False) -> None:
        """Queue a request again that no application has begun. `overloaded`: an application that has too much to do
        refused it."""


class Followed(Protocol):
    """What is told of the load of associations."""

    answers: Answers

    def changed(self) -> None:
        """Look whether more associations would help."""


class BackEnd(Protocol):
    """What an association needs of its upstream."""

    address: Address
    health: Health
    overload: Overload

    @property
    def growth(self) -> Followed: ...

    @property
    def outstanding(self) -> int: ...

    def failed(self) -> None:
        """Count a failure of a request by the application's fault."""

    def try_another(self, exchange: WebExchange, lost: bool) -> bool:
        """Send the request to another application; if only its association was `lost`, also by another association."""

    def say(self, level: int, text: str, *values: object, exchange: WebExchange | None = None) -> None:
        """Log a line; its first value is the address."""

    def ready(self, association: WebAssociation, event: PeerReady) -> None:
        """Use the association: its SETTINGS have come."""

    def down(self, association: WebAssociation, link: Link | None, reason: str) -> None:
        """Do without the association, which has ended or did not come up; what waits on it is released."""


class WebAssociation:
    """An association that is made, is up, or ends."""

    def __init__(
        self, back_end: BackEnd, owner: Requests, connection: WebConnection, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.address = back_end.address
        self.connection = connection
        self.number = connection.settings.association
        """The association's number."""
        self.link: Link | None = None
        """Set while requests may be under way on it."""
        self.load = Load()
        self.leaving = False
        """It gets no further requests, and ends when it has none."""
        self.used_at = 0.0
        """When it was last seen with a request, or was left without one."""
        self.late_stderr = LateStderr(loop, owner.finished)
        self._back_end = back_end
        self._owner = owner
        self._supervisor = owner.supervisor
        self._loop = loop
        self._health = back_end.health
        self._overload = back_end.overload
        self._answers: Answers | None = None
        """Told of each answer where that matters."""
        self._attempt: Association | None = None
        self._asked: dict[int, asyncio.Future[dict[str, str]]] = {}
        """Changes of configuration that the application has not answered yet."""
        self.driver: Driver[WebConnection] = Driver(connection, loop, on_events=self._on_events, on_down=self._on_down)

    def connect(self, carrier: Carrier, address: Address) -> None:
        """Make the association. `down` of the back end is called if that fails."""
        try:
            self._attempt = carrier.connect(address, self.driver)
        except CarrierError as error:
            self._on_down(str(error))

    def stop(self) -> bool:
        """End the association gracefully; return False if it has not come up, and is not waited for."""
        if self.driver.association is not None:
            self.driver.shutdown()
            return True
        if self._attempt is not None:
            self._attempt.abort("stopping")
        return False

    def leave(self) -> None:
        """Begin no further requests. When the last one has ended, let the application end the association, so that all
        gets here which it still has to send; end it if the application does not."""
        now = self._loop.time()
        if not self.leaving or self.connection.requests:
            self.leaving, self.used_at = True, now
        if not self.connection.requests:
            self.connection.drain()
            self.driver.wake()
            if now >= self.used_at + LEFT_FOR:
                self.driver.shutdown()

    @property
    def requests(self) -> int:
        """Requests under way on it."""
        return len(self.connection.requests)

    def failed(self) -> None:
        """Count a failure of a request by the application's fault."""
        self._back_end.failed()

    async def change(self, changes: dict[str, str]) -> dict[str, str]:
        """Change configuration in the application; return for each name '' or the reason why it was refused."""
        number = max(self._asked, default=0) + 1
        answer = self._asked[number] = self._loop.create_future()
        self.connection.send_config(number, changes)
        self.driver.wake()
        try:
            return await asyncio.wait_for(answer, ANSWER_WITHIN)
        except TimeoutError:
            return dict.fromkeys(changes, f"no answer within {ANSWER_WITHIN:g} s")
        finally:
            self._asked.pop(number, None)

    # ---- requests

    def begin(self, exchange: WebExchange) -> None:
        """Send the request. RequestRefused if the application accepts none now."""
        whole = exchange.input_closed
        pieces: list[bytes] = []
        for kind, content in exchange.body:
            pieces.append(content)
            if kind != RecordType.STDIN:
                whole = False
        body = (pieces[0] if len(pieces) == 1 else b"".join(pieces)) if whole else None
        request = self.connection.begin_request(
            exchange.raw_params, role=exchange.role, flags=exchange.flags & KEEP_CONN, body=body
        )
        link = self.link
        assert link is not None
        request.context = exchange
        exchange.link = link
        exchange.request = request
        exchange.state, exchange.upstream = State.SENT, self
        exchange.can_be_sent_again = whole
        if whole:
            exchange.downstream.read_on(exchange)  # while it waited its body may have been more than is kept
        else:
            self.send_input(exchange)
        self.driver.wake()

    def send_input(self, exchange: WebExchange) -> None:
        request = exchange.request
        body, exchange.body = exchange.body, []
        for kind, content in body:
            is_data = kind == RecordType.DATA
            if content:
                self.connection.send_input(request, content, is_data=is_data)
            else:
                self.connection.end_input(request, is_data=is_data)
        if request.writable or exchange.input_closed:
            exchange.downstream.read_on(exchange)
        else:
            exchange.downstream.stop_reading(exchange)
        self.driver.wake()

    def abort(self, exchange: WebExchange) -> None:
        if self.link is not None:
            self.connection.abort(exchange.request)
            self.driver.wake()

    def has_answered(self, exchange: WebExchange) -> bool:
        return exchange.request in self.late_stderr.ends

    def send_probe(self, probe: Probe) -> None:
        link = self.link
        assert link is not None
        probe.request = request = self.connection.begin_request(probe.raw_params, body=b"")
        probe.link = link
        request.context = probe
        self.driver.wake()

    # ---- events

    def _on_events(self, events: Sequence[Event]) -> None:
        ended: list[RequestEnded] = []
        for event in events:
            if isinstance(event, OutputReceived):
                exchange: WebExchange | Probe = event.request.context
                exchange.send_output(event.data)
            elif isinstance(event, RequestEnded):
                ended.append(event)
            elif isinstance(event, Writable):
                exchange = event.request.context
                if isinstance(exchange, Probe):
                    continue
                exchange.last_activity = self._loop.time()
                exchange.downstream.read_on(exchange)
            elif isinstance(event, FeedbackReceived):
                if self.link is not None:
                    context = None if event.request is None else event.request.context
                    self._supervisor.feedback(event.channel, event.data, context, self.link, event.number)
            elif isinstance(event, ItemsAcknowledged):
                if self.link is not None:
                    self._supervisor.delivery.acknowledged(self.link, event)
            elif isinstance(event, StderrReceived):
                exchange = event.request.context
                self._supervisor.stderr(exchange, event.data)
                exchange.send_stderr(event.data)
                if self.late_stderr.ends:
                    self.late_stderr.stderr_came(event.request)
            else:
                self._on_rare_event(event)
        # STDERR that came with an end on another stream goes first
        for one in ended:
            self._ended(one)
        if self.leaving and not self.connection.requests:
            self.leave()

    def _ended(self, event: RequestEnded) -> None:
        exchange: WebExchange | Probe = event.request.context
        if isinstance(exchange, Probe):
            if event.status is ProtocolStatus.OVERLOADED:
                exchange.end(None)
            else:
                exchange.end("" if event.status is ProtocolStatus.REQUEST_COMPLETE else event.status.name.lower())
            return
        if exchange.state is State.OVER:
            return  # another answer on the web server's connection broke off
        if event.status is ProtocolStatus.OVERLOADED and exchange.first_byte is None:
            # the application had not begun it
            draining = self.connection.peer_draining
            if not draining:
                self._overload.refused(self._back_end.outstanding)
            if exchange.can_be_sent_again:
                self._owner.requeue(exchange, overloaded=not draining)
            else:
                why = "the application is ending" if draining else "the application is overloaded"
                exchange.fail(HTTPStatus.SERVICE_UNAVAILABLE, why, retry_after=1)
                self._owner.finished(exchange, error="ending" if draining else "overloaded")
            return
        self._overload.pause = FIRST_RETRY
        if event.status is ProtocolStatus.INCOMPLETE:
            self._broke_off(exchange, "the application's answer broke off", "the answer broke off")
            return
        if exchange.first_byte is None and not exchange.bytes_out:
            text = "application %s ended request %s without an answer"
            self._back_end.say(logging.WARNING, text, exchange.identity, exchange=exchange)
        if exchange.status in GATEWAY_FAILURES:
            self.failed()
        else:
            self._health.succeeded()
        if event.stderr and stderr_missing(event):
            self.late_stderr.wait(exchange, event)
            return
        if self._answers is not None:
            self._answers.came(exchange.bytes_out)
        exchange.end(event.app_status, event.status)
        self._owner.finished(exchange)

    def _broke_off(self, exchange: WebExchange, why: str, error: str) -> None:
        """Try another application, or answer 502, or cut the response: the application's answer will not be whole."""
        self.failed()
        if exchange.state is State.OVER:
            return
        again = self._back_end.try_another(exchange, False)
        if again:
            level, then = logging.WARNING, "trying another application"
        else:
            level, then = logging.ERROR, "answered 502" if exchange.first_byte is None else "the response is cut"
        text = "application %s, request %s: %s; %s"
        self._back_end.say(level, text, exchange.identity, error, then, exchange=exchange)
        if again:
            return
        exchange.fail(HTTPStatus.BAD_GATEWAY, why)
        self._owner.finished(exchange, error=error)

    def _on_rare_event(self, event: Event) -> None:
        say = self._back_end.say
        match event:
            case PeerReady():
                self._back_end.ready(self, event)
            case PeerLoad():
                self.load.came(event.waiting, event.window, event.round_trip)
                self._measure()
            case RequestFailed():
                exchange: WebExchange | Probe = event.request.context
                if isinstance(exchange, Probe):
                    say(logging.ERROR, "application %s: %s", event.error)
                    exchange.end(str(event.error))
                else:
                    self._broke_off(exchange, "the application's answer breaks the protocol", str(event.error))
            case PeerChanged():
                if self.link is not None:
                    self._supervisor.peer_changed(self.link)
            case PeerDraining():
                say(logging.INFO, "application %s takes no new requests")
            case ConfigAnswered():
                answer = self._asked.pop(event.number, None)
                if answer is not None and not answer.done():
                    answer.set_result(event.results)
            case RecordRefused():
                say(logging.WARNING, "application %s: left out %s", event.error)
            case PeerError():
                say(logging.ERROR, "application %s reports: %s", event.text)
            case ConnectionFailed():
                say(logging.ERROR, "application %s broke the protocol: %s", event.error)
            case _:
                pass

    def use(self, member: str) -> Link:
        """Begin to use it: its SETTINGS have come."""
        self.link = self._supervisor.association_up(self.driver, self.number, str(self.address), member)
        return self.link

    def watch_load(self, path: float) -> None:
        """Follow what waits in both directions: there may be more associations. `path` is the shortest round trip of
        the others with the process, in seconds; 0 if there is none, or it is not known."""
        watch = self.driver.watch_load(self._sent_load)
        self.load.window = watch.first_window  # the application's begins like this side's
        base = watch.round_trip or path
        self.load.here(0, watch.first_window, watch.measure() or base, base)
        self._measure()
        if watch.round_trip is None:
            self._loop.call_later(MEASURE_AGAIN, self._measure)

    def _measure(self) -> None:
        """Look whether the path is long now."""
        watch = self.driver.watch
        if watch is not None:
            round_trip = watch.measure()
            self.load.took(0.0 if self.load.round_trip else round_trip, watch.round_trip or 0.0)
            if self.load.base >= LONG_ROUND_TRIP:
                self._answers = self._back_end.growth.answers
            self._back_end.growth.changed()

    def _sent_load(self, waiting: int, window: int, round_trip: float) -> None:
        watch = self.driver.watch
        assert watch is not None
        self.load.here(waiting, window, round_trip, watch.round_trip or round_trip)
        self._back_end.growth.changed()

    def _on_down(self, reason: str) -> None:
        link, self.link = self.link, None
        self._attempt = None
        self._back_end.down(self, link, reason)

    def give_up_requests(self, reason: str) -> int:
        """Send its requests to other applications where that can do no harm, for it is lost; return how many are
        answered 502, or cut."""
        lost = 0
        # a process that drains ends in order, and of one that is silent nobody knows how long it worked
        began_after = 0.0
        if not self.connection.peer_draining and SILENT not in reason:
            began_after = self._loop.time() - REPEAT_WITHIN
        for request in tuple(self.connection.requests.values()):
            exchange: WebExchange | Probe = request.context
            if isinstance(exchange, Probe):
                exchange.end(None)  # that is no verdict
                continue
            if exchange.state is State.OVER:
                continue
            if not request.lane.sent and exchange.can_be_sent_again:
                # SCTP has got nothing of it: the application cannot have begun it
                self._owner.requeue(exchange)
                continue
            if exchange.last_activity >= began_after and self._back_end.try_another(exchange, True):
                continue
            exchange.fail(HTTPStatus.BAD_GATEWAY, f"the association with the application was lost: {reason}")
            self._owner.finished(exchange, error=f"association lost: {reason}")
            lost += 1
        return lost
