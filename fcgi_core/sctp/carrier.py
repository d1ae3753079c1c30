"""The interface of SCTP carriers.

A carrier moves SCTP user messages (RFC 9260) for the protocol core and knows nothing of FastCGI. There are three:
`userspace` (usrsctp, packets in UDP, RFC 6951), `kernel` (Linux), and `memory` (tests). All run on one event loop, call
back on its thread only, and never block.

The send side is *pulled*: the protocol core has the queues and decides their order. :meth:`Association.room` says how
many bytes the carrier accepts now, little more than SCTP can send soon (RFC 9260 section 7); the core sends that much,
and :meth:`AssociationHandler.writable` says when there is room again. So a late alert never waits behind megabytes of
bulk data.

The receive side is always drained: SCTP has one receive window for the whole association, so a reader that stops would
stop every stream. The core limits what one request may have in flight (``flow.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from .silence import RTO_INITIAL, RTO_MAX, RTO_MIN
from .statistics import AssociationStatistics

__all__ = [
    "Address",
    "Association",
    "AssociationHandler",
    "Carrier",
    "CarrierError",
    "CarrierOptions",
    "Listener",
    "Message",
    "Scheduler",
    "DEFAULT_UDP_PORT",
    "LOOPBACK_MTU",
    "LARGE_MESSAGE",
    "LARGE_PACKET",
    "LARGE_SACK_EVERY",
    "MESSAGE_SIZE",
    "PATH_MTU",
    "SACK_EVERY",
    "URGENT_ROOM",
    "message_size",
]

DEFAULT_UDP_PORT = 9899
"""UDP port of SCTP packets encapsulated in UDP ("sctp-tunneling", RFC 6951 section 5.1, IANA)."""
PATH_MTU = 1400
"""Bytes: the 1500 of an Ethernet less the headers of tunnels and VPNs."""
LOOPBACK_MTU = 65_000
"""Bytes; Linux' loopback has 65,536, and a UDP datagram 65,535 at most. Such a packet carries a message of
LARGE_MESSAGE."""
MESSAGE_SIZE = 16 << 10
"""Bytes of a message. Without interleaving (RFC 8260) it holds up the whole association while it is sent: HTTP/2's
default frame (RFC 9113 section 4.2) and TLS's largest record have as much."""
LARGE_MESSAGE = 60 << 10
"""Bytes of a message that a packet of LOOPBACK_MTU carries. Most of what a body costs is by messages, not by bytes."""
SACK_EVERY = 2
"""Packets; RFC 9260 section 6.2."""
LARGE_PACKET = 16 << 10
"""Bytes; packets from this size on, usually on the loopback."""
LARGE_SACK_EVERY = 8
"""Packets, where packets are large: most SACKs of short requests share a packet with an answer, and a separate SACK is
one more packet and system call. A sender of much data asks for a SACK (RFC 7053) before its window is full."""
URGENT_ROOM = 64 << 10
"""Bytes of urgent messages, overhead included, that SCTP accepts when it accepts no others."""


def message_size(interleaving: bool, whole: int) -> int:
    """Bytes of a message worth sending on an association whose packets carry messages of `whole` bytes: as many as one
    packet carries, if interleaving lets it hold up nothing else, within MESSAGE_SIZE and LARGE_MESSAGE."""
    return max(MESSAGE_SIZE, min(whole, LARGE_MESSAGE)) if interleaving else MESSAGE_SIZE


class CarrierError(Exception):
    """The carrier cannot do what was asked: library or kernel module missing, address in use, bad option."""


class Message:
    """One whole SCTP user message (RFC 9260 section 1.2). Never changed.

    A plain class, not a named tuple: compiled, it is much cheaper to make and to read.
    """

    __slots__ = ("data", "lifetime", "ppid", "stream", "unordered")

    def __init__(
        self, stream: int, data: bytes, ppid: int = 0, unordered: bool = False, lifetime: float | None = None
    ) -> None:
        self.stream = stream
        """SCTP stream identifier, 0 to 65535."""
        self.data = data
        """The user data, at least one byte."""
        self.ppid = ppid
        """Payload protocol identifier, host byte order here, network byte order on the wire."""
        self.unordered = unordered
        """The U bit: delivered when it arrives, not in its stream's order. Without interleaving a carrier may send a
        message in order if it does not fit a packet: some peers abort the association otherwise."""
        self.lifetime = lifetime
        """Seconds after which a message may be abandoned (RFC 3758, RFC 7496 section 4.1); None: never."""

    def arrived(self) -> Message:
        """The message that the receiver gets: the same without a lifetime."""
        return Message(self.stream, self.data, self.ppid, self.unordered)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return "Message(stream={}, data={!r}, ppid={}, unordered={}, lifetime={})".format(*self._values())

    def _values(self) -> tuple[int, bytes, int, bool, float | None]:
        return self.stream, self.data, self.ppid, self.unordered, self.lifetime


class Address(NamedTuple):
    """The address of an SCTP endpoint: one or more hosts, the SCTP port, and the UDP port of RFC 6951.

    Written ``HOST[,HOST...]:PORT[/UDPPORT]``, with IPv6 addresses in brackets.
    """

    hosts: tuple[str, ...]
    port: int
    udp_port: int = DEFAULT_UDP_PORT

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]" if ":" in host else host for host in self.hosts)
        udp = "" if self.udp_port == DEFAULT_UDP_PORT else f"/{self.udp_port}"
        return f"{hosts}:{self.port}{udp}"

    def is_numeric(self) -> bool:
        """Whether all hosts are IP addresses, so that no name has to be resolved."""
        try:
            return all(ip_address(host) for host in self.hosts)
        except ValueError:
            return False

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address written in `text`; ValueError if it is invalid."""
        wanted = f"invalid SCTP address {text!r}: use HOST:PORT or HOST[,HOST...]:PORT[/UDPPORT]"
        rest, slash, udp = text.partition("/")
        hosts, colon, port = rest.rpartition(":")
        if not colon or not hosts:
            raise ValueError(wanted)
        names = []
        for host in hosts.split(","):
            name = host.strip()
            if name.startswith("[") and name.endswith("]"):
                name = name[1:-1]
            elif ":" in name:
                raise ValueError(f"{wanted} (an IPv6 address in brackets: [::1]:9000)")
            if not name:
                raise ValueError(wanted)
            if ":" in name:
                with suppress(ValueError):  # one text for one address
                    name = str(ip_address(name))
            names.append(name)
        return cls(tuple(names), _port(port, wanted), _port(udp, wanted) if slash else DEFAULT_UDP_PORT)


def _port(text: str, wanted: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise ValueError(f"{wanted} (a port is from 1 to 65535)")
    return int(text)


class Scheduler(Enum):
    """How SCTP chooses the next stream to send from (RFC 8260 section 3)."""

    FIRST_COME = "first-come"
    ROUND_ROBIN = "round-robin"
    PRIORITY = "priority"


@dataclass(frozen=True, slots=True)
class CarrierOptions:
    """Options of all carriers. Times are in seconds, sizes in bytes."""

    outgoing_streams: int = 256
    """Streams requested at the start; the peer may grant fewer (RFC 9260 section 5.1.1)."""
    incoming_streams: int = 2048
    """Streams that the peer may have at most, additions by RFC 6525 included."""
    scheduler: Scheduler = Scheduler.PRIORITY
    interleaving: bool = True
    """I-DATA (RFC 8260): fragments of messages of different streams may alternate on the wire."""
    send_buffer: int = 1 << 20
    receive_buffer: int = 4 << 20
    mtu: int | None = None
    """Userspace carrier: path MTU with the UDP header; None: LOOPBACK_MTU on the loopback, else PATH_MTU. The kernel
    discovers the path MTU."""
    dead_after: float = 10.0
    """A peer that sent no packet for this long is given up, at most a quarter of the time later. See `silence`."""
    heartbeat_interval: float = 1.0
    """Kernel carrier: RFC 9260 section 8.3. The userspace carrier sends a heartbeat when it has looked for a packet in
    vain, see `silence.Watch`."""
    path_max_retransmissions: int = 4
    """Kernel carrier: time-outs of one path after which another path is preferred."""
    rto_initial: float = RTO_INITIAL
    rto_min: float = RTO_MIN
    rto_max: float = RTO_MAX
    max_associations: int = 4160
    """Associations of one listener at most: a few more than the application side accepts, so that it can choose which
    ones to end, while those are still ending."""
    connect_timeout: float = 5.0
    """An association that is not up after this time is given up."""
    allowed_peers: tuple[str, ...] = ()
    """IP networks (CIDR) whose packets are accepted; empty: all. An address that we connect to is always allowed."""
    udp_encapsulation: bool = False
    """Kernel carrier: send in UDP (RFC 6951) to the address's UDP port, to reach a userspace carrier or to cross a NAT.
    There is no interleaving then: Linux and other stacks do not understand each other's. The userspace carrier always
    sends in UDP."""
    udp_segmentation: bool = True
    """Userspace carrier: send runs of packets with one call (UDP_SEGMENT). Switch it off for a kernel carrier on this
    host or in its containers, with no network card between: Linux (seen with 6.1.176) panics when its SCTP gets such a
    run in UDP."""


class Association(Protocol):
    """One SCTP association, in both directions. After it has ended, calls do nothing."""

    @property
    def peer(self) -> str:
        """The name of the peer for people: ``192.0.2.7:9000``."""

    @property
    def outgoing_streams(self) -> int:
        """How many streams we may send on now. They are numbered from 0."""

    @property
    def incoming_streams(self) -> int: ...

    @property
    def message_size(self) -> int:
        """Bytes of a message worth sending, see :func:`message_size`; it stays as it is while the association lives."""

    def room(self, urgent: bool = False) -> int:
        """Payload bytes that :meth:`send` would accept now; for urgent messages about URGENT_ROOM more. After a 0 of
        either kind `writable` will be called.

        There is room again only when SCTP has sent a good part of what it holds. Urgent messages should not wait for
        that: their streams have priority, so they overtake the others.
        """

    def send(self, messages: Sequence[Message], urgent: bool = False) -> int:
        """Send messages from the front of `messages`; return how many were accepted.

        If some were not, `writable` will be called. A message that can never be sent (empty, larger than the send
        buffer, on a stream that does not exist) raises ValueError.
        """

    def set_priority(self, stream: int, priority: int) -> None:
        """Set a stream's priority for the priority scheduler: lower numbers go first (RFC 8260 section 4.3.3)."""

    def add_streams(self, count: int) -> bool:
        """Ask for `count` more outgoing streams (RFC 6525 section 5.1.5); False if that cannot be asked.

        `streams_changed` is called with the answer; the number may be the same.
        """

    def shutdown(self) -> None:
        """End gracefully: deliver what send() accepted, then call `association_down` (RFC 9260 section 9.2)."""

    def abort(self, reason: str = "") -> None:
        """End now; `association_down` is called on a later turn of the loop, once (RFC 9260 section 9.1)."""

    def statistics(self) -> AssociationStatistics: ...


class AssociationHandler(Protocol):
    """The hooks of an association, called on the loop's thread and never from inside a call to the association. If one
    raises, the association is aborted."""

    def association_up(self, association: Association) -> None:
        """The association is established, its streams are known, and messages may be sent."""

    def messages_received(self, messages: Sequence[Message]) -> None:
        """One or more whole messages, in the order of their delivery, without a lifetime."""

    def writable(self) -> None:
        """There is useful room again, after room() was 0 or send() did not accept all."""

    def streams_changed(self) -> None:
        """The number of streams changed, or a request for more was refused."""

    def association_down(self, reason: str) -> None:
        """The association has ended, or never came up. The last call. `reason` says why; '' after a shutdown."""


class Listener(Protocol):
    @property
    def address(self) -> Address: ...

    def close(self) -> None:
        """Accept no more associations; accepted ones go on."""


class Carrier(Protocol):
    """An SCTP stack with its sockets, on the running event loop."""

    name: str
    """``userspace``, ``kernel`` or ``memory``."""

    def listen(self, address: Address, accept: Callable[[str], AssociationHandler | None]) -> Listener:
        """Accept associations at `address`. `accept(peer)` returns the handler of each, or None to refuse it.

        CarrierError names the address and what is wrong with it.
        """

    def connect(self, address: Address, handler: AssociationHandler) -> Association:
        """Start an association with `address`, whose hosts are IP addresses; the handler is called with the result."""

    def close(self) -> None:
        """Abort all associations and close all sockets. No hook is called after this."""
