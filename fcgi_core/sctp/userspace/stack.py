"""libusrsctp in this process, with the event loop that drives it, its UDP sockets and its timer.

The library has one state for a process, so there is one :class:`Stack`. It calls the associations and listeners of all
carriers in the process when something arrived for them, and sends their packets. It knows nothing of messages.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any, ClassVar, Protocol

from ...common.forks import keep_from_children
from ..addresses import socket_address
from ..carrier import Association, CarrierError, CarrierOptions
from ..end_reasons import handler_failed
from .port_probe import PortWatches

try:
    from ._usrsctp import ffi, lib
except ImportError as error:  # not built, or libusrsctp is missing: only using the carrier needs it
    ffi = lib = None
    _missing: ImportError | None = error
else:
    _missing = None

__all__ = ["ARENA", "RECORDS", "Endpoint", "Stack", "ffi", "lib", "network_bytes"]

LINGER = 1.0
"""Seconds that the timer runs on after the last association: the library frees some of its state late."""
PACKETS_PER_WAKEUP = 256
"""Packets of one socket before the loop turns to others: 1 to 2 ms of work."""
ROUNDS_PER_WAKEUP = 8
ARENA = 1 << 19
"""Bytes that one batch of received messages may fill."""
RECORDS = 4096
"""Messages of one batch."""
UNCLAIMED_PEERS = 1024
"""UDP sources without an association that each socket remembers; a handshake needs two round trips."""
UDP_BUFFER = 4 << 20

REFUSED = 1 << 30
"""In the answer of carrier_input(), as in usrsctp_carrier.h."""
WOKEN = 2
"""In the answer of carrier_flush()."""


class StackAssociation(Association, Protocol):
    """An association, as the stack sees it."""

    def receive(self) -> None: ...
    def look_for_refusal(self) -> None: ...
    def look_for_room(self) -> None: ...


class Stack:
    """Every endpoint and association of this process, the timer, and the calls for what arrived."""

    current: ClassVar[Stack | None] = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        if lib is None:
            raise CarrierError(f"the userspace SCTP carrier is not available: {_missing}")
        if (code := lib.carrier_init()) < 0:
            raise CarrierError(f"libusrsctp does not start: {os.strerror(-code)}")
        self.loop = loop
        self.process = os.getpid()
        self.carriers: set[object] = set()
        self.endpoints: dict[int, Endpoint] = {}
        self.listeners: dict[int, Callable[[], None]] = {}  # called when there are associations to accept
        self.associations: dict[int, StackAssociation] = {}
        self.waiting: set[StackAssociation] = set()  # for room
        self.connecting: set[StackAssociation] = set()
        self.ports = PortWatches(loop)
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
    def join(cls, carrier: object) -> Stack:
        """The stack of this process, which `carrier` now uses; CarrierError if the carrier cannot."""
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

    def leave(self, carrier: object) -> None:
        self.carriers.discard(carrier)
        if not self.carriers:
            for handle in (self._soon, self._timer):
                if handle is not None:
                    handle.cancel()
            Stack.current = None

    def soon(self) -> None:
        """Call deliver() on the next turn of the loop, unless it is running."""
        if self._soon is None and not self._delivering:
            self._soon = self.loop.call_soon(self._run_soon)

    def sent(self) -> None:
        """Send the packets of messages that the library was given; a deliver() that is running does at its end."""
        if not self._delivering:
            self.flush()

    def _run_soon(self) -> None:
        self._soon = None
        self.deliver()

    def deliver(self) -> None:
        """Call handlers for what happened, then send what they gave."""
        self._delivering = True
        try:
            for _ in range(ROUNDS_PER_WAKEUP):
                count = lib.carrier_dirty(self._dirty, 256)
                if not count:
                    break
                for handle in ffi.unpack(self._dirty, count):
                    if handle < 0:
                        if (accept_all := self.listeners.get(-2 - handle)) is not None:
                            accept_all()
                    elif (association := self.associations.get(handle)) is not None:
                        association.receive()
            else:
                self._soon = self._soon or self.loop.call_soon(self._run_soon)
        finally:
            self._delivering = False
        self.flush()

    def flush(self) -> None:
        found = lib.carrier_flush()
        if found & WOKEN and self._timer is not None:
            self._timer.cancel()
            self._set_timer()
        if found & ~WOKEN or self._writing:
            for endpoint in self.endpoints.values():
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
            self._set_timer()

    def _set_timer(self) -> None:
        """Run the library's timers, and again when it may be due: often while packets move, seldom at rest."""
        self._timer = self.loop.call_later(lib.carrier_timers() / 1000, self._tick)

    def _tick(self) -> None:
        now = self.loop.time()
        if self.associations:
            self._timer_ends = now + LINGER
        self._timer = None
        if now < self._timer_ends:
            self._set_timer()
        for association in tuple(self.connecting):
            association.look_for_refusal()
        for association in tuple(self.waiting):
            association.look_for_room()
        self.deliver()

    @contextmanager
    def guarded(self, association: StackAssociation) -> Iterator[None]:
        """Abort `association` if its handler raises."""
        try:
            yield
        except Exception as error:
            handler_failed(self.loop, association, error)


class Endpoint:
    """A UDP socket, closed when its last user releases it."""

    def __init__(self, stack: Stack, options: CarrierOptions, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.stack = stack
        self.host = host
        self.users = 0
        self.refused: Callable[[int, str, Any], None] | None = None
        """Called with how many INITs were refused, why, and the source of the last one (``struct carrier_source``)."""
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        keep_from_children(self.socket)
        try:
            for name, forced in ((socket.SO_RCVBUF, 33), (socket.SO_SNDBUF, 32)):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
                try:
                    self.socket.setsockopt(socket.SOL_SOCKET, forced, UDP_BUFFER)
                except OSError:  # without the privilege the system's limit counts
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
        stack.endpoints[self.handle] = self
        stack.loop.add_reader(self.descriptor, self._readable)

    def _readable(self) -> None:
        if lib.carrier_input(self.handle, PACKETS_PER_WAKEUP) & REFUSED:
            self._report_refusals()
        self.stack.deliver()

    def _report_refusals(self) -> None:
        source = ffi.new("struct carrier_source *")
        why = 0
        while reason := lib.carrier_refusal_text(why):
            count = lib.carrier_refused(self.handle, why, source)
            if count and self.refused is not None:
                self.refused(count, ffi.string(reason).decode(), source)
            why += 1

    def release(self) -> None:
        self.users -= 1
        if self.users:
            return
        self.stack.loop.remove_reader(self.descriptor)
        self.stack.forget_writer(self)
        del self.stack.endpoints[self.handle]
        lib.carrier_endpoint_close(self.handle)
        self.socket.close()


def network_bytes(text: str) -> bytes:
    """A network as the C part compares it: 16 bytes of address (IPv4 as ::ffff:a.b.c.d) and the prefix length."""
    network = ip_network(text, strict=False)
    if network.version == 4:
        return b"\0" * 10 + b"\xff\xff" + network.network_address.packed + bytes([96 + network.prefixlen])
    return network.network_address.packed + bytes([network.prefixlen])
