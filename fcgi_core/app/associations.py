"""The associations of an application side with web sides, and the requests that come on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..common.bounded_queue import Budget
from ..common.operator_log import LimitedLog
from ..hosting.delivery import Link
from ..hosting.driver import Driver
from ..hosting.switching import PeerChanges
from ..protocol.application import ApplicationConnection
from ..protocol.connection import MAX_HELD_OF_PEER
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
from ..protocol.records import encode_pairs
from ..protocol.request import Request
from ..protocol.settings import Settings
from ..sctp.endpoints import peer_host
from .admission import Admission
from .exchange import AppExchange, Shared

__all__ = ["Association", "Associations"]

log = logging.getLogger("fcgi_sctp.app")

PROXY = "HTTP_PROXY"
"""The variable that CGI makes of a request's header Proxy. Many programs read their HTTP proxy from a variable of this
name (CVE-2016-5385), so no kind of application gets it."""


class Associations:
    """All associations of an application side."""

    def __init__(
        self,
        shared: Shared,
        make: Callable[[], ApplicationConnection],
        *,
        remote_changes: bool,
        most: int,
        most_per_address: int,
        most_per_web_side: int,
    ) -> None:
        """`make` makes the connection of a new association; `most`, `most_per_address` and
        `most_per_web_side` bound their number."""
        self.shared = shared
        self.on_request: Callable[[AppExchange], None]
        """Gets each request; set before the first association is accepted."""
        self.remote_changes = remote_changes
        self.admission: Admission[Association] = Admission(most, most_per_address, Association.abort)
        self.log = LimitedLog(log, shared.loop)
        """For lines about associations: peers decide how many come and go."""
        self._make = make
        self._all: set[Association] = set()
        self._accounts: dict[str, tuple[Budget, set[int]]] = {}
        """By host of web sides: the budget that its associations share, and their serial numbers."""
        self._most_per_web_side = most_per_web_side
        self._by_web_side: dict[tuple[str, str], list[Association]] = {}
        """By host and instance: the associations with each process of a web side that may have several."""
        self.refused = 0
        """Associations that were refused, those included that had SETTINGS."""
        self._serial = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Association]:
        return iter(tuple(self._all))

    def requests(self) -> Iterator[Iterable[Request]]:
        """Yield the requests of each association, the oldest first."""
        for one in self._all:
            yield one.connection.requests.values()

    def accept(self, peer: str) -> Driver[ApplicationConnection] | None:
        """Return the driver of a new association with `peer`; None if it is refused."""
        self._serial += 1
        association = Association(self, self._make(), peer, self._serial)
        why = self.admission.enter(association, peer, self.shared.loop.time())
        if why:
            self.refused += 1
            self.log.log(logging.WARNING, "association from %s refused: %s", peer, why)
            return None
        account = self._accounts.setdefault(association.host, (Budget(MAX_HELD_OF_PEER), set()))
        association.connection.account = account[0]
        account[1].add(self._serial)
        self._all.add(association)
        return association.driver

    def remove(self, association: Association) -> None:
        """Forget an association that has ended."""
        self.admission.leave(association)
        self._all.discard(association)
        _, serials = self._accounts[association.host]
        serials.discard(association.serial)
        if not serials:
            del self._accounts[association.host]
        self._part(association)
        self.changed()

    def join(self, association: Association, web_side: Settings) -> str:
        """Put an association to the others with the same process of a web side. Return '', or why it is refused.

        Those that the web side has given up are ended: it may have noticed a loss that this side has not."""
        if min(web_side.max_associations, self._most_per_web_side) <= 1 or not web_side.instance:
            return ""
        key = association.host, web_side.instance
        others = self._by_web_side.setdefault(key, [])
        for one in tuple(others):
            assert one.connection.peer_settings is not None
            if one.connection.peer_settings.association in web_side.given_up:
                self._part(one)
                one.abort("the web side has given it up")
        if len(others) >= self._most_per_web_side:
            self.refused += 1
            return f"this process has {len(others)} associations already, as many as FCGI_SCTP_MAX_ASSOCS"
        if others and (why := self.admission.refuses_further(association)):
            self.refused += 1
            return why
        association.web_side = key
        self._by_web_side.setdefault(key, others).append(association)
        self._regroup(others)
        return ""

    def _part(self, association: Association) -> None:
        if association.web_side is not None:
            others = self._by_web_side[association.web_side]
            others.remove(association)
            association.connection.siblings = ()
            self._regroup(others)
            if not others:
                del self._by_web_side[association.web_side]
            association.web_side = None

    @staticmethod
    def _regroup(associations: list[Association]) -> None:
        for one in associations:
            one.connection.siblings = tuple(other.connection for other in associations if other is not one)

    def changed(self) -> None:
        if self.shared.on_change is not None:
            self.shared.on_change()

    def close(self) -> None:
        """Write what the log sums up."""
        self.log.close()


class Association:
    """One association with a web side."""

    def __init__(self, owner: Associations, connection: ApplicationConnection, peer: str, serial: int) -> None:
        self.owner = owner
        self.shared = owner.shared
        self.connection = connection
        self.peer = peer
        self.host = peer_host(peer)
        self.serial = serial
        self.link: Link | None = None
        self.web_side: tuple[str, str] | None = None
        """Host and instance of the web side's process, if that may have several associations."""
        self.idle_since = 0.0
        """While the service stops: when its last request ended, in the loop's time; 0 if that is not known."""
        self.changes = PeerChanges(self.shared.supervisor, owner.remote_changes)
        self._log = LimitedLog(log, self.shared.loop)
        self.driver = Driver(connection, self.shared.loop, on_events=self._on_events, on_down=self._on_down)

    def abort(self, why: str) -> None:
        self.driver.abort(why)

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
                self.shared.supervisor.feedback(event.channel, event.data, context, self.link, event.number)
            else:
                self._on_rare_event(event)
                if self.link is None:
                    return  # it was refused: what came with its SETTINGS is nobody's
        # begun only now, so that a short body that came in the same batch is there from the start
        for exchange in started:
            if exchange.request.aborted:
                exchange.end()  # it came and went in one batch
            elif not exchange.ended:
                self.owner.on_request(exchange)

    def _begin(self, request: Request) -> AppExchange:
        assert self.link is not None
        if PROXY in request.params:
            del request.params[PROXY]
            request.raw_params = encode_pairs(request.params)
        exchange = AppExchange(self.shared, self.link, request)
        request.context = exchange
        self.shared.supervisor.request_begin(exchange)
        return exchange

    def _on_rare_event(self, event: Event) -> None:
        supervisor = self.shared.supervisor
        match event:
            case PeerReady():
                assert self.driver.association is not None
                self.owner.admission.ready(self)
                refused = self.owner.join(self, event.settings)
                if refused:
                    self.abort(refused)
                    return
                if self.web_side is not None:
                    self.driver.watch_load(self._send_load)
                self.peer = self.driver.association.peer
                self.link = supervisor.association_up(self.driver, self.serial, self.peer, self.host)
                name = event.settings.name or event.settings.instance
                log.info("association %d with web side %s at %s is up", self.serial, name, self.peer)
            case RequestAborted():
                _abort(event.request)
            case RequestFailed():
                self._say(logging.WARNING, "web side %s: %s", event.error)
                _abort(event.request)
            case ConfigReceived():
                self._change(event)
            case RecordRefused():
                self._say(logging.WARNING, "web side %s: left out %s", event.error)
            case PeerChanged():
                assert self.link is not None
                supervisor.peer_changed(self.link)
            case ItemsAcknowledged():
                assert self.link is not None
                supervisor.delivery.acknowledged(self.link, event)
            case PeerDraining():
                if not self.connection.draining and not self.connection.requests:
                    # the web side does without this association: it ends when all has gone that still waits here
                    self.driver.shutdown()
                self.owner.changed()
            case PeerError():
                self._say(logging.ERROR, "web side %s reports: %s", event.text)
            case ConnectionFailed():
                if self.link is not None:  # else its end says the same
                    self.owner.log.log(logging.ERROR, "web side %s broke the protocol: %s", self.peer, event.error)
            case _:
                pass

    def _send_load(self, waiting: int, window: int, round_trip: float) -> None:
        self.connection.send_load(waiting, window, round_trip)
        self.driver.wake()

    def _change(self, event: ConfigReceived) -> None:
        """Apply the changes of options that the web side sent, and answer which are refused."""
        results = self.changes.change(event.pairs, self.shared.loop.time())
        changed = {name: event.pairs[name] for name in sorted(results) if not results[name]}
        if changed:
            log.info("web side %s changes %s", self.peer, changed)
        for name, reason in results.items():
            if reason:
                text = "web side %s may not change %s: %s"
                self._log.log(logging.WARNING, text, self.peer, name, reason)
        self.connection.answer_config(event.number, results)
        self.driver.wake()

    def _say(self, level: int, text: str, value: object) -> None:
        self._log.log(level, text, self.peer, value)

    def _on_down(self, reason: str) -> None:
        self._log.close()
        if self.link is not None:
            log.info("association %d with %s is down%s", self.serial, self.peer, f": {reason}" if reason else "")
            self.shared.supervisor.association_down(self.link, reason)
        else:
            text = "association with %s did not come up: %s"
            self.owner.log.log(logging.WARNING, text, self.peer, reason or "it was shut down")
        for request in tuple(self.connection.requests.values()):
            request.aborted = True
            _abort(request)
        self.owner.remove(self)


def _abort(request: Request) -> None:
    """Report to the application that the client has gone. The application ends the exchange when it is ready."""
    exchange: AppExchange | None = request.context
    if exchange is not None and exchange.on_abort is not None:
        exchange.on_abort()
