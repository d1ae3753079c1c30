"""The userspace carrier: SCTP by libusrsctp, its packets in UDP (RFC 6951). No kernel support, no privileges.

`usrsctp_carrier.c` does the work of each packet; Python runs once for each batch of messages. The library has one
state for a process (`stack.py`): all carriers of a process share an event loop, and a carrier that was used before a
fork cannot be used after it. An SCTP port has at most one listener in a process.

While there are associations a timer runs every 10 ms (the library's clock); without any, nothing runs.

Only messages that fit one packet have a lifetime; longer ones are sent reliably (fits_a_packet() in the C part says
why).
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any

from ...common.operator_log import LimitedLog
from ..addresses import is_loopback, socket_address, zone_name
from ..carrier import (
    LARGE_PACKET,
    LARGE_SACK_EVERY,
    LOOPBACK_MTU,
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
from ..silence import ENDLESS
from .association import UserspaceAssociation
from .stack import Endpoint, Stack, ffi, lib, network_bytes

__all__ = ["UserspaceCarrier"]

log = logging.getLogger("fcgi_sctp.userspace")

MAX_TURNS = 1024
"""Addresses with several hosts for which the carrier remembers the last host it took."""

_SCHEDULERS = {Scheduler.ROUND_ROBIN: 1, Scheduler.PRIORITY: 3, Scheduler.FIRST_COME: 5}


class UserspaceListener:
    """Implements :class:`fcgi_core.sctp.carrier.Listener`, with an endpoint for each host of its address."""

    def __init__(
        self,
        carrier: UserspaceCarrier,
        endpoints: Sequence[Endpoint],
        handle: int,
        address: Address,
        accept: Callable[[str], AssociationHandler | None],
    ) -> None:
        self._carrier = carrier
        self._endpoints = endpoints
        self._handle = handle
        self._accept = accept
        self.address = address
        self._log = LimitedLog(log, carrier.stack.loop)
        for endpoint in endpoints:
            endpoint.users += 1
            endpoint.refused = self._refused
        carrier.stack.listeners[handle] = self._accept_all

    def _accept_all(self) -> None:
        source = ffi.new("struct carrier_source *")
        while self._handle >= 0 and (handle := lib.carrier_accept(self._handle, source)) >= 0:
            host = _host_of(source)
            peer = _peer_name(host, source.port)
            endpoint = self._carrier.stack.endpoints[source.endpoint]
            association = UserspaceAssociation(self._carrier, endpoint, handle, peer)
            with self._carrier.stack.guarded(association):
                handler = self._accept(peer) if endpoint in self._endpoints else None
                if handler is not None:
                    association.begin_accept(handler, socket_address(host, source.port))
                    continue
            association.refuse()

    def _refused(self, count: int, why: str, source: Any) -> None:
        """Log that `count` INITs were refused, the last of them from `source`."""
        peer = _peer_name(_host_of(source), source.port)
        text = "%s: association from %s refused: %s"
        self._log.log(logging.WARNING, text, self.address, peer, why, times=count)

    def close(self) -> None:
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            lib.carrier_unlisten(handle)
            del self._carrier.stack.listeners[handle]
            self._carrier.listeners.discard(self)
            self._log.close()
            for endpoint in self._endpoints:
                endpoint.refused = None
                endpoint.release()
            self._carrier.stack.soon()


class UserspaceCarrier:
    """Implements :class:`fcgi_core.sctp.carrier.Carrier`. Make, use and close it on the running event loop.

    `bind` is the local IP address and UDP port that :meth:`connect` uses; by default any address, and another port
    for each association.
    """

    name = "userspace"

    def __init__(self, options: CarrierOptions, bind: tuple[str, int] | None = None) -> None:
        self.options = options
        self._options = _library_options(options)
        self._bind = bind
        self._bound: Endpoint | None = None
        self._turns: dict[Address, int] = {}
        self.closed = False
        self.associations: set[UserspaceAssociation] = set()
        self.listeners: set[UserspaceListener] = set()
        self.stack = Stack.join(self)

    def listen(self, address: Address, accept: Callable[[str], AssociationHandler | None]) -> Listener:
        endpoints: list[Endpoint] = []
        udp_port = address.udp_port
        try:
            for host in address.hosts:
                endpoints.append(self._listening_endpoint(address, host, udp_port))
                udp_port = endpoints[0].port  # the port that was given, if any would do
            options = self._options_for([(endpoint.overhead, endpoint.host) for endpoint in endpoints])
            handle: int = lib.carrier_listen(endpoints[0].handle, address.port, options)
            if handle < 0:
                why = os.strerror(-handle)
                if -handle == errno.EADDRINUSE:
                    why = f"this process already listens at SCTP port {address.port}; write several addresses as "
                    why += f"{','.join(address.hosts)},OTHER:{address.port}"
                raise CarrierError(f"cannot listen at {address}: {why}")
            for endpoint in endpoints[1:]:
                lib.carrier_listen_also(handle, endpoint.handle)
            listener = UserspaceListener(self, endpoints, handle, address._replace(udp_port=udp_port), accept)
            self.listeners.add(listener)
            return listener
        finally:
            for endpoint in endpoints:
                endpoint.release()

    def _listening_endpoint(self, address: Address, host: str, udp_port: int) -> Endpoint:
        try:
            endpoint = Endpoint(self.stack, self.options, host, udp_port)
        except (OSError, ValueError) as error:
            why = str(error)
            if isinstance(error, OSError):
                why = f"UDP port {udp_port} of {host}, which carries SCTP: {error.strerror}"
                if error.errno == errno.EADDRINUSE:
                    why += f"; write another UDP port like this: {address._replace(udp_port=udp_port + 1)}"
            raise CarrierError(f"cannot listen at {address}: {why}") from error
        endpoint.users += 1
        return endpoint

    def connect(self, address: Address, handler: AssociationHandler) -> Association:
        shown = self._host_in_turn(address)
        try:
            name = socket_address(shown, address.udp_port)
            host = ip_address(name[0].partition("%")[0])
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
                int(name[3]) if len(name) == 4 else 0,
                self._options_for([(endpoint.overhead, str(host))]),
            )
            if handle < 0:
                raise CarrierError(f"cannot connect to {address}: {os.strerror(-handle)}")
            association = UserspaceAssociation(self, endpoint, handle, _peer_name(shown, address.udp_port))
            association.begin_connect(handler, name, self.options.connect_timeout)
            return association
        finally:
            endpoint.release()

    def counters(self) -> dict[str, int]:
        """Counters of the whole process: packets received, sent and dropped, peers and associations."""
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
        if self._bound is not None and self._bound.users:
            return self._bound
        endpoint = Endpoint(self.stack, self.options, host, port)
        self._bound = endpoint if port else None
        return endpoint

    def _host_in_turn(self, address: Address) -> str:
        """The host for this attempt: there is one path, so each attempt takes the next host."""
        if len(address.hosts) == 1:
            return address.hosts[0]
        if len(self._turns) >= MAX_TURNS:
            self._turns.clear()
        turn = self._turns[address] = self._turns.get(address, -1) + 1
        return address.hosts[turn % len(address.hosts)]

    def _options_for(self, ends: Sequence[tuple[int, str]]) -> Any:
        """The options of an association that uses one of `ends`: hosts, each with the bytes of its IP and UDP headers.
        The smallest packet counts."""
        packet = min(
            ((self.options.mtu or (LOOPBACK_MTU if is_loopback(host) else PATH_MTU)) - overhead) & ~3
            for overhead, host in ends
        )
        self._options.packet = packet
        self._options.sack_every = LARGE_SACK_EVERY if packet >= LARGE_PACKET else SACK_EVERY
        return self._options


def _library_options(options: CarrierOptions) -> Any:
    """The options for the C part; CarrierError if one is out of bounds."""
    for name, low, high in (
        ("outgoing_streams", 1, 65535),
        ("incoming_streams", 1, 65535),
        ("mtu", 576, 65000),
        ("send_buffer", 1 << 16, 1 << 29),
        ("receive_buffer", 1 << 16, 1 << 29),
        ("rto_min", 0.01, options.rto_max),
        ("rto_max", 0.01, 3600),
        ("dead_after", 0.1, 3600),
        ("max_associations", 1, 60000),
        ("connect_timeout", 0.01, 3600),
    ):
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise CarrierError(f"invalid {name} {value}: use a number from {low} to {high}")
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
            "retransmissions": ENDLESS,
            "rto_initial_ms": round(min(max(options.rto_initial, options.rto_min), options.rto_max) * 1000),
            "rto_min_ms": round(options.rto_min * 1000),
            "rto_max_ms": round(options.rto_max * 1000),
            "connect_timeout_ms": round(options.connect_timeout * 1000),
        },
    )


def _host_of(source: Any) -> str:
    """The IP address in a ``struct carrier_source``, with its zone if it has one."""
    address = IPv6Address(bytes(source.address))
    host = str(address.ipv4_mapped or address)
    return f"{host}%{zone_name(source.scope)}" if source.scope else host


def _peer_name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
