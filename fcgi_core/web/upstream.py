"""The association with one application: kept up, with the requests on it, and what becomes of them when it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Protocol

from ..common.bounded_queue import Budget
from ..common.operator_log import LimitedLog
from ..errors import RequestRefused
from ..hosting.byte_stream import KEEP_CONN
from ..hosting.delivery import Link
from ..hosting.driver import Driver
from ..hosting.supervisor import Supervisor
from ..protocol.connection import MAX_HELD_OF_PEER
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
from ..sctp.endpoints import resolve
from .attempts import FIRST_RETRY, Attempts
from .balance import AVOID_FOR, MAX_FAILURES, Health
from .exchange import State, WebExchange
from .faults import about
from .late_stderr import LateStderr, stderr_missing
from .overload import Overload
from .presence import Presence
from .probe import Probe, ProbeOptions, Prober

__all__ = ["Owner", "Upstream"]

log = logging.getLogger("fcgi_sctp.web")

GATEWAY_FAILURES = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT})
"""Answers that count as failures: a bridge gives them when its FastCGI server failed."""

ANSWER_WITHIN = 5.0
"""Seconds that an application has to answer a change of configuration."""


class Owner(Protocol):
    """What an upstream needs of the service."""

    supervisor: Supervisor

    def make_connection(self) -> WebConnection:
        """Return the protocol's side of a new association."""

    def other_with(self, instance: str, upstream: Upstream) -> Upstream | None:
        """Return an upstream of another member whose association is with the process of this instance."""

    def workers_reported(self, origin: Upstream, others: Mapping[str, str]) -> None:
        """Connect to the workers that `others` of the SETTINGS of a configured application report."""

    def upstream_ready(self) -> None:
        """Send on what waits: an association came up or has capacity again."""

    def finished(self, exchange: WebExchange, *, aborted: bool = False, error: str = "") -> None:
        """Count an exchange that is over, and report it to plugins."""

    def try_another(self, exchange: WebExchange, failed: Upstream) -> bool:
        """Send the request to another application than `failed`, which may have handled a part of it. Return False if
        that could do harm, a part of an answer has gone on, or no application accepts it."""

    def requeue(self, exchange: WebExchange, *, overloaded: bool = False) -> None:
        """Queue a request again that no application has begun. `overloaded`: an application that has too much to do
        refused it."""


class Upstream:
    """One application endpoint and the association with it."""

    def __init__(
        self,
        address: Address,
        carrier: Carrier,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
        *,
        weight: float = 1.0,
        slow_start: float = 10.0,
        probes: ProbeOptions | None = None,
        origin: Upstream | None = None,
    ) -> None:
        self.address = address
        """As it was configured: host names are looked up at each attempt."""
        self.origin = origin
        """The configured upstream whose application reported this worker; None if this is configured itself."""
        self.workers_problem = ""
        """Why some of the workers that it reported are ignored; empty if none is."""
        self.weight = weight
        self.requests = 0
        """Requests that were sent to it."""
        self.health = Health(slow_start)
        self.link: Link | None = None
        """The association, while requests may be sent on it."""
        self.last_up = loop.time()
        self.last_error = ""
        self.account: Budget = Budget(MAX_HELD_OF_PEER) if origin is None else origin.account
        """The memory that the associations of this member hold together."""
        self._log = LimitedLog(log, loop)
        self._carrier = carrier
        self._owner = owner
        self._supervisor = owner.supervisor
        self._loop = loop
        self._driver: Driver[WebConnection] | None = None
        self._connection: WebConnection
        self._attempts: Attempts = Attempts(loop) if origin is None else origin._attempts
        self._attempt: Association | None = None
        """The association that is being made."""
        self._presence = Presence(address, loop)
        self._stopping = False
        self.stopped = asyncio.Event()
        """Set when the association is gone after `stop`."""
        self._tries = 0
        self._was_up = False
        self._lookup: asyncio.Task[None] | None = None
        self._late_stderr = LateStderr(loop, owner.finished)
        self._asked: dict[int, asyncio.Future[dict[str, str]]] = {}
        """Changes of configuration that the application has not answered yet."""
        self._prober = None if probes is None else Prober(probes, self, loop)
        self._overload = Overload(loop, owner.upstream_ready)

    def start(self) -> None:
        """Try to make an association, and try again until `stop`."""
        self._tries += 1
        if self.address.is_numeric():
            self._connect(self.address)
        else:
            self._lookup = self._loop.create_task(self._look_up())

    async def _look_up(self) -> None:
        try:
            address = await resolve(self.address, self._tries)
        except CarrierError as error:
            self._on_down(str(error))
            return
        finally:
            self._lookup = None
        self._connect(address)

    def _connect(self, address: Address) -> None:
        self._connection = self._owner.make_connection()
        self._connection.account = self.account
        driver = Driver(self._connection, self._loop, on_events=self._on_events, on_down=self._on_down)
        self._driver = driver
        try:
            self._attempt = self._carrier.connect(address, driver)
        except CarrierError as error:
            self._on_down(str(error))

    def start_soon(self) -> None:
        """Start when the turn comes among the workers of the same application."""
        self._attempts.soon(self)

    def stop(self) -> None:
        """End the association gracefully, and make no further one."""
        self._stopping = True
        if self._prober is not None:
            self._prober.stop()
            self._prober = None
        self._attempts.forget(self)
        if self._lookup is not None:
            self._lookup.cancel()
        if self._driver is not None and self._driver.association is not None:
            self._driver.shutdown()
            return
        if self._attempt is not None:
            self._attempt.abort("stopping")  # it has not come up, and the service does not wait for it
        self._log.close()
        self.stopped.set()

    @property
    def capacity(self) -> int:
        """How many requests it would accept now."""
        if self.link is None or self.health.out:
            return 0
        capacity, most = self._connection.capacity, self._overload.most
        return capacity if most is None else max(0, min(capacity, most - len(self._connection.requests)))

    @property
    def _number(self) -> int:
        """The association's number."""
        return self._connection.settings.association

    @property
    def member(self) -> str:
        """The application as it was configured; its workers are the same member."""
        return str((self.origin or self).address)

    @property
    def state(self) -> str:
        """``up``, ``out`` (of the balance, by its probes) or ``down``."""
        return "down" if self.link is None else "out" if self.health.out else "up"

    @property
    def outstanding(self) -> int:
        """How many requests it handles."""
        return 0 if self.link is None else len(self._connection.requests)

    @property
    def driver(self) -> Driver[WebConnection]:
        assert self._driver is not None
        return self._driver

    async def change(self, changes: dict[str, str]) -> dict[str, str]:
        """Change configuration in the application; return for each name '' or the reason why it was refused."""
        if self.link is None:
            return dict.fromkeys(changes, "no association")
        number = max(self._asked, default=0) + 1
        answer = self._asked[number] = self._loop.create_future()
        self._connection.send_config(number, changes)
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
        link = self.link
        if link is None or self.health.out:
            raise RequestRefused(f"{self.address} is {self.state}")
        if self._overload.most is not None and self.capacity <= 0:
            raise RequestRefused(f"{self.address} is overloaded")
        whole = exchange.input_closed
        pieces: list[bytes] = []
        for kind, content in exchange.body:
            pieces.append(content)
            if kind != RecordType.STDIN:
                whole = False
        body = (pieces[0] if len(pieces) == 1 else b"".join(pieces)) if whole else None
        request = self._connection.begin_request(
            exchange.raw_params, role=exchange.role, flags=exchange.flags & KEEP_CONN, body=body
        )
        self.requests += 1
        request.context = exchange
        exchange.link = link
        exchange.request = request
        exchange.state, exchange.upstream = State.SENT, self
        exchange.can_be_sent_again = whole
        if whole:
            exchange.downstream.read_on(exchange)  # while it waited its body may have been more than is kept
        else:
            self.send_input(exchange)
        link.driver.wake()

    def send_input(self, exchange: WebExchange) -> None:
        request = exchange.request
        body, exchange.body = exchange.body, []
        for kind, content in body:
            is_data = kind == RecordType.DATA
            if content:
                self._connection.send_input(request, content, is_data=is_data)
            else:
                self._connection.end_input(request, is_data=is_data)
        if request.writable or exchange.input_closed:
            exchange.downstream.read_on(exchange)
        else:
            exchange.downstream.stop_reading(exchange)
        self.driver.wake()

    def abort(self, exchange: WebExchange) -> None:
        if self.link is not None:
            self._connection.abort(exchange.request)
            self.driver.wake()

    # ---- probes

    def send_probe(self, probe: Probe) -> None:
        link = self.link
        assert link is not None
        probe.request = request = self._connection.begin_request(probe.raw_params, body=b"")
        probe.link = link
        request.context = probe
        link.driver.wake()

    def abort_probe(self, probe: Probe) -> None:
        self._connection.abort(probe.request)
        self.driver.wake()

    def is_answered(self, probe: Probe) -> bool:
        return probe.request.key not in self._connection.requests

    def probes_say(self, good: bool, why: str) -> None:
        now = self._loop.time()
        if good:
            log.info("application %s answers its probes again and is back in the balance", self.address)
            self.health.came_up(now, first=False)
            self._owner.upstream_ready()
        else:
            log.warning("application %s is out of the balance, by its probes: %s", self.address, why)
            self.health.out = True
            self.last_up = now
            self.last_error = f"probes: {why}"

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
                    self._supervisor.delivery.acknowledged(self.link, event.channel, event.number)
            elif isinstance(event, StderrReceived):
                exchange = event.request.context
                self._supervisor.stderr(exchange, event.data)
                exchange.send_stderr(event.data)
                if self._late_stderr.ends:
                    self._late_stderr.stderr_came(event.request)
            else:
                self._on_rare_event(event)
        # STDERR that came with an end on another stream goes first
        for one in ended:
            self._ended(one)

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
            draining = self._connection.peer_draining
            if not draining:
                self._overload.refused(len(self._connection.requests))
            if exchange.can_be_sent_again:
                self._owner.requeue(exchange, overloaded=not draining)
            else:
                exchange.fail(HTTPStatus.SERVICE_UNAVAILABLE, "the application is overloaded", retry_after=1)
                self._owner.finished(exchange, error="overloaded")
            return
        self._overload.pause = FIRST_RETRY
        if event.status is ProtocolStatus.INCOMPLETE:
            self._broke_off(exchange, "the application's answer broke off", "the answer broke off")
            return
        if exchange.first_byte is None and not exchange.bytes_out:
            text = "application %s ended request %s without an answer"
            self._say(logging.WARNING, text, exchange.identity, exchange=exchange)
        if exchange.status in GATEWAY_FAILURES:
            self.failed()
        else:
            self.health.succeeded()
        if event.stderr and stderr_missing(event):
            self._late_stderr.wait(exchange, event)
            return
        exchange.end(event.app_status, event.status)
        self._owner.finished(exchange)

    def has_answered(self, exchange: WebExchange) -> bool:
        return exchange.request in self._late_stderr.ends

    def _broke_off(self, exchange: WebExchange, why: str, error: str) -> None:
        """Try another application, or answer 502, or cut the response: the application's answer will not be whole."""
        self.failed()
        if exchange.state is State.OVER:
            return
        again = self._owner.try_another(exchange, self)
        if again:
            level, then = logging.WARNING, "trying another application"
        else:
            level, then = logging.ERROR, "answered 502" if exchange.first_byte is None else "the response is cut"
        text = "application %s, request %s: %s; %s"
        self._say(level, text, exchange.identity, error, then, exchange=exchange)
        if again:
            return
        exchange.fail(HTTPStatus.BAD_GATEWAY, why)
        self._owner.finished(exchange, error=error)

    def failed(self) -> None:
        if self.health.failed(self._loop.time()):
            log.warning(
                "application %s failed %d times in a row and is avoided for %g s", self.address, MAX_FAILURES, AVOID_FOR
            )

    def _on_rare_event(self, event: Event) -> None:
        match event:
            case PeerReady():
                self._ready(event)
            case RequestFailed():
                exchange: WebExchange | Probe = event.request.context
                if isinstance(exchange, Probe):
                    self._say(logging.ERROR, "application %s: %s", event.error)
                    exchange.end(str(event.error))
                else:
                    self._broke_off(exchange, "the application's answer breaks the protocol", str(event.error))
            case PeerChanged():
                if self.link is not None:
                    self._supervisor.peer_changed(self.link)
            case PeerDraining():
                log.info("application %s takes no new requests", self.address)
            case ConfigAnswered():
                answer = self._asked.pop(event.number, None)
                if answer is not None and not answer.done():
                    answer.set_result(event.results)
            case RecordRefused():
                self._say(logging.WARNING, "application %s: left out %s", event.error)
            case PeerError():
                self._say(logging.ERROR, "application %s reports: %s", event.text)
            case ConnectionFailed():
                self._say(logging.ERROR, "application %s broke the protocol: %s", event.error)
            case _:
                pass

    def _say(self, level: int, text: str, *values: object, exchange: WebExchange | None = None) -> None:
        extra = None if exchange is None else about(exchange)
        self._log.log(self._presence.level(level), text, self.address, *values, extra=extra)

    def _ready(self, event: PeerReady) -> None:
        instance = event.settings.instance
        other = self._owner.other_with(instance, self) if instance else None
        if other is not None:
            # it claims to be the other's process, or is reached twice: the other keeps its association either way
            self.driver.abort(f"instance {instance} is associated at {other.address} already: connect to it once")
            return
        self.health.came_up(self._loop.time(), first=not self._was_up)
        self._was_up = True
        self._presence.came_up(self._number, event.settings.name or instance)
        self.link = self._supervisor.association_up(self.driver, self._number, str(self.address), self.member)
        if self._prober is not None:
            self._prober.start()
        if self.origin is None:
            self._owner.workers_reported(self, event.settings.others)
        self._attempts.hurry()
        self._owner.upstream_ready()

    def _on_down(self, reason: str) -> None:
        link, self.link = self.link, None
        self._driver = self._attempt = None
        why = reason or "it was shut down"
        if self._prober is not None:
            self._prober.stop()
        self._overload.end()
        self._late_stderr.release_all()
        self.last_error = reason
        if link is not None:
            self.last_up = self._loop.time()
            if self._presence.went_down():
                self._attempts.steady()
            lost = self._give_up_requests(reason)
            if not self._stopping:
                level = self._presence.level(logging.WARNING)
                more = f"; requests lost: {lost}" if lost else ""
                log.log(level, "association %d with %s is down: %s%s", self._number, self.address, why, more)
            self._supervisor.association_down(link, reason)
        if self._stopping:
            self._log.close()
            self.stopped.set()
            return
        if link is None or self._presence.flaps:
            # of a worker that is away with its application, the application's line says enough
            quiet = self.origin is not None and self.origin.link is None
            self._presence.failed(why, logging.DEBUG if quiet else logging.WARNING)
        self._attempts.later(self)

    def _give_up_requests(self, reason: str) -> int:
        """Send requests to other applications where that can do no harm; return how many are answered 502, or cut."""
        lost = 0
        for request in tuple(self._connection.requests.values()):
            exchange: WebExchange | Probe = request.context
            if isinstance(exchange, Probe) or exchange.state is State.OVER:
                continue
            if not request.lane.sent and exchange.can_be_sent_again:
                # SCTP has got nothing of it: the application cannot have begun it
                self._owner.requeue(exchange)
                continue
            if self._owner.try_another(exchange, self):
                continue
            exchange.fail(HTTPStatus.BAD_GATEWAY, f"the association with the application was lost: {reason}")
            self._owner.finished(exchange, error=f"association lost: {reason}")
            lost += 1
        return lost
