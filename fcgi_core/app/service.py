"""The application side of the program: associations in, requests handed to an application, answers out.

The service knows nothing of WSGI, ASGI or FastCGI servers; an `Application` does, and gets an `AppExchange` for each
request. All of this runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ..common.operator_log import LimitedLog
from ..hosting.delivery import Link
from ..hosting.discovery import EnabledPlugin
from ..hosting.exchange import Exchange
from ..hosting.supervisor import Supervisor
from ..hosting.switching import PeerChanges
from ..protocol.application import ApplicationConnection
from ..protocol.channels import Budget
from ..protocol.connection import MAX_HELD_OF_PEER
from ..protocol.driver import Driver
from ..protocol.events import (
    ConfigReceived,
    ConnectionFailed,
    Event,
    FeedbackReceived,
    InputClosed,
    InputReceived,
    ItemsAcknowledged,
    PeerChanged,
    PeerDraining,
    PeerError,
    PeerReady,
    RecordRefused,
    RequestAborted,
    RequestFailed,
    RequestReceived,
    Writable,
)
from ..protocol.records import ProtocolStatus, Role, encode_pairs
from ..protocol.request import Request
from ..protocol.settings import Settings, new_instance
from ..protocol.streams import Plan
from ..sctp.carrier import Address, Carrier, Listener
from ..sctp.endpoints import peer_host
from .admission import MAX_ASSOCIATIONS, MAX_ASSOCIATIONS_PER_ADDRESS, Admission

__all__ = ["AppExchange", "AppService", "Application"]

log = logging.getLogger("fcgi_sctp.app")

DRAINED_WITHIN = 2.0
"""Seconds for which a web side that has no request here is given to answer DRAIN: what a request takes that it had sent
before it knew, lost packets included."""
PROXY = "HTTP_PROXY"
"""The variable that CGI makes of a request's header Proxy. Programs take a variable of this name for the proxy that
they must use (CVE-2016-5385), so no application gets it, on whatever way it takes its requests."""


class AppExchange(Exchange):
    """One request on its way through the application. Methods are for the loop's thread."""

    __slots__ = (
        "body",
        "connection",
        "data",
        "data_closed",
        "ended",
        "input_closed",
        "on_abort",
        "on_input",
        "on_writable",
        "service",
    )

    def __init__(self, service: AppService, link: Link, request: Request) -> None:
        super().__init__()
        self.service = service
        self.link = link
        self.request = request
        self.connection: ApplicationConnection = link.driver.connection
        self.body: list[bytes] = []
        """What has come of STDIN and nobody has taken."""
        self.input_closed = request.role is Role.AUTHORIZER  # which has no STDIN (section 6.3)
        self.data: list[bytes] = []
        """For a filter (section 6.4): what has come of DATA and nobody has taken."""
        self.data_closed = False
        self.ended = False
        self.on_input: Callable[[], None] | None = None
        """Called when `body`, `data` or one of their ends changed."""
        self.on_abort: Callable[[], None] | None = None
        """Called when nobody waits for the answer any more, or nobody can get it."""
        self.on_writable: Callable[[], None] | None = None
        """Called when all that was sent has been taken up by the window."""

    @property
    def params(self) -> Mapping[str, str]:
        return self.request.params

    @property
    def raw_params(self) -> bytes:
        return self.request.raw_params

    def _made_identity(self) -> str:
        peer = self.connection.peer_settings
        assert peer is not None
        return f"{peer.instance}.{peer.association}.{self.request.id}.{self.request.generation}"

    def is_whole(self) -> bool:
        # what waits for credit, and is thrown away when the client goes, was not passed on
        return self.request.send_window.sent >= self.bytes_out and super().is_whole()

    def take_body(self) -> bytes:
        """What has come of STDIN; the window is opened by as much."""
        data = b"".join(self.body)
        self.body.clear()
        self._taken(len(data))
        return data

    def take_data(self) -> bytes:
        """What has come of a filter's DATA; the window is opened by as much."""
        data = b"".join(self.data)
        self.data.clear()
        self._taken(len(data))
        return data

    def _taken(self, count: int) -> None:
        if count and not self.ended:
            self.connection.consumed(self.request, count)
            self.link.driver.wake()

    @property
    def writable(self) -> bool:
        """False while what was sent waits for credit."""
        return self.ended or self.request.writable

    def send(self, data: bytes) -> None:
        """Part of the response: CGI header and body, as they come."""
        if self.ended or not data:
            return
        if self.service.said:
            self.service.hear()
        if self.first_byte is None:
            self.first_byte = time.monotonic()  # the loop's own clock may stand still for a turn
        if not self.head_size:
            self.read_head(data)
        self.bytes_out += len(data)
        self.connection.send_output(self.request, data)
        self.link.driver.wake()

    def stderr(self, data: bytes) -> None:
        """FCGI_STDERR. Plugins have had their chance before."""
        if not self.ended:
            connection = self.connection
            dropped = connection.stderr_dropped
            connection.send_stderr(self.request, data)
            dropped = connection.stderr_dropped - dropped
            if dropped:
                log.warning("%d bytes of STDERR of %s are left out: too much of it waits", dropped, self.identity)
            self.link.driver.wake()

    def end(
        self, app_status: int = 0, error: str = "", status: ProtocolStatus = ProtocolStatus.REQUEST_COMPLETE
    ) -> None:
        """The response is complete; `error` says why it is not what it should be, for plugins."""
        self._end(app_status, status, error)

    def fail(self, error: str) -> None:
        """The response is not complete and never will be: the web server sees it cut, or gets a 502 if nothing was
        sent. `error` says why, for plugins."""
        self._end(1, ProtocolStatus.INCOMPLETE, error)

    def _end(self, app_status: int, status: ProtocolStatus, error: str) -> None:
        if self.ended:
            return
        if self.service.said:
            self.service.hear()
        self.ended = True
        request = self.request
        # no circles: what is over is free at once, and the garbage collector has nothing to look for
        request.context = self.on_input = self.on_abort = self.on_writable = None
        aborted = request.aborted
        self.service.supervisor.delivery.send_waiting()  # what it said comes before its end, on its own streams
        self.connection.end_request(request, app_status, status)
        self.link.driver.wake()
        self.service.finished(self, aborted, error)


class Application(Protocol):
    """What runs requests: WSGI, ASGI, a bridge."""

    async def start(self, service: AppService) -> None:
        """Get ready; errors end the program."""

    def request(self, exchange: AppExchange) -> None:
        """A request has come, with its PARAMS and perhaps some or all of its body. Must return at once."""

    async def stop(self) -> None:
        """All requests have ended or been given up; end threads and the like."""


class AppService:
    """Listens for associations and runs an application on them."""

    def __init__(
        self,
        application: Application,
        carrier: Carrier,
        addresses: Sequence[Address],
        *,
        plugins: Sequence[EnabledPlugin] = (),
        settings: Settings | None = None,
        plan: Plan = Plan.PER_CHANNEL,
        remote_changes: bool = True,
        max_associations: int = MAX_ASSOCIATIONS,
        max_associations_per_address: int = MAX_ASSOCIATIONS_PER_ADDRESS,
    ) -> None:
        """`remote_changes`: whether web sides may change options of plugins."""
        self.loop = asyncio.get_running_loop()
        self.application = application
        self.addresses: list[Address] = []
        """Where it listens."""
        self._carrier = carrier
        self._wanted = addresses
        self._settings = replace(settings or Settings(), instance=new_instance())
        self._plan = plan
        self.remote_changes = remote_changes
        self.supervisor = Supervisor(
            plugins, self.loop, self.loop.call_soon_threadsafe, web=False, process_name=self._settings.name
        )
        self._associations: set[_AppAssociation] = set()
        self._accounts: dict[str, tuple[Budget, set[int]]] = {}
        """By host of web sides: what their associations hold together, and the numbers of those."""
        self._admission: Admission[_AppAssociation] = Admission(
            max_associations, max_associations_per_address, _end_association
        )
        self.limited_log = LimitedLog(log, self.loop)
        """For lines about associations that come and go as often as their peers like."""
        self._listeners: list[Listener] = []
        self.requests_ended = 0
        self._serial = 0
        self._stopping: asyncio.Event | None = None
        self.said: deque[tuple[AppExchange, bytes]] = deque()
        """STDERR of threads that is not sent yet."""
        self._hears = False
        """Whether `hear` has been called for."""

    async def start(self) -> None:
        """Start the application, then listen. CarrierError, or what the application's start raises."""
        try:
            await self.application.start(self)
        except BaseException:
            self.supervisor.close()  # what was said until now, and why it cannot start
            raise
        for address in self._wanted:
            listener = self._carrier.listen(address, self._accept)
            self._listeners.append(listener)
            self.addresses.append(listener.address)
            log.info("listening for associations at %s (%s SCTP)", listener.address, self._carrier.name)

    async def stop(self, grace: float = 10.0) -> None:
        """`finish`, then `close`."""
        await self.finish(grace)
        await self.close()

    async def finish(self, grace: float) -> None:
        """Take no new requests, let those that run end within `grace` seconds, and end the application. What it says
        meanwhile still goes: the associations stay up."""
        self._stopping = asyncio.Event()
        for listener in self._listeners:
            listener.close()
        for association in tuple(self._associations):
            association.driver.connection.drain()
            association.driver.wake()
        deadline = self.loop.time() + grace
        while (wait := min(self._holds_for(), deadline - self.loop.time())) > 0:
            self._stopping.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._stopping.wait()
            except TimeoutError:
                pass  # look again
        left = sum(len(one.connection.requests) for one in self._associations)
        if left:
            log.warning("%d requests still ran after %g s and are given up", left, grace)
        await self.application.stop()

    async def close(self) -> None:
        """After `finish`: plugins say their last, and the associations end."""
        assert self._stopping is not None
        self.supervisor.close()
        for association in tuple(self._associations):
            association.driver.shutdown()
        try:
            async with asyncio.timeout(2.0):
                while self._associations:
                    self._stopping.clear()
                    await self._stopping.wait()
        except TimeoutError:
            pass  # the peer is gone; closing the carrier aborts what is left
        self._carrier.close()
        self.limited_log.close()

    def finished(self, exchange: AppExchange, aborted: bool, error: str) -> None:
        """A request has ended: plugins hear of it."""
        self.requests_ended += 1
        if self.supervisor.follows_requests:
            self.supervisor.request_end(exchange, exchange.outcome(aborted=aborted, error=error))
        if self._stopping is not None:
            self._stopping.set()

    def _holds_for(self) -> float:
        """Seconds for which the associations hold a stop, as it looks now."""
        now = self.loop.time()
        longest = 0.0
        for one in self._associations:
            connection = one.connection
            if connection.requests:
                one.idle_since = now
                longest = math.inf
            elif not connection.peer_draining:
                # a web side answers DRAIN with its own when none of its requests is left, those on their way included
                one.idle_since = one.idle_since or now
                longest = max(longest, one.idle_since + DRAINED_WITHIN - now)
        return longest

    def say(self, exchange: AppExchange, data: bytes) -> None:
        """FCGI_STDERR from any thread: it comes before what is sent after it. RuntimeError if the loop is closed."""
        self.said.append((exchange, data))
        if not self._hears:
            self._hears = True
            self.loop.call_soon_threadsafe(self.hear)

    def hear(self) -> None:
        """Send what threads have said."""
        self._hears = False
        said = self.said
        for _ in range(len(said)):  # what comes meanwhile has been called for again
            exchange, data = said.popleft()
            exchange.stderr(data)

    def _accept(self, peer: str) -> Driver[ApplicationConnection] | None:
        if self._stopping is not None:
            return None
        self._serial += 1
        connection = ApplicationConnection(self._settings, channels=self.supervisor.channels, plan=self._plan)
        association = _AppAssociation(self, connection, peer, self._serial)
        why = self._admission.enter(association, peer, self.loop.time())
        if why:
            self.limited_log.log(logging.WARNING, "association from %s refused: %s", peer, why)
            return None
        host = association.host
        connection.account, numbers = self._accounts.setdefault(host, (Budget(MAX_HELD_OF_PEER), set()))
        numbers.add(self._serial)
        self._associations.add(association)
        return association.driver

    def _ready(self, association: _AppAssociation) -> None:
        self._admission.ready(association)

    def _gone(self, association: _AppAssociation) -> None:
        self._admission.leave(association)
        self._associations.discard(association)
        _, numbers = self._accounts[association.host]
        numbers.discard(association.serial)
        if not numbers:
            del self._accounts[association.host]
        if self._stopping is not None:
            self._stopping.set()


def _end_association(association: _AppAssociation, why: str) -> None:
    association.driver.abort(why)


class _AppAssociation:
    """One association with a web side."""

    def __init__(self, service: AppService, connection: ApplicationConnection, peer: str, serial: int) -> None:
        self.service = service
        self.connection = connection
        self.peer = peer
        self.host = peer_host(peer)
        self.serial = serial
        self.link: Link | None = None
        self.idle_since = 0.0
        """While the service stops: since when it has had no request, in the loop's time."""
        self.changes = PeerChanges(service.supervisor, service.remote_changes)
        self._log = LimitedLog(log, service.loop)
        self.driver = Driver(connection, service.loop, on_events=self._on_events, on_down=self._on_down)

    def _on_events(self, events: Sequence[Event]) -> None:
        started: list[AppExchange] = []
        for event in events:
            if isinstance(event, RequestReceived):
                started.append(self._begin(event.request))
            elif isinstance(event, InputReceived):
                exchange: AppExchange | None = event.request.context
                if exchange is not None:
                    (exchange.data if event.is_data else exchange.body).append(event.data)
                    exchange.bytes_in += len(event.data)
                    if exchange.on_input is not None:
                        exchange.on_input()
            elif isinstance(event, InputClosed):
                exchange = event.request.context
                if exchange is not None:
                    if event.is_data:
                        exchange.data_closed = True
                    else:
                        exchange.input_closed = True
                    if exchange.on_input is not None:
                        exchange.on_input()
            elif isinstance(event, Writable):
                exchange = event.request.context
                if exchange is not None and exchange.on_writable is not None:
                    exchange.on_writable()
            elif isinstance(event, FeedbackReceived):
                context = None if event.request is None else event.request.context
                assert self.link is not None
                self.service.supervisor.feedback(event.channel, event.data, context, self.link)
            else:
                self._on_rare_event(event)
        # begun only now, so that a short body that came in the same batch is there from the start
        for exchange in started:
            if exchange.request.aborted:
                exchange.end()  # it came and went in one batch
            elif not exchange.ended:
                self.service.application.request(exchange)

    def _begin(self, request: Request) -> AppExchange:
        assert self.link is not None
        if PROXY in request.params:
            del request.params[PROXY]
            request.raw_params = encode_pairs(request.params)
        exchange = AppExchange(self.service, self.link, request)
        request.context = exchange
        self.service.supervisor.request_begin(exchange)
        return exchange

    def _on_rare_event(self, event: Event) -> None:
        match event:
            case PeerReady():
                assert self.driver.association is not None
                self.service._ready(self)
                self.peer = self.driver.association.peer
                self.link = self.service.supervisor.association_up(self.driver, self.serial, self.peer, self.host)
                name = event.settings.name or event.settings.instance
                log.info("association %d with web side %s at %s is up", self.serial, name, self.peer)
            case RequestAborted():
                self._give_up(event.request.context)
            case RequestFailed():
                self._say(logging.WARNING, "web side %s: %s", event.error)
                self._give_up(event.request.context)
            case ConfigReceived():
                results = self.changes.change(event.pairs, self.service.loop.time())
                taken = sorted(name for name, reason in results.items() if not reason)
                if taken:
                    log.info("web side %s changes %s", self.peer, {name: event.pairs[name] for name in taken})
                for name, reason in results.items():
                    if reason:
                        text = "web side %s may not change %s: %s"
                        self._log.log(logging.WARNING, text, self.peer, name, reason)
                self.connection.answer_config(event.number, results)
                self.driver.wake()
            case RecordRefused():
                self._say(logging.WARNING, "web side %s: left out %s", event.error)
            case PeerChanged():
                assert self.link is not None
                self.service.supervisor.peer_changed(self.link)
            case ItemsAcknowledged():
                assert self.link is not None
                self.service.supervisor.delivery.acknowledged(self.link, event.channel, event.number)
            case PeerDraining():
                if self.service._stopping is not None:
                    self.service._stopping.set()
            case PeerError():
                self._say(logging.ERROR, "web side %s reports: %s", event.text)
            case ConnectionFailed():
                if self.link is not None:  # else its end says the same
                    text = "web side %s broke the protocol: %s"
                    self.service.limited_log.log(logging.ERROR, text, self.peer, event.error)
            case _:
                pass

    def _say(self, level: int, text: str, value: object) -> None:
        self._log.log(level, text, self.peer, value)

    @staticmethod
    def _give_up(exchange: AppExchange | None) -> None:
        """Nobody waits for the answer. The application ends the exchange when it has come to its end."""
        if exchange is not None and exchange.on_abort is not None:
            exchange.on_abort()

    def _on_down(self, reason: str) -> None:
        self._log.close()
        if self.link is not None:
            log.info("association %d with %s is down%s", self.serial, self.peer, f": {reason}" if reason else "")
            self.service.supervisor.association_down(self.link, reason)
        else:
            text = "association with %s did not come up: %s"
            self.service.limited_log.log(logging.WARNING, text, self.peer, reason or "it was shut down")
        for request in tuple(self.connection.requests.values()):
            request.aborted = True
            exchange = request.context
            if exchange is not None:
                self._give_up(exchange)
        self.service._gone(self)
