"""The carrier on Linux's own SCTP.

**A one-to-many socket to begin, then one socket for each association.** An association starts on a one-to-many socket
(RFC 6458 section 3) and is peeled off (section 9.2) as soon as it is up. A one-to-one socket would be simpler, but it
cannot abort with a reason: Linux answers EINVAL. A single socket for all associations would have one send and one
receive buffer, so that one slow peer stops the others, and its readiness would say nothing about any of them.

**Limits of Linux.** `incoming_streams` limits the peer's streams at the start; streams that it adds later (RFC 6525)
the kernel grants without asking. Interleaving (I-DATA) works between Linux and Linux, without UDP: see `sockets.py`. A
stream has the highest priority, 0, until set_priority is called for it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable

import _sctp as pysctp_calls

from ...common.forks import keep_from_children
from ...common.operator_log import LimitedLog
from ..addresses import host_of
from ..carrier import Address, AssociationHandler, CarrierError, CarrierOptions
from . import sockets as linux
from .association import READ_SIZE, KernelAssociation, read_change
from .sockets import AssociationChange

__all__ = ["KernelCarrier"]

log = logging.getLogger("fcgi_sctp.kernel")

BATCH_ACCEPTS = 32
"""Associations accepted in one wake-up."""


class KernelListener:
    """A listening one-to-many socket."""

    def __init__(
        self,
        carrier: KernelCarrier,
        sock: socket.socket,
        address: Address,
        accept: Callable[[str], AssociationHandler | None],
        send_limit: int,
    ) -> None:
        self.address = address
        self._carrier = carrier
        self._sock: socket.socket | None = sock
        self._accept = accept
        self._send_limit = send_limit
        self._networks = [ipaddress.ip_network(text, strict=False) for text in carrier.options.allowed_peers]
        self._accepted: set[KernelAssociation] = set()
        self._log = LimitedLog(log, carrier.loop)
        carrier.loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(BATCH_ACCEPTS):
            sock = self._sock
            if sock is None:
                return
            try:
                data, _, flags, name = sock.recvmsg(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._log.log(logging.WARNING, "%s: cannot accept associations: %s", self.address, error.strerror)
                return
            change = read_change(data) if flags & linux.NOTIFICATION else None
            if change is None or change[0] != AssociationChange.UP:
                continue  # a path's state, or an association that ended before we looked
            try:
                peeled = self._carrier.peel(sock, change[1])
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):  # Linux has aborted it
                    text = "%s: no association with %s: %s"
                    self._log.log(logging.WARNING, text, self.address, name[0], error.strerror)
                continue  # it has ended
            self._accept_one(peeled, linux.plain_host(host_of(name)), name[1])

    def _accept_one(self, sock: socket.socket, host: str, port: int) -> None:
        peer = str(Address((host,), port))
        association = KernelAssociation(self._carrier, sock, peer, self._send_limit)
        source = ipaddress.ip_address(host.partition("%")[0])
        reason = ""
        if len(self._accepted) >= self._carrier.options.max_associations:
            reason = "too many associations"
        elif self._networks and not any(source in network for network in self._networks):
            reason = "not in allowed_peers"
        if reason:
            self._log.log(logging.WARNING, "%s: association from %s refused: %s", self.address, peer, reason)
            association.refuse(reason)
            return
        try:
            handler = self._accept(peer)
        except BaseException:
            association.refuse("internal error")
            raise
        if handler is None:
            association.refuse("not wanted")
            return
        association.begin_accept(handler, self._accepted)

    def close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._carrier.loop.remove_reader(sock.fileno())
            self._carrier.listeners.discard(self)
            self._log.close()
            sock.close()


class KernelCarrier:
    """Linux's own SCTP, on the running event loop."""

    name = "kernel"

    def __init__(self, options: CarrierOptions) -> None:
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.associations: set[KernelAssociation] = set()
        self.listeners: set[KernelListener] = set()
        self._closed = False

    def call_soon(self, function: Callable[[str], None], argument: str) -> None:
        """Call `function` on a later turn of the loop, unless the carrier is closed by then."""
        self.loop.call_soon(lambda: None if self._closed else function(argument))

    def peel(self, sock: socket.socket, identifier: int) -> socket.socket:
        """A new socket for the association `identifier` of `sock` alone.

        Linux requires the network namespace of `sock`; the lab, which has two, overrides this.
        """
        peeled = socket.socket(fileno=pysctp_calls.peeloff(sock.fileno(), identifier))
        keep_from_children(peeled)
        peeled.setblocking(False)
        os.set_inheritable(peeled.fileno(), False)
        return peeled

    def listen(self, address: Address, accept: Callable[[str], AssociationHandler | None]) -> KernelListener:
        sock, send_limit = linux.open_socket(address, self.options, listening=True)
        keep_from_children(sock)
        try:
            linux.bind(sock, address)
            sock.listen(128)
            listener = KernelListener(self, sock, address._replace(port=sock.getsockname()[1]), accept, send_limit)
        except (OSError, ValueError) as error:
            sock.close()
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise CarrierError(f"cannot listen at {address}: {why}") from error
        self.listeners.add(listener)
        return listener

    def connect(self, address: Address, handler: AssociationHandler) -> KernelAssociation:
        sock, send_limit = linux.open_socket(address, self.options, listening=False)
        keep_from_children(sock)
        association = KernelAssociation(self, sock, str(Address(address.hosts[:1], address.port)), send_limit)
        association.start(address, handler)
        return association

    def close(self) -> None:
        self._closed = True
        for listener in list(self.listeners):
            listener.close()
        for association in list(self.associations):
            association.discard("closed")
