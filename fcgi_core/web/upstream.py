"""Associations with application endpoints: kept up, chosen from, and what happens to their requests when they go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple, Protocol

from ..common.operator_log import LimitedLog
from ..errors import RequestRefused
from ..hosting.delivery import Link
from ..hosting.supervisor import Supervisor
from ..protocol.channels import Budget
from ..protocol.connection import MAX_HELD_OF_PEER
from ..protocol.driver import Driver
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
from ..protocol.records import KEEP_CONN, ProtocolStatus, RecordType
from ..protocol.request import Request
from ..protocol.web import WebConnection
from ..sctp.carrier import Address, Association, Carrier, CarrierError
from ..sctp.endpoints import resolve
from .attempts import FIRST_RETRY, LAST_RETRY, STEADY, Attempts, Presence
from .balance import AVOID_FOR, MAX_FAILURES, Health
from .downstream import WebExchange
from .faults import about
from .probe import Probe, ProbeOptions, Prober

__all__ = ["Owner", "Upstream"]

log = logging.getLogger("fcgi_sctp.web")

GATEWAY_FAILURES = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT})
"""Answers that count as failures: a bridge gives them when it is its FastCGI server that failed."""

STDERR_WITHIN = 0.5
"""Seconds that an answer's end waits for STDERR which the application sent before it and which is late: a few
retransmissions of a fast path. Afterwards the plugins still have it; the web server does not."""

ANSWER_WITHIN = 5.0
"""Seconds that an application has to answer a change of configuration."""


class Owner(Protocol):
    """What an upstream needs of the service."""

    supervisor: Supervisor

    def make_connection(self) -> tuple[WebConnection, int]:
        """A new connection and the association's number."""

    def other_with(self, instance: str, upstream: Upstream) -> Upstream | None:
        """An upstream that is another member's and whose association is with the process of this instance."""

    def workers_told(self, origin: Upstream, others: Mapping[str, str]) -> None:
        """An application that is configured is up; `others` of its SETTINGS may tell of workers."""

    def upstream_ready(self) -> None:
        """An association came up or has capacity again."""

    def finished(self, exchange: WebExchange, *, aborted: bool = False, error: str = "") -> None:
        """The exchange is over."""

    def try_another(self, exchange: WebExchange, failed: Upstream) -> bool:
        """Nobody knows how far `failed` came with it: give it to another application if that can do no harm, and
        nothing of an answer has gone on."""

    def requeue(self, exchange: WebExchange, *, overloaded: bool = False) -> None:
        """No application has begun the exchange: let another take it, or the same one in a while. `overloaded`: an
        application refused it, which has more to do than it takes."""


class Ending(NamedTuple):
    """An answer that is complete but for STDERR that is late."""

    exchange: WebExchange
    event: RequestEnded
    timer: asyncio.TimerHandle


def stderr_missing(event: RequestEnded) -> int:
    """Bytes of an ended request's STDERR that are still on their way."""
    return (event.stderr - event.request.stderr_bytes) % (1 << 24)


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
        """The configured upstream whose application told of this one; None if this is configured itself."""
        self.workers_problem = ""
        """Why some of the workers that it reported are ignored; empty if none is."""
        self.weight = weight
        self.requests = 0
        """Requests that were sent on to it."""
        self.health = Health(slow_start)
        self.link: Link | None = None
        """The association, while requests may be sent on it."""
        self.last_up = loop.time()
        self.last_error = ""
        self.account: Budget = Budget(MAX_HELD_OF_PEER) if origin is None else origin.account
        """What the associations of this member hold together."""
        self._log = LimitedLog(log, loop)
        self._carrier = carrier
        self._owner = owner
        self._loop = loop
        self._driver: Driver[WebConnection] | None = None
        self._connection: WebConnection
        self._number = 0
        self._attempts: Attempts = Attempts(loop) if origin is None else origin._attempts
        self._attempt: Association | None = None
        """The association that is being made."""
        self._presence = Presence(loop.time())
        self._steady: asyncio.TimerHandle | None = None
        self._stopping = False
        self._on_stopped: Callable[[], None] | None = None
        self._tries = 0
        self._was_up = False
        self._lookup: asyncio.Task[None] | None = None
        self._ending: dict[Request, Ending] = {}
        """Requests whose end waits for their STDERR."""
        self._asked: dict[int, asyncio.Future[dict[str, str]]] = {}
        """Changes of configuration that the application has not answered yet."""
        self._prober = None if probes is None else Prober(probes, self, loop)
        self._most = 0
        """Requests that it had under way when it said that it takes no more; it gets no more than those."""
        self._relief: asyncio.TimerHandle | None = None
        """Until when `_most` holds; None: it does not."""
        self._back_off = FIRST_RETRY

    def start(self) -> None:
        """Try to make an association, and keep at it."""
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
        self._connection, self._number = self._owner.make_connection()
        self._connection.account = self.account
        driver = Driver(self._connection, self._loop, on_events=self._on_events, on_down=self._on_down)
        self._driver = driver
        try:
            self._attempt = self._carrier.connect(address, driver)
        except CarrierError as error:
            self._on_down(str(error))

    def start_soon(self) -> None:
        """Begin to keep an association up, when the turn comes among the workers of the same application."""
        self._attempts.soon(self)

    def stop(self, on_stopped: Callable[[], None]) -> None:
        """End the association gracefully; `on_stopped` is called when it is gone."""
        self._stopping = True
        if self._prober is not None:
            self._prober.stop()
            self._prober = None
        self._attempts.forget(self)
        if self._lookup is not None:
            self._lookup.cancel()
        if self._driver is None:
            self._log.close()
            on_stopped()
            return
        self._on_stopped = on_stopped
        if self._driver.association is None:
            self._on_stopped = None
            if self._attempt is not None:
                self._attempt.abort("stopping")  # it has not come up, and nothing waits for it
            on_stopped()
        else:
            self._driver.shutdown()

    @property
    def capacity(self) -> int:
        """Requests that it would take now."""
        if self.link is None or self.health.out:
            return 0
        capacity = self._connection.capacity
        return capacity if self._relief is None else max(0, min(capacity, self._most - len(self._connection.requests)))

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
        """Requests under way on it."""
        return 0 if self.link is None else len(self._connection.requests)

    @property
    def driver(self) -> Driver[WebConnection]:
        assert self._driver is not None
        return self._driver

    async def change(self, changes: dict[str, str]) -> dict[str, str]:
        """Change configuration in the application; for each name '' or the reason why not."""
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
        """Send the request on; RequestRefused if it does not take one now."""
        link = self.link
        if link is None or self.health.out:
            raise RequestRefused(f"{self.address} is {self.state}")
        if self._relief is not None and self.capacity <= 0:
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
        exchange.state = self
        exchange.can_be_sent_again = whole
        if whole:
            exchange.downstream.read_on(exchange)  # while it waited its body may have been more than is kept
        else:
            self.send_input(exchange)
        self.driver.wake()

    def send_input(self, exchange: WebExchange) -> None:
        """Send on what has come of the request's input."""
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
        """Nobody waits for the answer."""
        if self.link is not None:
            self._connection.abort(exchange.request)
            self.driver.wake()

    def consumed(self, exchange: WebExchange, count: int) -> None:
        if self.link is not None:
            self._connection.consumed(exchange.request, count)
            self.driver.wake()

    # ---- probes

    def send_probe(self, probe: Probe) -> None:
        link = self.link
        assert link is not None
        probe.request = request = self._connection.begin_request(probe.raw_params, body=b"")
        probe.link = link
        request.context = probe
        self.driver.wake()

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
                    self._owner.supervisor.feedback(event.channel, event.data, context, self.link)
            elif isinstance(event, ItemsAcknowledged):
                if self.link is not None:
                    self._owner.supervisor.delivery.acknowledged(self.link, event.channel, event.number)
            elif isinstance(event, StderrReceived):
                exchange = event.request.context
                self._owner.supervisor.stderr(exchange, event.data)
                exchange.send_stderr(event.data)
                late = self._ending.get(event.request) if self._ending else None
                if late is not None and not stderr_missing(late.event):
                    self._complete(event.request)
            else:
                self._on_rare_event(event)
        # STDERR that came with an end on another stream is told first
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
        if exchange.over:
            return  # another's answer on the same connection broke off
        if event.status is ProtocolStatus.OVERLOADED and exchange.first_byte is None:
            # the application had not begun it
            draining = self._connection.peer_draining
            if not draining:
                self._overloaded()
            if exchange.can_be_sent_again:
                self._owner.requeue(exchange, overloaded=not draining)
            else:
                exchange.fail(HTTPStatus.SERVICE_UNAVAILABLE, "the application is overloaded", retry_after=1)
                self._owner.finished(exchange, error="overloaded")
            return
        self._back_off = FIRST_RETRY
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
            timer = self._loop.call_later(STDERR_WITHIN, self._complete, event.request)
            self._ending[event.request] = Ending(exchange, event, timer)
            return
        exchange.end(event.app_status, event.status)
        self._owner.finished(exchange)

    def _overloaded(self) -> None:
        """The application takes no more than it has: it gets the next when one of those has ended, or after a while."""
        self._most = len(self._connection.requests)
        if self._relief is None:
            self._relief = self._loop.call_later(self._back_off, self._relieved)
            self._back_off = min(self._back_off * 2, LAST_RETRY)

    def _relieved(self) -> None:
        self._relief = None
        self._owner.upstream_ready()

    def has_answered(self, exchange: WebExchange) -> bool:
        """Whether the application has ended the exchange, whose END_REQUEST waits for its STDERR."""
        return exchange.request in self._ending

    def _complete(self, request: Request) -> None:
        """End the answer whose end waited for STDERR: it has come, or takes too long."""
        exchange, event, timer = self._ending.pop(request)
        timer.cancel()
        if not exchange.over:  # the client may have gone
            exchange.end(event.app_status, event.status)
            self._owner.finished(exchange)

    def _broke_off(self, exchange: WebExchange, why: str, error: str) -> None:
        """The answer will not be whole, by the application's fault. Another may be asked if none of it has gone on."""
        self.failed()
        if exchange.over:
            return
        again = self._owner.try_another(exchange, self)
        then = "another is asked" if again else "answered 502" if exchange.first_byte is None else "the response is cut"
        level = logging.WARNING if again else logging.ERROR
        text = "application %s, request %s: %s; %s"
        self._say(level, text, exchange.identity, error, then, exchange=exchange)
        if again:
            return
        exchange.fail(HTTPStatus.BAD_GATEWAY, why)
        self._owner.finished(exchange, error=error)

    def failed(self) -> None:
        """A request failed by the application's fault, not the association's."""
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
                    self._owner.supervisor.peer_changed(self.link)
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
        self._log.log(self._level(level), text, self.address, *values, extra=extra)

    def _level(self, level: int) -> int:
        """The level of a log line about one association: DEBUG where they would fill the log."""
        return logging.DEBUG if self._presence.flaps else level

    def _ready(self, event: PeerReady) -> None:
        instance = event.settings.instance
        other = self._owner.other_with(instance, self) if instance else None
        if other is not None:
            # it claims to be the other's process, or is reached twice: either way what is the other's stays so
            self.driver.abort(f"instance {instance} is associated at {other.address} already: connect to it once")
            return
        now = self._loop.time()
        presence = self._presence
        presence.came_up(now)
        self.health.came_up(now, first=not self._was_up)
        self._was_up = True
        name = event.settings.name or event.settings.instance
        absence = f" after {now - presence.away_since:.0f} s, {presence.attempts} attempts failed"
        log.log(
            self._level(logging.INFO),
            "association %d with application %s at %s is up%s",
            *(self._number, name, self.address, absence if presence.attempts else ""),
        )
        if presence.flaps:
            self._steady = self._loop.call_later(STEADY, self._is_steady)
        self.link = self._owner.supervisor.association_up(self.driver, self._number, str(self.address), self.member)
        if self._prober is not None:
            self._prober.start()
        if self.origin is None:
            self._owner.workers_told(self, event.settings.others)
        self._attempts.hurry()
        self._owner.upstream_ready()

    def _is_steady(self) -> None:
        self._steady = None
        log.info("association %d with application %s is up and stays", self._number, self.address)

    def _on_down(self, reason: str) -> None:
        link, self.link = self.link, None
        self._driver = self._attempt = None
        why = reason or "it was shut down"
        now = self._loop.time()
        if self._steady is not None:
            self._steady.cancel()
            self._steady = None
        if self._prober is not None:
            self._prober.stop()
        if self._relief is not None:
            self._relief.cancel()
            self._relief = None
        self._back_off = FIRST_RETRY
        for request in tuple(self._ending):
            self._complete(request)
        self.last_error = reason
        if link is not None:
            self.last_up = now
            if self._presence.went_down(now):
                self._attempts.steady()
            lost = self._give_up_requests(reason)
            if not self._stopping:
                level = self._level(logging.WARNING)
                more = f"; requests lost: {lost}" if lost else ""
                log.log(level, "association %d with %s is down: %s%s", self._number, self.address, why, more)
            self._owner.supervisor.association_down(link, reason)
        if self._stopping:
            self._log.close()
            on_stopped, self._on_stopped = self._on_stopped, None
            if on_stopped is not None:
                on_stopped()
            return
        if link is None or self._presence.flaps:
            self._absent(why, now)
        self._attempts.later(self)

    def _absent(self, why: str, now: float) -> None:
        """An attempt failed, or the association did not last."""
        presence = self._presence
        presence.attempts += 1
        if not presence.worth_a_line(now):
            log.debug("no association with %s: %s", self.address, why)
        elif presence.attempts == 1:
            # of a worker, its origin says the same
            log.log(
                logging.WARNING if self.origin is None or self.origin.link is not None else logging.DEBUG,
                "no association with %s: %s; trying on",
                *(self.address, why),
            )
        else:
            log.warning(
                "application %s is not there for %.0f s, %d attempts failed: %s",
                *(self.address, now - presence.away_since, presence.attempts, why),
            )

    def _give_up_requests(self, reason: str) -> int:
        """Give to others what may be given to others; the number of requests that are answered 502, or cut."""
        lost = 0
        for request in tuple(self._connection.requests.values()):
            exchange: WebExchange | Probe = request.context
            if isinstance(exchange, Probe) or exchange.over:
                continue
            if not request.lane.sent and exchange.can_be_sent_again:
                # nothing of it had been handed to SCTP: nobody can have begun it
                self._owner.requeue(exchange)
                continue
            if self._owner.try_another(exchange, self):
                continue
            exchange.fail(HTTPStatus.BAD_GATEWAY, f"the association with the application was lost: {reason}")
            self._owner.finished(exchange, error=f"association lost: {reason}")
            lost += 1
        return lost
