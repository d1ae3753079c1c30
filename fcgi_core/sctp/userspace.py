"""The userspace carrier: SCTP by libusrsctp, its packets in UDP (RFC 6951). No kernel support, no privileges.

`usrsctp_carrier.c` does all work that comes with packets; Python comes in once for each batch of messages. The
library's state is one for a process, and so is :class:`_Stack` here: sockets, timer and hand-out for all carriers of
the process, on one event loop. A carrier that is used before a fork cannot be used after it.

While there are associations a timer runs every 10 ms (the library's clock); without any, nothing runs.
"""

from __future__ import annotations

import asyncio
import os
import socket
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address, ip_network
from struct import iter_unpack
from typing import Any

from .carrier import (
    Address,
    Association,
    AssociationHandler,
    AssociationStatistics,
    CarrierError,
    CarrierOptions,
    Listener,
    Message,
    Scheduler,
)

try:
    from ._usrsctp import ffi, lib
except ImportError as error:  # not built, or libusrsctp is missing: only using the carrier needs it
    ffi = lib = None
    _missing: ImportError | None = error
else:
    _missing = None

__all__ = ["UserspaceCarrier"]

TICK = 0.010
"""Seconds between calls of the library's timers."""
LINGER = 1.0
"""Seconds that the timer goes on after the last association: the library frees some of its state later."""
PACKETS_PER_WAKEUP = 256
"""Bound on packets of one socket before the loop turns to others: 1 to 2 ms of work."""
ROUNDS_PER_WAKEUP = 8
ARENA = 1 << 19
RECORDS = 4096
MESSAGE_OVERHEAD = 128
"""Bytes that a queued message costs beside its payload, as usrsctp_carrier.c counts."""
PARTIAL_MESSAGE = 4 << 20
"""Largest message taken, bytes: FastCGI's are below 64 KiB, so more is a mistake or an attack."""
PARTIAL_TOTAL = 16 << 20
"""Bound on all messages of an association that have arrived in part, bytes."""
UNCLAIMED_PEERS = 1024
"""UDP sources without an association that are remembered, each listener; the handshake needs 2 round trips."""
REASON = 400
"""Bytes of an abort's reason that go to the peer; more would not fit one packet with safety."""
UDP_BUFFER = 4 << 20

# struct carrier_record and enum carrier_kind of usrsctp_carrier.h
_RECORD = "=IIIIII"
_RECORD_SIZE = 24
_UNORDERED, _PART, _PART_UNORDERED, _PART_LOST, _UP, _STREAMS, _DOWN, _LOST, _PATH, _RESTART = range(1, 11)
_SCHEDULERS = {Scheduler.ROUND_ROBIN: 1, Scheduler.PRIORITY: 3, Scheduler.FIRST_COME: 5}
_PATH_STATES = {0x0001: "active", 0x0002: "inactive", 0x0200: "unconfirmed"}
_CAUSES = {  # RFC 9260 section 3.3.10
    1: "invalid stream",
    2: "missing parameter",
    3: "stale cookie",
    4: "out of resource",
    5: "unresolvable address",
    7: "invalid parameter",
    8: "unknown parameter",
    9: "no user data",
    11: "restart with new addresses",
}
_new_message = Message._make


class _Stack:
    """The library in this process: every endpoint and association, the timer, and the hand-out of what arrived."""

    current: _Stack | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        if lib is None:
            raise CarrierError(f"the userspace SCTP carrier is not available: {_missing}")
        if (code := lib.carrier_init()) < 0:
            raise CarrierError(f"libusrsctp does not start: {os.strerror(-code)}")
        self.loop = loop
        self.process = os.getpid()
        self.carriers: set[UserspaceCarrier] = set()
        self.endpoints: set[_Endpoint] = set()
        self.listeners: dict[int, _Listener] = {}
        self.associations: dict[int, _Association] = {}
        self.waiting: set[_Association] = set()  # for room
        self.connecting: set[_Association] = set()
        self.arena = ffi.new("uint8_t[]", ARENA)
        self.data = ffi.buffer(self.arena)
        self.records = ffi.new("struct carrier_record[]", RECORDS)
        self.record_bytes = memoryview(ffi.buffer(self.records))
        self._dirty = ffi.new("int32_t[]", 256)
        self._delivering = False
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ends = 0.0
        self._writing: set[_Endpoint] = set()

    @classmethod
    def join(cls, carrier: UserspaceCarrier) -> _Stack:
        loop = asyncio.get_running_loop()
        stack = cls.current
        if stack is None:
            stack = cls.current = cls(loop)
        elif stack.process != os.getpid():
            raise CarrierError("userspace SCTP was in use before this process was forked; start it after the fork")
        elif stack.loop is not loop:
            raise CarrierError("userspace SCTP is in use on another event loop of this process")
        stack.carriers.add(carrier)
        return stack

    def leave(self, carrier: UserspaceCarrier) -> None:
        self.carriers.discard(carrier)
        if not self.carriers:
            for handle in (self._soon, self._timer):
                if handle is not None:
                    handle.cancel()
            _Stack.current = None

    def soon(self) -> None:
        """Have output sent and events handed out on the next turn of the loop; within deliver() its end does."""
        if self._soon is None and not self._delivering:
            self._soon = self.loop.call_soon(self._run_soon)

    def _run_soon(self) -> None:
        self._soon = None
        self.deliver()

    def deliver(self) -> None:
        """Tell handlers what happened, then send what came of it."""
        self._delivering = True
        try:
            for _ in range(ROUNDS_PER_WAKEUP):
                count = lib.carrier_dirty(self._dirty, 256)
                if not count:
                    break
                for handle in ffi.unpack(self._dirty, count):
                    if handle < 0:
                        if (listener := self.listeners.get(-2 - handle)) is not None:
                            listener.accept_all()
                    elif (association := self.associations.get(handle)) is not None:
                        association.receive()
            else:
                self._soon = self._soon or self.loop.call_soon(self._run_soon)
        finally:
            self._delivering = False
        self.flush()

    def flush(self) -> None:
        if lib.carrier_flush() or self._writing:
            for endpoint in self.endpoints:
                if lib.carrier_blocked(endpoint.handle):
                    self._writing.add(endpoint)
                    self.loop.add_writer(endpoint.descriptor, self.flush)
                elif endpoint in self._writing:
                    self.forget_writer(endpoint)

    def forget_writer(self, endpoint: _Endpoint) -> None:
        if endpoint in self._writing:
            self._writing.discard(endpoint)
            self.loop.remove_writer(endpoint.descriptor)

    def run_timer(self) -> None:
        """Keep the timer running while there is an association, and a little longer."""
        self._timer_ends = self.loop.time() + LINGER
        if self._timer is None:
            lib.carrier_timers_restart()
            self._timer = self.loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        now = self.loop.time()
        if self.associations:
            self._timer_ends = now + LINGER
        self._timer = self.loop.call_later(TICK, self._tick) if now < self._timer_ends else None
        lib.carrier_timers()
        for association in tuple(self.connecting):
            association.look_for_refusal()
        for association in tuple(self.waiting):
            association.look_for_room()
        self.deliver()

    @contextmanager
    def guarded(self, association: _Association) -> Iterator[None]:
        """A handler that raises costs its association, not the others."""
        try:
            yield
        except Exception as error:
            self.loop.call_exception_handler(
                {"message": f"The handler of the SCTP association with {association.peer} failed", "exception": error}
            )
            association.abort("internal error")


class _Endpoint:
    """A UDP socket and what uses it; it closes with its last user."""

    def __init__(self, stack: _Stack, options: CarrierOptions, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.stack = stack
        self.users = 0
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            for name, forced in ((socket.SO_RCVBUF, 33), (socket.SO_SNDBUF, 32)):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
                try:
                    self.socket.setsockopt(socket.SOL_SOCKET, forced, UDP_BUFFER)
                except OSError:  # needs a privilege; the system's limit is what remains
                    self.socket.setsockopt(socket.SOL_SOCKET, name, UDP_BUFFER)
            self.socket.bind((host, port))
            networks = b"".join(map(_network, options.allowed_peers))
            self.descriptor = self.socket.fileno()
            self.handle: int = lib.carrier_endpoint_open(
                self.descriptor, 1, UNCLAIMED_PEERS, options.max_associations, networks, len(networks) // 17
            )
            if self.handle < 0:
                raise CarrierError(f"no UDP endpoint for SCTP: {os.strerror(-self.handle)}")
        except BaseException:
            self.socket.close()
            raise
        self.overhead = 28 if family == socket.AF_INET else 48  # IP and UDP headers
        self.port: int = self.socket.getsockname()[1]
        stack.endpoints.add(self)
        stack.loop.add_reader(self.descriptor, self._readable)

    def _readable(self) -> None:
        lib.carrier_input(self.handle, PACKETS_PER_WAKEUP)
        self.stack.deliver()

    def release(self) -> None:
        self.users -= 1
        if self.users:
            return
        self.stack.loop.remove_reader(self.descriptor)
        self.stack.forget_writer(self)
        self.stack.endpoints.discard(self)
        lib.carrier_endpoint_close(self.handle)
        self.socket.close()


class _Association:
    """See :class:`fcgi_core.sctp.carrier.Association`."""

    def __init__(self, carrier: UserspaceCarrier, endpoint: _Endpoint, handle: int, peer: str) -> None:
        self._carrier = carrier
        self._stack = carrier.stack
        self._endpoint = endpoint
        self._handle = handle  # -1: down
        self._peer = peer
        self._handler: AssociationHandler | None = None  # None until it is accepted
        self._up = False
        self._closing = False
        self._interleaving = False
        self._streams = (0, 0)
        self._room: int | None = None  # what is known of it since the last packet or tick
        self._partial: dict[tuple[int, int, int], list[bytes]] = {}
        self._partial_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._probe: socket.socket | None = None
        self._useful = ffi.new("uint32_t *")
        endpoint.users += 1
        self._stack.associations[handle] = self
        self._stack.run_timer()

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def outgoing_streams(self) -> int:
        return self._streams[0]

    @property
    def incoming_streams(self) -> int:
        return self._streams[1]

    # -- opening

    def begin_connect(self, handler: AssociationHandler, host: str, udp_port: int, timeout: float) -> None:
        self._handler = handler
        self._deadline = self._stack.loop.call_later(timeout, self._give_up, timeout)
        self._stack.connecting.add(self)
        # An empty datagram from a connected socket: if nothing has the UDP port, this one learns it from ICMP. (The
        # carrier's own socket is not connected, and an error waiting on it would upset uvloop.)
        try:
            self._probe = socket.socket(self._endpoint.socket.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._probe.connect((host, udp_port))
            self._probe.send(b"")
        except OSError:
            pass  # the association attempt itself will tell
        self._stack.soon()

    def begin_accept(self, handler: AssociationHandler) -> None:
        self._handler = handler

    def refuse(self) -> None:
        """The listener's user wants none of it, and will not hear of it."""
        if self._handle >= 0:
            lib.carrier_abort(self._handle, b"not wanted", 10)
            self._release()

    def look_for_refusal(self) -> None:
        if self._probe is not None:
            try:
                self._probe.recv(1)
            except ConnectionRefusedError:
                self._end(f"{self._peer} refused the association: nothing listens on that UDP port.")
            except OSError:
                pass

    def _give_up(self, timeout: float) -> None:
        self._end(f"{self._peer} did not answer within {timeout:g} s.")

    def _connecting_is_over(self) -> None:
        self._stack.connecting.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    # -- sending

    def room(self) -> int:
        if self._handle < 0 or not self._up or self._closing:
            return 0
        if self._room is None:
            self._room = lib.carrier_room(self._handle, self._useful)
        if self._room < self._useful[0]:
            self._stack.waiting.add(self)
        return max(self._room, 0)

    def send(self, messages: Sequence[Message]) -> int:
        room = self.room()
        streams = self._streams[0]
        largest = self._carrier.options.send_buffer
        heads = array("I")
        payloads: list[bytes] = []
        for stream, data, ppid, unordered, lifetime in messages:
            length = len(data)
            if not 0 < length <= largest:
                raise ValueError(f"a message has 1 to {largest} bytes, this one {length}")
            if room <= 0:
                break
            if not 0 <= stream < streams:
                raise ValueError(f"there is no stream {stream}: the association has {streams}")
            limit = 0 if lifetime is None else max(1, min(int(lifetime * 1000), 0xFFFFFFFF))
            heads.extend((length, stream, ppid, unordered, limit))
            payloads.append(data)
            room -= length + MESSAGE_OVERHEAD
        if not payloads:
            return 0
        data = payloads[0] if len(payloads) == 1 else b"".join(payloads)
        taken: int = lib.carrier_send(
            self._handle, data, len(data), ffi.from_buffer("struct carrier_outgoing[]", heads), len(payloads)
        )
        if taken < 0:  # going down; association_down follows
            taken = 0
        self._room = room if taken == len(payloads) else 0
        if taken < len(messages):
            self._stack.waiting.add(self)
        self._stack.soon()
        return taken

    def look_for_room(self) -> None:
        """Tell the handler if there is room worth telling."""
        if self._handle < 0 or not self._up or self._closing or self._handler is None:
            return
        self._room = lib.carrier_room(self._handle, self._useful)
        if self._room >= self._useful[0]:
            self._stack.waiting.discard(self)
            with self._stack.guarded(self):
                self._handler.writable()

    # -- receiving

    def receive(self) -> None:
        """Take one batch from the library and hand it on."""
        self._room = None
        stack = self._stack
        count = lib.carrier_receive(self._handle, stack.arena, ARENA, stack.records, RECORDS)
        if count > 0:
            messages: list[Message] = []
            append = messages.append
            data = stack.data
            with stack.guarded(self):
                # the records are copied: a handler may cause another batch to be read over them
                records = bytes(stack.record_bytes[: count * _RECORD_SIZE])
                events = []
                for record in iter_unpack(_RECORD, records):
                    offset, length, kind, stream, ppid, key = record
                    if kind <= _UNORDERED and not self._partial:
                        append(_new_message((stream, data[offset : offset + length], ppid, kind == 1, None)))
                    elif kind <= _PART_LOST:
                        whole = self._assemble(kind, stream, key, data[offset : offset + length])
                        if whole is not None:
                            append(_new_message((stream, whole, ppid, bool(kind & 1), None)))
                    else:
                        events.append((len(messages), kind, stream, ppid, key, data[offset : offset + length]))
                self._hand_on(messages, events)
        if self in stack.waiting:
            self.look_for_room()

    def _hand_on(self, messages: list[Message], events: list[tuple[int, int, int, int, int, bytes]]) -> None:
        """Messages and events in the order in which they came."""
        handler = self._handler
        if handler is None:
            return
        done = 0
        for at, kind, outgoing, incoming, key, data in events:
            if at > done and self._handle >= 0:
                handler.messages_received(messages[done:at])
            done = at
            if self._handle < 0:
                return
            self._event(handler, kind, outgoing, incoming, key, data)
        if done < len(messages) and self._handle >= 0:
            handler.messages_received(messages[done:] if done else messages)

    def _assemble(self, kind: int, stream: int, key: int, data: bytes) -> bytes | None:
        """Add a piece of a message; the whole of it if that was the last piece."""
        name = (stream, kind & 1, key)
        if kind == _PART_LOST:
            for unordered in (0, 1):
                self._partial_bytes -= sum(map(len, self._partial.pop((stream, unordered, key), ())))
            return None
        pieces = self._partial.get(name)
        if kind <= _UNORDERED:
            if pieces is None:
                return data
            del self._partial[name]
            self._partial_bytes -= sum(map(len, pieces))
            pieces.append(data)
            whole = b"".join(pieces)
            self._check_partial(len(whole))
            return whole
        if pieces is None:
            pieces = self._partial[name] = []
        pieces.append(data)
        self._partial_bytes += len(data)
        self._check_partial(self._partial_bytes if len(self._partial) == 1 else sum(map(len, pieces)))
        return None

    def _check_partial(self, length: int) -> None:
        if length > PARTIAL_MESSAGE:
            self.abort(f"a message larger than {PARTIAL_MESSAGE} bytes")
        elif self._partial_bytes > PARTIAL_TOTAL:
            self.abort(f"more than {PARTIAL_TOTAL} bytes of messages that are not complete")

    def _event(
        self, handler: AssociationHandler, kind: int, outgoing: int, incoming: int, key: int, data: bytes
    ) -> None:
        if kind == _UP:
            self._connecting_is_over()
            self._up = True
            self._interleaving = bool(key)
            self._streams = (outgoing, incoming)
            handler.association_up(self)
        elif kind == _STREAMS:
            status = ffi.new("struct carrier_status *")
            if lib.carrier_get_status(self._handle, status) == 0:
                self._streams = (status.outgoing_streams, status.incoming_streams)
            handler.streams_changed()
        elif kind == _DOWN:
            self._end("" if self._up else f"{self._peer} closed the association before it was up.")
        elif kind == _LOST:
            self._end(_loss(self._peer, self._up, incoming, data))
        elif kind == _RESTART:
            self._end(f"{self._peer} has started anew.")
        # _PATH: there is one path; statistics() tells its state

    # -- control

    def set_priority(self, stream: int, priority: int) -> None:
        if self._handle >= 0:
            lib.carrier_set_priority(self._handle, stream, priority)

    def add_streams(self, count: int) -> bool:
        if self._handle < 0 or not self._up or not 0 < count <= 65535 - self._streams[0]:
            return False
        asked: bool = lib.carrier_add_streams(self._handle, count) == 0
        self._stack.soon()
        return asked

    def shutdown(self) -> None:
        if self._handle < 0 or self._closing:
            return
        self._closing = True
        if not self._up or lib.carrier_shutdown(self._handle) < 0:
            self._release()
            self._stack.loop.call_soon(self._tell_down, "")
        self._stack.soon()

    def abort(self, reason: str = "") -> None:
        if self._handle < 0:
            return
        text = reason.encode()[:REASON]
        lib.carrier_abort(self._handle, text, len(text))
        self._release()
        self._stack.loop.call_soon(self._tell_down, f"Aborted by this side: {reason or 'no reason given'}.")
        self._stack.soon()

    def statistics(self) -> AssociationStatistics:
        status = ffi.new("struct carrier_status *")
        if self._handle < 0 or lib.carrier_get_status(self._handle, status) < 0:
            return AssociationStatistics()
        return AssociationStatistics(
            round_trip=status.srtt_ms / 1000,
            retransmission_timeout=status.rto_ms / 1000,
            congestion_window=status.cwnd,
            peer_receive_window=status.peer_window,
            unacknowledged=status.unacknowledged,
            queued=status.queued,
            packets_sent=status.packets_sent,
            packets_received=status.packets_received,
            interleaving=self._interleaving,
            paths=((self._peer, _PATH_STATES.get(status.path_state, "inactive")),),
        )

    # -- ending

    def _end(self, reason: str) -> None:
        """Down by the network's doing; never from inside a call of the user's."""
        if self._handle >= 0:
            self._release()
            self._tell_down(reason)
            self._stack.soon()

    def _tell_down(self, reason: str) -> None:
        if self._handler is not None and not self._carrier.closed:
            with self._stack.guarded(self):
                self._handler.association_down(reason)

    def _release(self) -> None:
        self._connecting_is_over()
        handle, self._handle = self._handle, -1
        self._stack.waiting.discard(self)
        del self._stack.associations[handle]
        self._carrier.associations.discard(self)
        self._partial.clear()
        lib.carrier_release(handle)
        self._endpoint.release()


class _Listener:
    """See :class:`fcgi_core.sctp.carrier.Listener`."""

    def __init__(
        self,
        carrier: UserspaceCarrier,
        endpoint: _Endpoint,
        handle: int,
        address: Address,
        accept: Callable[[str], AssociationHandler | None],
    ) -> None:
        self._carrier = carrier
        self._endpoint = endpoint
        self._handle = handle
        self._accept = accept
        self._address = address
        endpoint.users += 1
        carrier.stack.listeners[handle] = self

    @property
    def address(self) -> Address:
        return self._address

    def accept_all(self) -> None:
        endpoint, udp_port = ffi.new("int *"), ffi.new("uint16_t *")
        source = ffi.new("uint8_t[16]")
        while self._handle >= 0 and (handle := lib.carrier_accept(self._handle, endpoint, source, udp_port)) >= 0:
            address = IPv6Address(bytes(source))
            peer = _peer_name(str(address.ipv4_mapped or address), udp_port[0])
            association = _Association(self._carrier, self._endpoint, handle, peer)
            self._carrier.associations.add(association)
            with self._carrier.stack.guarded(association):
                handler = self._accept(peer) if endpoint[0] == self._endpoint.handle else None
                if handler is not None:
                    association.begin_accept(handler)
                    continue
            association.refuse()

    def close(self) -> None:
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            lib.carrier_unlisten(handle)
            del self._carrier.stack.listeners[handle]
            self._carrier.listeners.discard(self)
            self._endpoint.release()
            self._carrier.stack.soon()


class UserspaceCarrier:
    """See :class:`fcgi_core.sctp.carrier.Carrier`. To be made, used and closed on the running event loop.

    `bind` is the local IP address and UDP port that :meth:`connect` uses; by default any address, a port of its own
    for each association.
    """

    name = "userspace"

    def __init__(self, options: CarrierOptions, bind: tuple[str, int] | None = None) -> None:
        self.options = options
        self._options = _library_options(options)
        self._bind = bind
        self._bound: _Endpoint | None = None
        self.closed = False
        self.associations: set[_Association] = set()
        self.listeners: set[_Listener] = set()
        self.stack = _Stack.join(self)

    def listen(self, address: Address, accept: Callable[[str], AssociationHandler | None]) -> Listener:
        try:
            endpoint = _Endpoint(self.stack, self.options, address.hosts[0], address.udp_port)
        except (OSError, ValueError) as error:
            raise CarrierError(f"cannot listen at {address}: {error}") from error
        endpoint.users += 1
        try:
            handle = lib.carrier_listen(endpoint.handle, address.port, self._options_for(endpoint))
            if handle < 0:
                problem = os.strerror(-handle)
                raise CarrierError(f"cannot listen at {address}: SCTP port {address.port} of this process: {problem}")
            listener = _Listener(self, endpoint, handle, address._replace(udp_port=endpoint.port), accept)
            self.listeners.add(listener)
            return listener
        finally:
            endpoint.release()

    def connect(self, address: Address, handler: AssociationHandler) -> Association:
        try:
            host = ip_address(address.hosts[0].partition("%")[0])
            scope = socket.getaddrinfo(address.hosts[0], 0, flags=socket.AI_NUMERICHOST)[0][4]
            endpoint = self._endpoint_for(host.version)
        except (OSError, ValueError) as error:
            raise CarrierError(f"cannot connect to {address}: {error}") from error
        endpoint.users += 1
        try:
            packed = host.packed if host.version == 6 else b"\0" * 10 + b"\xff\xff" + host.packed
            handle = lib.carrier_connect(
                endpoint.handle,
                packed,
                address.udp_port,
                address.port,
                int(scope[3]) if len(scope) == 4 else 0,
                self._options_for(endpoint),
            )
            if handle < 0:
                raise CarrierError(f"cannot connect to {address}: {os.strerror(-handle)}")
            association = _Association(self, endpoint, handle, _peer_name(str(host), address.udp_port))
            self.associations.add(association)
            association.begin_connect(handler, address.hosts[0], address.udp_port, self.options.connect_timeout)
            return association
        finally:
            endpoint.release()

    def counters(self) -> dict[str, int]:
        """Counts of the whole process: packets received, sent and dropped, peers and associations."""
        counters = ffi.new("struct carrier_counters *")
        lib.carrier_get_counters(counters)
        return {name: getattr(counters, name) for name, _ in ffi.typeof("struct carrier_counters").fields}

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for listener in tuple(self.listeners):
            listener.close()
        for association in tuple(self.associations):
            association.abort("closing")
        self.stack.leave(self)

    def _endpoint_for(self, version: int) -> _Endpoint:
        host, port = self._bind or ("::" if version == 6 else "0.0.0.0", 0)
        if port and self._bound in self.stack.endpoints:
            return self._bound
        endpoint = _Endpoint(self.stack, self.options, host, port)
        self._bound = endpoint if port else None
        return endpoint

    def _options_for(self, endpoint: _Endpoint) -> Any:
        self._options.packet = (self.options.mtu - endpoint.overhead) & ~3
        return self._options


def _library_options(options: CarrierOptions) -> Any:
    """The options as the C part has them; CarrierError for one that is out of bounds."""
    for name, low, high in (
        ("outgoing_streams", 1, 65535),
        ("incoming_streams", 1, 65535),
        ("mtu", 576, 65000),
        ("send_buffer", 1 << 16, 1 << 29),
        ("receive_buffer", 1 << 16, 1 << 29),
        ("rto_min", 0.01, options.rto_max),
        ("rto_max", 0.01, 3600),
        ("heartbeat_interval", 0.05, 3600),
        ("path_max_retransmissions", 1, 255),
        ("association_max_retransmissions", 1, 255),
        ("max_associations", 1, 60000),
        ("connect_timeout", 0.01, 3600),
    ):
        if not low <= getattr(options, name) <= high:
            raise CarrierError(f"{name} is {getattr(options, name)}; it must be from {low} to {high}")
    try:
        for network in options.allowed_peers:
            _network(network)
    except ValueError as error:
        raise CarrierError(f"allowed_peers: {error}") from error
    return lib and ffi.new(
        "struct carrier_options *",
        {
            "outgoing_streams": options.outgoing_streams,
            "incoming_streams": options.incoming_streams,
            "scheduler": _SCHEDULERS[options.scheduler],
            "interleaving": options.interleaving,
            "send_buffer": options.send_buffer,
            "receive_buffer": options.receive_buffer,
            "heartbeat_ms": round(options.heartbeat_interval * 1000),
            "path_retransmissions": options.path_max_retransmissions,
            "association_retransmissions": options.association_max_retransmissions,
            "rto_initial_ms": round(min(max(options.rto_initial, options.rto_min), options.rto_max) * 1000),
            "rto_min_ms": round(options.rto_min * 1000),
            "rto_max_ms": round(options.rto_max * 1000),
            "connect_timeout_ms": round(options.connect_timeout * 1000),
        },
    )


def _network(text: str) -> bytes:
    """A network as the C part compares it: 16 bytes of address (IPv4 as ::ffff:a.b.c.d) and the prefix length."""
    network = ip_network(text, strict=False)
    if network.version == 4:
        return b"\0" * 10 + b"\xff\xff" + network.network_address.packed + bytes([96 + network.prefixlen])
    return network.network_address.packed + bytes([network.prefixlen])


def _peer_name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _loss(peer: str, up: bool, code: int, chunk: bytes) -> str:
    """Why an association was lost, as a sentence: from the socket's error and the ABORT chunk, if there is one."""
    cause = ""
    if len(chunk) >= 8:  # chunk header, then the first cause: code, length, information
        number, length = int.from_bytes(chunk[4:6]), int.from_bytes(chunk[6:8])
        text = chunk[8 : 4 + length].rstrip(b"\0").decode("utf-8", "replace") if number in (12, 13) else ""
        # the peer's text goes to logs and terminals: no control characters
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        cause = text or _CAUSES.get(number, "")
    why = f": {cause}" if cause else ""
    if code == 111 or (code == 104 and not up):  # ECONNREFUSED, ECONNRESET
        return f"{peer} refused the association{why}."
    if code == 104:
        return f"{peer} aborted the association{why}."
    if code == 110 or not up:  # ETIMEDOUT
        return f"{peer} did not answer."
    return f"{peer} does not answer any more{why}."
