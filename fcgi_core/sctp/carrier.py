"""What an SCTP carrier is: one interface, several implementations.

A carrier moves SCTP user messages (RFC 9260) for the protocol core and knows nothing of FastCGI. There are three:
`userspace` (usrsctp, packets over UDP, RFC 6951), `kernel` (file descriptors), and `memory` (tests). All are driven
by one event loop, call back on that loop's thread only, and never block.

The send side is *pulled*: the queues, and the order of what waits in them, belong to the protocol core. A carrier
says with :meth:`Association.room` how many bytes it would take now (little more than SCTP can send soon, RFC 9260
section 7), is handed that much, and calls :meth:`AssociationHandler.writable` when there is room again. An alert
that comes late therefore never stands behind megabytes of bulk data already given away.

The receive side is always drained: SCTP has one receive window for the whole association, so whoever stopped reading
would stop every stream. What one request may have in flight is the core's matter (``flow.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple, Protocol

__all__ = [
    "Address",
    "Association",
    "AssociationHandler",
    "AssociationStatistics",
    "Carrier",
    "CarrierError",
    "CarrierOptions",
    "Listener",
    "Message",
    "Scheduler",
    "DEFAULT_UDP_PORT",
    "LOOPBACK_MTU",
    "LARGE_PACKET",
    "LARGE_SACK_EVERY",
    "MAX_PARTIAL",
    "PATH_MTU",
    "SACK_EVERY",
    "URGENT_ROOM",
]

DEFAULT_UDP_PORT = 9899
"""UDP port of SCTP packets encapsulated in UDP ("sctp-tunneling", RFC 6951 section 5.1, IANA)."""


PATH_MTU = 1400
"""Bytes: an Ethernet's 1500 less what tunnels and VPNs take."""
LOOPBACK_MTU = 32_768
"""Bytes; Linux' loopback has 65,536. Such packets carry two messages each, and a megabyte costs half of what it does in
packets of PATH_MTU (docs/streams.md)."""
SACK_EVERY = 2
"""Packets; RFC 9260 section 6.2."""
LARGE_PACKET = 16 << 10
"""Bytes; packets from that size on, of the loopback as a rule."""
LARGE_SACK_EVERY = 8
"""Where packets are large: a SACK by itself is a system call and a packet that its 8 short requests can do without, for
most go with an answer's packet. Who sends much asks for one (RFC 7053) before its window is full."""
MAX_PARTIAL = 4 << 20
"""Bytes of messages that have come in part, on one association: 256 times the protocol's largest message, whose sender
interleaves a few. A carrier ends the association beyond it."""
URGENT_ROOM = 64 << 10
"""Bytes of urgent messages, with what they cost beside their payload, that SCTP takes beyond what it holds of bulk."""


class CarrierError(Exception):
    """The carrier cannot do what was asked: library or kernel module missing, address in use, bad option."""


class Message:
    """One SCTP user message (RFC 9260 section 1.2), whole. Nobody changes one.

    A plain class and no named tuple: compiled, it is made in a quarter of the time, and read in a tenth.
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
        """The U bit: delivered as it arrives, not in its stream's order. Without interleaving a carrier may send in
        order what does not fit a packet: some peers abort the association otherwise."""
        self.lifetime = lifetime
        """Seconds after which an unsent message may be abandoned (RFC 3758, RFC 7496 section 4.1); None: never."""

    def arrived(self) -> Message:
        """The same as its receiver has it: without a lifetime."""
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
    """Where an SCTP endpoint is: one or more IP addresses, the SCTP port, and the UDP port of RFC 6951.

    Written ``HOST[,HOST...]:PORT[/UDPPORT]``; IPv6 addresses stand in brackets.
    """

    hosts: tuple[str, ...]
    port: int
    udp_port: int = DEFAULT_UDP_PORT

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]" if ":" in host else host for host in self.hosts)
        udp = "" if self.udp_port == DEFAULT_UDP_PORT else f"/{self.udp_port}"
        return f"{hosts}:{self.port}{udp}"

    def is_numeric(self) -> bool:
        """Whether all hosts are IP addresses, so that nothing has to be looked up."""
        try:
            return all(ip_address(host) for host in self.hosts)
        except ValueError:
            return False

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address written in `text`; ValueError, with what would be right, if it is none."""
        wanted = f"{text!r} is no SCTP address: write HOST:PORT or HOST[,HOST...]:PORT[/UDPPORT]"
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
                raise ValueError(f"{wanted} (an IPv6 address stands in brackets: [::1]:9000)")
            if not name:
                raise ValueError(wanted)
            names.append(name)
        return cls(tuple(names), _port(port, wanted), _port(udp, wanted) if slash else DEFAULT_UDP_PORT)


def _port(text: str, wanted: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise ValueError(f"{wanted} (a port is a number from 1 to 65535)")
    return int(text)


class Scheduler(Enum):
    """How SCTP picks the stream to send from (RFC 8260 section 3)."""

    FIRST_COME = "first-come"
    ROUND_ROBIN = "round-robin"
    PRIORITY = "priority"


@dataclass(frozen=True, slots=True)
class CarrierOptions:
    """What every carrier can be told. Times are seconds, sizes bytes."""

    outgoing_streams: int = 256
    """Streams asked for at the start; the peer may grant fewer (RFC 9260 section 5.1.1)."""
    incoming_streams: int = 2048
    """Streams the peer may open to us at most, RFC 6525 additions included."""
    scheduler: Scheduler = Scheduler.PRIORITY
    interleaving: bool = True
    """I-DATA (RFC 8260): the fragments of messages of different streams may be mixed on the wire."""
    send_buffer: int = 1 << 20
    receive_buffer: int = 4 << 20
    mtu: int | None = None
    """Path MTU of the userspace carrier, UDP header included; None: LOOPBACK_MTU on the loopback, else PATH_MTU. The
    kernel carrier discovers its own."""
    dead_after: float = 10.0
    """A peer from which no packet has come for so long is given up; at most a quarter later. See `silence`."""
    heartbeat_interval: float = 1.0
    """RFC 9260 section 8.3."""
    path_max_retransmissions: int = 4
    """Kernel carrier: time-outs after which a path of several is left for another."""
    rto_initial: float = 0.5
    rto_min: float = 0.1
    """RFC 9260 says 1 s; loss inside a data centre should not cost that."""
    rto_max: float = 3.0
    max_associations: int = 4160
    """Bound on all associations of one listener: a few more than the application side takes, so that it can say which
    give way, and those that do may still be ending."""
    connect_timeout: float = 5.0
    """An association that is not up after this many seconds is given up."""
    allowed_peers: tuple[str, ...] = ()
    """IP networks (CIDR) whose packets are taken; empty: all. An address that we connect to is always allowed."""
    udp_encapsulation: bool = False
    """Kernel carrier: send in UDP (RFC 6951) to the address's UDP port, to reach a userspace carrier or to cross a
    NAT; without interleaving then, which Linux and others do not understand of each other. The userspace carrier
    always does."""
    udp_segmentation: bool = True
    """Userspace carrier: hand the kernel runs of packets (UDP_SEGMENT). Switch it off toward a kernel carrier that is
    reached without a network card between, on this host or in its containers: Linux (6.1.176, as seen) panics when
    its SCTP is given such a run over UDP."""


@dataclass(frozen=True, slots=True)
class AssociationStatistics:
    """What the carrier knows of one association. A figure that it does not have is None."""

    round_trip: float | None = None
    """Smoothed round-trip time of the primary path, seconds."""
    retransmission_timeout: float | None = None
    """RTO of the primary path, seconds."""
    congestion_window: int | None = None
    peer_receive_window: int | None = None
    unacknowledged: int | None = None
    """DATA chunks sent and not yet acknowledged."""
    queued: int = 0
    """Payload bytes handed over by send() and not yet acknowledged or not yet sent, as the carrier counts."""
    retransmissions: int | None = None
    packets_sent: int | None = None
    packets_received: int | None = None
    interleaving: bool | None = None
    """Whether I-DATA is in use on this association."""
    paths: tuple[tuple[str, str], ...] = ()
    """Each peer address with its state: ``active``, ``inactive``, ``unconfirmed``, ``unknown``."""


class Association(Protocol):
    """One SCTP association, both directions. Calls after it went down do nothing."""

    @property
    def peer(self) -> str:
        """Who is at the other end, for people: ``192.0.2.7:9000``."""

    @property
    def outgoing_streams(self) -> int:
        """Number of streams that may be sent on now: 0 to this less 1."""

    @property
    def incoming_streams(self) -> int: ...

    def room(self, urgent: bool = False) -> int:
        """Payload bytes that :meth:`send` would take now, 0 if none; for urgent messages about URGENT_ROOM more. After
        a 0, of either kind, `writable` will be called.

        What is urgent should not wait until SCTP has sent a good part of what it holds, which is when there is room
        again: its streams have a priority, so it overtakes that.
        """

    def send(self, messages: Sequence[Message], urgent: bool = False) -> int:
        """Take messages from the front of `messages`; return how many were taken, 0 to all.

        Those not taken remain the caller's; `writable` will be called. A message that can never be sent (empty,
        larger than the send buffer, a stream that does not exist) raises ValueError.
        """

    def set_priority(self, stream: int, priority: int) -> None:
        """Priority of a stream for the priority scheduler: a lower number goes first (RFC 8260 section 4.3.3)."""

    def add_streams(self, count: int) -> bool:
        """Ask for `count` more outgoing streams (RFC 6525 section 5.1.5); False if that cannot be asked.

        The answer is `streams_changed`, perhaps with the number unchanged.
        """

    def shutdown(self) -> None:
        """End gracefully: what send() took is delivered, then `association_down` is called (RFC 9260 section 9.2)."""

    def abort(self, reason: str = "") -> None:
        """End now; `association_down` is called on a later turn of the loop, once (RFC 9260 section 9.1)."""

    def statistics(self) -> AssociationStatistics: ...


class AssociationHandler(Protocol):
    """What an association tells its user. Always on the loop's thread, never from inside a call of the user's. A call
    that raises costs the association: what it did not take is lost."""

    def association_up(self, association: Association) -> None:
        """The association is established; streams are known; it may be sent on."""

    def messages_received(self, messages: Sequence[Message]) -> None:
        """A batch of whole messages, in order of delivery, at least one. Lifetime is None."""

    def writable(self) -> None:
        """room() has grown from too little (what it was when a send was cut short, or 0) to something useful."""

    def streams_changed(self) -> None:
        """The numbers of streams changed, or a request for more was refused."""

    def association_down(self, reason: str) -> None:
        """The association is gone, or never came up. The last call. `reason` is a sentence, '' after a shutdown."""


class Listener(Protocol):
    @property
    def address(self) -> Address: ...

    def close(self) -> None:
        """Accept no more associations; those that are up live on."""


class Carrier(Protocol):
    """An SCTP stack with its sockets, on the running event loop."""

    name: str
    """``userspace``, ``kernel`` or ``memory``."""

    def listen(self, address: Address, accept: Callable[[str], AssociationHandler | None]) -> Listener:
        """Accept associations at `address`; `accept(peer)` makes the handler of each, None refuses it.

        CarrierError names the address and what is wrong with it.
        """

    def connect(self, address: Address, handler: AssociationHandler) -> Association:
        """Start an association to `address` (hosts are IP addresses); the handler hears how it went."""

    def close(self) -> None:
        """Abort what is still up, close every socket. No call-back comes after this."""
