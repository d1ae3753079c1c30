"""The userspace carrier: SCTP by libusrsctp, its packets in UDP (RFC 6951). No kernel support, no privileges.

`usrsctp_carrier.c` does all work that comes with packets; Python comes in once for each batch of messages. The
library's state is one for a process (`userspace_stack.py`): all carriers of a process share an event loop, and one
that was used before a fork cannot be used after it. An SCTP port can have one listener in a process.

While there are associations a timer runs every 10 ms (the library's clock); without any, nothing runs.

A lifetime counts for messages that fit one packet; larger ones are sent reliably (see may_expire() in the C part).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Any

from .carrier import (
    LOOPBACK_MTU,
    LOOPBACK_SACK_EVERY,
    PATH_MTU,
    SACK_EVERY,
    Address,
    Association,
    AssociationHandler,
    CarrierError,
    CarrierOptions,
    Listener,
    Scheduler,
)
from .silence import ENDLESS
from .userspace_association import UserspaceAssociation
from .userspace_stack import Endpoint, Stack, ffi, lib, network_bytes

__all__ = ["UserspaceCarrier"]

_SCHEDULERS = {Scheduler.ROUND_ROBIN: 1, Scheduler.PRIORITY: 3, Scheduler.FIRST_COME: 5}


class UserspaceListener:
    """See :class:`fcgi_core.sctp.carrier.Listener`."""

    def __init__(
        self,
        carrier: UserspaceCarrier,
        endpoint: Endpoint,
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
            association = UserspaceAssociation(self._carrier, self._endpoint, handle, peer)
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
        self._bound: Endpoint | None = None
        self.closed = False
        self.associations: set[UserspaceAssociation] = set()
        self.listeners: set[UserspaceListener] = set()
        self.stack = Stack.join(self)

    def listen(self, address: Address, accept: Callable[[str], AssociationHandler | None]) -> Listener:
        try:
            endpoint = Endpoint(self.stack, self.options, address.hosts[0], address.udp_port)
        except (OSError, ValueError) as error:
            raise CarrierError(f"cannot listen at {address}: {error}") from error
        endpoint.users += 1
        try:
            options = self._options_for(endpoint, address.hosts[0])
            handle = lib.carrier_listen(endpoint.handle, address.port, options)
            if handle < 0:
                problem = os.strerror(-handle)
                raise CarrierError(f"cannot listen at {address}: SCTP port {address.port} of this process: {problem}")
            listener = UserspaceListener(self, endpoint, handle, address._replace(udp_port=endpoint.port), accept)
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
                self._options_for(endpoint, str(host)),
            )
            if handle < 0:
                raise CarrierError(f"cannot connect to {address}: {os.strerror(-handle)}")
            association = UserspaceAssociation(self, endpoint, handle, _peer_name(str(host), address.udp_port))
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

    def _endpoint_for(self, version: int) -> Endpoint:
        host, port = self._bind or ("::" if version == 6 else "0.0.0.0", 0)
        if port and self._bound in self.stack.endpoints:
            return self._bound
        endpoint = Endpoint(self.stack, self.options, host, port)
        self._bound = endpoint if port else None
        return endpoint

    def _options_for(self, endpoint: Endpoint, host: str) -> Any:
        """The options of associations with `host`, or of those that it, as an address of ours, takes."""
        loopback = ip_address(host).is_loopback
        mtu = self.options.mtu or (LOOPBACK_MTU if loopback else PATH_MTU)
        self._options.packet = (mtu - endpoint.overhead) & ~3
        self._options.sack_every = LOOPBACK_SACK_EVERY if loopback else SACK_EVERY
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
        ("dead_after", 0.1, 3600),
        ("max_associations", 1, 60000),
        ("connect_timeout", 0.01, 3600),
    ):
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise CarrierError(f"{name} is {value}; it must be from {low} to {high}")
    try:
        for network in options.allowed_peers:
            network_bytes(network)
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
            "retransmissions": ENDLESS,
            "rto_initial_ms": round(min(max(options.rto_initial, options.rto_min), options.rto_max) * 1000),
            "rto_min_ms": round(options.rto_min * 1000),
            "rto_max_ms": round(options.rto_max * 1000),
            "connect_timeout_ms": round(options.connect_timeout * 1000),
        },
    )


def _peer_name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
