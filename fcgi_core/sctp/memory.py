"""The memory carrier: SCTP between objects of one process, with a virtual clock. For tests.

A :class:`MemoryNetwork` is an event queue with a clock that the test moves; its carriers reach each other. The same
seed and the same calls give the same order of events. It models what users of SCTP can notice:

- messages of one stream arrive in order, those of different streams overtake each other (by jitter and loss);
- a lost message is sent again `retransmission` seconds later, and delays only its own stream (RFC 9260 section 6.6);
- unordered messages are delivered when they arrive; a message is abandoned if it would be sent again after its lifetime
  (RFC 3758);
- the send buffer is limited, and an acknowledgement, one delay after the arrival, frees it.

    network = MemoryNetwork(seed=1, delay=0.01, loss=0.02)
    server, client = network.carrier(), network.carrier()
    server.listen(address, accept)
    association = client.connect(address, handler)
    network.run()
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any

from . import end_reasons
from .carrier import (
    PATH_MTU,
    URGENT_ROOM,
    Address,
    Association,
    AssociationHandler,
    CarrierError,
    CarrierOptions,
    Listener,
    Message,
    message_size,
)
from .statistics import AssociationStatistics

__all__ = ["MemoryAssociation", "MemoryCarrier", "MemoryNetwork", "VirtualLoop"]

WINDOW = 64 * 1024
"""Payload bytes on the way at most, each direction of an association."""
EVENTS = 10_000_000
"""Bound on the events of one run(): two sides that answer each other for ever are a bug of the test."""


class MemoryNetwork:
    """Carriers that reach each other, with a clock and a queue of events. Times are in seconds."""

    def __init__(
        self,
        seed: int = 0,
        delay: float = 0.001,
        loss: float = 0.0,
        jitter: float = 0.0,
        retransmission: float = 0.1,
        window: int = WINDOW,
        packet: int = PATH_MTU,
    ) -> None:
        """`packet`: bytes of a packet; a message is delivered whole, however long it is."""
        if not (delay >= 0 and jitter >= 0 and retransmission > 0 and 0 <= loss < 1 and window > 0):
            raise ValueError("delay, jitter, retransmission and window are positive, loss is from 0 to less than 1")
        self.now = 0.0
        self.delay = delay
        self.loss = loss
        self.jitter = jitter
        self.retransmission = retransmission
        self.window = window
        self.packet = packet
        self.unreachable: set[str] = set()
        """Hosts that do not answer."""
        self.random = random.Random(seed)
        self.listeners: dict[tuple[str, int], _MemoryListener] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._ports = count(49152)

    def carrier(self, options: CarrierOptions | None = None) -> MemoryCarrier:
        """Return a new carrier on this network."""
        return MemoryCarrier(self, options or CarrierOptions())

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Call `function` at `when`, after the events that are already due then. Tests may add events."""
        heappush(self._queue, (max(when, self.now), next(self._order), function))

    def run_until(self, when: float) -> None:
        """Run all events up to `when`, and set the clock to it."""
        self._run(when)
        self.now = max(self.now, when)

    def run(self) -> None:
        """Run events until there are none."""
        self._run(float("inf"))

    def _run(self, until: float) -> None:
        for _ in range(EVENTS):
            if not self._queue or self._queue[0][0] > until:
                return
            self.now, _order, function = heappop(self._queue)
            function()
        raise RuntimeError(f"more than {EVENTS} events")

    def peer_name(self) -> str:
        """Return the name of a new peer."""
        return f"memory:{next(self._ports)}"

    def trip(self) -> float:
        """Seconds that a message takes if it is not lost."""
        return self.delay + (self.random.random() * self.jitter if self.jitter else 0.0)


class MemoryAssociation:
    """Implements :class:`fcgi_core.sctp.carrier.Association`; further attributes are for tests."""

    def __init__(self, carrier: MemoryCarrier, peer: str) -> None:
        self.carrier = carrier
        self.network = carrier.network
        self.other: MemoryAssociation | None = None
        """The other end; None before it is accepted."""
        self.handler: AssociationHandler | None = None
        self.priorities: dict[int, int] = {}
        """Priorities of streams, as set_priority() set them."""
        self.abandoned: list[Message] = []
        """Messages abandoned after their lifetime."""
        self.up = False
        self.down = False
        self._closing = False
        self._peer = peer
        self._outgoing = 0
        self._queued = 0
        self._unacknowledged = 0
        self._retransmissions = 0
        self._sent = 0
        self._received = 0
        self._waiting = False
        self._last_arrival: dict[int, float] = {}
        self._inbox: list[Message] = []

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def outgoing_streams(self) -> int:
        return self._outgoing

    @property
    def incoming_streams(self) -> int:
        return self.other._outgoing if self.other is not None else 0

    @property
    def message_size(self) -> int:
        return message_size(self.carrier.options.interleaving, self.network.packet)

    # -- sending

    def room(self, urgent: bool = False) -> int:
        if not self.up or self._closing or self.down:
            return 0
        room = self.network.window - self._queued
        self._waiting = self._waiting or room < self.network.window // 4
        return max(0, room + URGENT_ROOM if urgent else room)

    def send(self, messages: Sequence[Message], urgent: bool = False) -> int:
        taken = 0
        window = self.network.window + (URGENT_ROOM if urgent else 0)
        for message in messages:
            largest = self.carrier.options.send_buffer
            if not 0 < len(message.data) <= largest:
                raise ValueError(f"a message has 1 to {largest} bytes, this one {len(message.data)}")
            if not self.up or self._closing or self.down or self._queued >= window:
                self._waiting = True
                break
            if not 0 <= message.stream < self._outgoing:
                raise ValueError(f"there is no stream {message.stream}: the association has {self._outgoing}")
            self._send(message)
            taken += 1
        return taken

    def _send(self, message: Message) -> None:
        network = self.network
        arrival = network.now + network.trip()
        self._queued += len(message.data)
        self._unacknowledged += 1
        self._sent += 1
        lost = 0
        while network.loss and network.random.random() < network.loss:
            lost += 1
            arrival += network.retransmission
            if message.lifetime is not None and lost * network.retransmission > message.lifetime:
                network.call_at(network.now + message.lifetime, lambda: self._abandon(message))
                return
        self._retransmissions += lost
        if not message.unordered:
            arrival = max(arrival, self._last_arrival.get(message.stream, 0.0))
            self._last_arrival[message.stream] = arrival
        network.call_at(arrival, lambda: self._arrived(message))

    def _arrived(self, message: Message) -> None:
        other = self.other
        self.network.call_at(self.network.now + self.network.delay, lambda: self._acknowledged(message))
        if other is None or other.down or self.down:
            return
        if not other._inbox:  # delivered together with all that arrives at this moment
            self.network.call_at(self.network.now, other._hand_on)
        other._received += 1
        other._inbox.append(message.arrived())

    def _hand_on(self) -> None:
        messages, self._inbox = self._inbox, []
        if messages and not self.down and self.handler is not None:
            self.handler.messages_received(messages)

    def _abandon(self, message: Message) -> None:
        self.abandoned.append(message)
        self._acknowledged(message)

    def _acknowledged(self, message: Message) -> None:
        self._queued -= len(message.data)
        self._unacknowledged -= 1
        if self.down:
            return
        if self._closing and not self._unacknowledged:
            self._finish_shutdown()
        elif self._waiting and self.network.window - self._queued >= self.network.window // 4:
            self._waiting = False
            if self.handler is not None and not self._closing:
                self.handler.writable()

    # -- control

    def set_priority(self, stream: int, priority: int) -> None:
        if not self.down:
            self.priorities[stream] = priority

    def add_streams(self, count: int) -> bool:
        if not self.up or self.down or count < 1 or self._outgoing + count > 65535:
            return False
        self.network.call_at(self.network.now + 2 * self.network.delay, lambda: self._streams_answered(count))
        return True

    def _streams_answered(self, count: int) -> None:
        other = self.other
        if self.down or other is None:
            return
        granted = self._outgoing + count <= other.carrier.options.incoming_streams
        if granted:
            self._outgoing += count
            if other.handler is not None and not other.down:
                other.handler.streams_changed()
        if self.handler is not None:
            self.handler.streams_changed()

    def shutdown(self) -> None:
        if self.down or self._closing:
            return
        self._closing = True
        if not self.up:
            self.end("", soon=True)
        elif not self._unacknowledged:
            self.network.call_at(self.network.now, self._finish_shutdown)

    def _finish_shutdown(self) -> None:
        """Let the peer send what it still has, then end both (RFC 9260 section 9.2)."""
        other = self.other
        if self.down or other is None:
            return
        other._closing = True
        if other._unacknowledged:
            self.network.call_at(self.network.now + self.network.delay, self._finish_shutdown)
            return
        self.network.call_at(self.network.now + self.network.delay, lambda: other.end(""))
        self.network.call_at(self.network.now + 2 * self.network.delay, lambda: self.end(""))

    def abort(self, reason: str = "") -> None:
        if self.down:
            return
        other = self.other
        self.end(end_reasons.aborted_here(reason), soon=True)
        if other is not None:
            theirs = end_reasons.aborted(other.peer, reason)
            self.network.call_at(self.network.now + self.network.delay, lambda: other.end(theirs))

    def lose(self, reason: str = "") -> None:
        """For tests: the network fails, and both ends notice at once."""
        for end in (self, self.other):
            if end is not None:
                end.end(reason or f"{end.peer} does not answer any more", soon=True)

    def end(self, reason: str, soon: bool = False) -> None:
        """End, once. With `soon` the handler is called by an event, not now."""
        if self.down:
            return
        self.down = True
        self.carrier.associations.pop(self, None)
        if soon:
            self.network.call_at(self.network.now, lambda: self._tell_down(reason))
        else:
            self._tell_down(reason)

    def _tell_down(self, reason: str) -> None:
        handler, self.handler, self.other = self.handler, None, None  # no circle is left
        if handler is not None and not self.carrier.closed:
            handler.association_down(reason)

    def statistics(self) -> AssociationStatistics:
        return AssociationStatistics(
            round_trip=2 * self.network.delay,
            retransmission_timeout=self.network.retransmission,
            congestion_window=self.network.window,
            unacknowledged=self._unacknowledged,
            queued=self._queued,
            retransmissions=self._retransmissions,
            packets_sent=self._sent,
            packets_received=self._received,
            interleaving=self.carrier.options.interleaving,
            paths=((self._peer, "inactive" if self.down else "active" if self.up else "unconfirmed"),),
        )

    # -- opening

    def established(self, other: MemoryAssociation) -> None:
        if self.down:
            return
        self.other = other
        self.up = True
        if self.handler is not None:
            self.handler.association_up(self)


class _MemoryListener:
    def __init__(
        self, carrier: MemoryCarrier, address: Address, accept: Callable[[str], AssociationHandler | None]
    ) -> None:
        self.carrier = carrier
        self.accept = accept
        self._address = address

    @property
    def address(self) -> Address:
        return self._address

    def close(self) -> None:
        for host in self._address.hosts:
            if self.carrier.network.listeners.get((host, self._address.port)) is self:
                del self.carrier.network.listeners[host, self._address.port]


class MemoryCarrier:
    """Implements :class:`fcgi_core.sctp.carrier.Carrier`. Made by :meth:`MemoryNetwork.carrier`."""

    name = "memory"

    def __init__(self, network: MemoryNetwork, options: CarrierOptions) -> None:
        self.network = network
        self.options = options
        self.closed = False
        self.associations: dict[MemoryAssociation, None] = {}  # a set that keeps its order

    def listen(self, address: Address, accept: Callable[[str], AssociationHandler | None]) -> Listener:
        for host in address.hosts:
            if (host, address.port) in self.network.listeners:
                raise CarrierError(f"cannot listen at {address}: it is in use")
        listener = _MemoryListener(self, address, accept)
        for host in address.hosts:
            self.network.listeners[host, address.port] = listener
        return listener

    def connect(self, address: Address, handler: AssociationHandler) -> Association:
        network = self.network
        association = MemoryAssociation(self, str(address))
        association.handler = handler
        self.associations[association] = None
        host = next((host for host in address.hosts if host not in network.unreachable), None)
        if host is None:
            timeout = self.options.connect_timeout
            reason = end_reasons.no_answer(str(address), timeout)
            network.call_at(network.now + timeout, lambda: association.end(reason))
        else:  # INIT and INIT ACK, then COOKIE ECHO arrives
            network.call_at(network.now + 3 * network.delay, lambda: self._arrive(association, (host, address.port)))
        return association

    def _arrive(self, ours: MemoryAssociation, where: tuple[str, int]) -> None:
        network = self.network
        if ours.down:
            return
        listener = network.listeners.get(where)
        if listener is None or len(listener.carrier.associations) >= listener.carrier.options.max_associations:
            reason = end_reasons.refused(ours.peer)
            network.call_at(network.now + network.delay, lambda: ours.end(reason))
            return
        theirs = MemoryAssociation(listener.carrier, network.peer_name())
        theirs.handler = listener.accept(theirs.peer)
        if theirs.handler is None:
            theirs.down = True
            reason = end_reasons.aborted(ours.peer, "not wanted")
            network.call_at(network.now + network.delay, lambda: ours.end(reason))
            return
        there = listener.carrier
        there.associations[theirs] = None
        ours._outgoing = min(self.options.outgoing_streams, there.options.incoming_streams)
        theirs._outgoing = min(there.options.outgoing_streams, self.options.incoming_streams)
        ours.other = theirs
        network.call_at(network.now + network.delay, lambda: ours.established(theirs))
        theirs.established(ours)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for where, listener in tuple(self.network.listeners.items()):
            if listener.carrier is self:
                del self.network.listeners[where]
        for association in tuple(self.associations):
            association.abort("closing")


class _Call:
    """A scheduled call, see :class:`fcgi_core.common.loop.Handle`."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback

    def __call__(self) -> None:
        if self._callback is not None:
            self._callback()

    def cancel(self) -> None:
        self._callback = None


class VirtualLoop:
    """A network's clock as the loop that drivers and supervisors ask for, see :class:`fcgi_core.common.loop.Loop`."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    def time(self) -> float:
        """Return the network's time, seconds."""
        return self._network.now

    def call_soon(self, callback: Callable[..., object], *args: Any) -> _Call:
        """Call `callback` after the events that are due now."""
        return self.call_at(self._network.now, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> _Call:
        """Call `callback` at `when`."""
        call = _Call(lambda: callback(*args))
        self._network.call_at(when, call)
        return call
