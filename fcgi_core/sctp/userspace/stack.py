"""The userspace carrier's share of a process: one event loop, one libusrsctp, the UDP sockets and the timer.

The library's state is one for a process, and so is :class:`Stack`: for all carriers of the process it hands out what
arrived and sends what is to be sent. Nothing here knows what a message means.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, ClassVar

from ...common.forks import keep_from_children
from ..addresses import socket_address
from ..carrier import CarrierError, CarrierOptions

try:
    from ._usrsctp import ffi, lib
except ImportError as error:  # not built, or libusrsctp is missing: only using the carrier needs it
    ffi = lib = None
    _missing: ImportError | None = error
else:
    _missing = None

if TYPE_CHECKING:
    from .association import UserspaceAssociation
    from .carrier import UserspaceCarrier, UserspaceListener

__all__ = ["ARENA", "RECORDS", "Endpoint", "Stack", "ffi", "lib", "network_bytes"]

TICK = 0.010
"""Seconds between calls of the library's timers."""
LINGER = 1.0
"""Seconds that the timer goes on after the last association: the library frees some of its state later."""
PACKETS_PER_WAKEUP = 256
"""Bound on packets of one socket before the loop turns to others: 1 to 2 ms of work."""
ROUNDS_PER_WAKEUP = 8
ARENA = 1 << 19
"""Bytes that one batch of received messages may fill."""
RECORDS = 4096
"""Messages of one batch."""
UNCLAIMED_PEERS = 1024
"""UDP sources without an association that are remembered, each socket; the handshake needs 2 round trips."""
UDP_BUFFER = 4 << 20

# enum carrier_refusal of usrsctp_carrier.h
SOMEBODY_REFUSED = 1 << 30
REFUSALS = (
    "its address is not among allowed_peers",
    "there are as many associations as there may be",
    "its address tries too often",
    "too many strangers try at once",
)


class Stack:
    """The library in this process: every endpoint and association, the timer, and the hand-out of what arrived."""

    current: ClassVar[Stack | None] = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        if lib is None:
            raise CarrierError(f"the userspace SCTP carrier is not available: {_missing}")
        if (code := lib.carrier_init()) < 0:
            raise CarrierError(f"libusrsctp does not start: {os.strerror(-code)}")
        self.loop = loop
        self.process = os.getpid()
        self.carriers: set[UserspaceCarrier] = set()
        self.endpoints: set[Endpoint] = set()
        self.listeners: dict[int, UserspaceListener] = {}
        self.associations: dict[int, UserspaceAssociation] = {}
        self.waiting: set[UserspaceAssociation] = set()  # for room
        self.connecting: set[UserspaceAssociation] = set()
        self.arena = ffi.new("uint8_t[]", ARENA)
        self.data = ffi.buffer(self.arena)
        self.records = ffi.new("struct carrier_record[]", RECORDS)
        self.record_bytes = memoryview(ffi.buffer(self.records))
        self._dirty = ffi.new("int32_t[]", 256)
        self._delivering = False
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ends = 0.0
        self._writing: set[Endpoint] = set()

    @classmethod
    def join(cls, carrier: UserspaceCarrier) -> Stack:
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
            Stack.current = None

    def by_handle(self, handle: int) -> Endpoint:
        """The endpoint with this handle."""
        return next(endpoint for endpoint in self.endpoints if endpoint.handle == handle)

    def soon(self) -> None:
        """Have output sent and events handed out on the next turn of the loop; within deliver() its end does."""
        if self._soon is None and not self._delivering:
            self._soon = self.loop.call_soon(self._run_soon)

    def sent(self) -> None:
        """Messages were handed to the library: have their packets sent now; within deliver() its end does."""
        if not self._delivering:
            self.flush()

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

    def forget_writer(self, endpoint: Endpoint) -> None:
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
    def guarded(self, association: UserspaceAssociation) -> Iterator[None]:
        """A handler that raises costs its association, not the others."""
        try:
            yield
        except Exception as error:
            self.loop.call_exception_handler(
                {"message": f"The handler of the SCTP association with {association.peer} failed", "exception": error}
            )
            association.abort("internal error")


class Endpoint:
    """A UDP socket and what uses it; it closes with its last user."""

    def __init__(self, stack: Stack, options: CarrierOptions, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.stack = stack
        self.host = host
        self.users = 0
        self.refused: Callable[[int, str, Any], None] | None = None
        """Called with how many INITs were refused, why, and where the last came from (``struct carrier_source``)."""
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        keep_from_children(self.socket)
        try:
            for name, forced in ((socket.SO_RCVBUF, 33), (socket.SO_SNDBUF, 32)):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
                try:
                    self.socket.setsockopt(socket.SOL_SOCKET, forced, UDP_BUFFER)
                except OSError:  # needs a privilege; the system's limit is what remains
                    self.socket.setsockopt(socket.SOL_SOCKET, name, UDP_BUFFER)
            self.socket.bind(socket_address(host, port))
            networks = b"".join(map(network_bytes, options.allowed_peers))
            self.descriptor = self.socket.fileno()
            self.handle: int = lib.carrier_endpoint_open(
                self.descriptor,
                int(options.udp_segmentation),
                UNCLAIMED_PEERS,
                options.max_associations,
                networks,
                len(networks) // 17,
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
        if lib.carrier_input(self.handle, PACKETS_PER_WAKEUP) & SOMEBODY_REFUSED:
            self._tell_refusals()
        self.stack.deliver()

    def _tell_refusals(self) -> None:
        source = ffi.new("struct carrier_source *")
        for number, why in enumerate(REFUSALS):
            count = lib.carrier_refused(self.handle, number, source)
            if count and self.refused is not None:
                self.refused(count, why, source)

    def release(self) -> None:
        self.users -= 1
        if self.users:
            return
        self.stack.loop.remove_reader(self.descriptor)
        self.stack.forget_writer(self)
        self.stack.endpoints.discard(self)
        lib.carrier_endpoint_close(self.handle)
        self.socket.close()


def network_bytes(text: str) -> bytes:
    """A network as the C part compares it: 16 bytes of address (IPv4 as ::ffff:a.b.c.d) and the prefix length."""
    network = ip_network(text, strict=False)
    if network.version == 4:
        return b"\0" * 10 + b"\xff\xff" + network.network_address.packed + bytes([96 + network.prefixlen])
    return network.network_address.packed + bytes([network.prefixlen])
