"""Linux's SCTP sockets: numbers and structures of <linux/sctp.h>, and sockets set up by :class:`CarrierOptions`.

pysctp does what needs more than a socket option: peeling off, the peer's addresses and their states. Everything else is
an option that pysctp does not know, or that costs less through the standard library. Structures are in host order and
packed by hand. Where a structure begins with an association identifier, 0 means the socket's future associations, or
its only one.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import logging
import socket
import struct
import time
from typing import NamedTuple

import sctp as pysctp

from ..addresses import socket_address
from ..carrier import Address, CarrierError, CarrierOptions, Scheduler
from ..probe import SOL_SCTP, sysctl
from ..silence import ENDLESS

log = logging.getLogger("fcgi_sctp.kernel")

# socket options
RTO_INFO, ASSOC_INFO, INIT_MSG, NO_DELAY = 0, 1, 2, 3
PEER_ADDR_PARAMS, STATUS, DELAYED_SACK, FRAGMENT_INTERLEAVE, RECV_RCV_INFO = 9, 14, 16, 18, 32
BINDX_ADD, CONNECTX = 100, 110
ASSOC_STATS, PR_SUPPORTED, RECONFIG_SUPPORTED, ENABLE_STREAM_RESET, ADD_STREAMS = 112, 113, 117, 118, 121
STREAM_SCHEDULER, STREAM_SCHEDULER_VALUE, INTERLEAVING, EVENT, UDP_ENCAPSULATION_PORT = 123, 124, 125, 127, 132
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_MEMINFO = 32, 33, 55

# ancillary data, and flags in it
SND_INFO, RCV_INFO, PR_INFO = 2, 3, 5
UNORDERED, ABORT, PR_TTL, END_OF_FILE = 0x1, 0x4, 0x10, 0x200

# notifications
NOTIFICATION = 0x8000
ASSOCIATION_CHANGE, ADDRESS_CHANGE, SHUTDOWN_EVENT = 0x8001, 0x8002, 0x8005
PARTIAL_DELIVERY, STREAM_CHANGE = 0x8006, 0x800C
# Not SEND_FAILED: it returns each message that a lost association did not deliver, a copy of all that was queued, and
# the core keeps its own account. Not SENDER_DRY: it comes when nothing is left, too late to keep a path busy.
EVENTS = (ASSOCIATION_CHANGE, ADDRESS_CHANGE, SHUTDOWN_EVENT, PARTIAL_DELIVERY, STREAM_CHANGE)

SCHEDULERS = {Scheduler.FIRST_COME: 0, Scheduler.PRIORITY: 1, Scheduler.ROUND_ROBIN: 2}
PATH_STATES = {0: "inactive", 1: "inactive", 2: "active", 3: "unconfirmed"}  # 1: potentially failed, RFC 7829

MAX_STREAMS = 65535
JIFFY = time.clock_getres(6)  # CLOCK_MONOTONIC_COARSE, which goes by the kernel's timer
"""Seconds of a tick of the kernel's timer, in which it tells the smoothed round trip. Other times are milliseconds."""


class AssociationChange:
    """States in an association change notification."""

    UP, LOST, RESTART, SHUT_DOWN, NOT_STARTED = range(5)


class Status(NamedTuple):
    """The values of SCTP_STATUS; times in seconds."""

    established: bool
    peer_window: int
    unacknowledged: int
    incoming_streams: int
    outgoing_streams: int
    unfragmented: int
    """Bytes of the largest message that one packet carries."""
    congestion_window: int
    round_trip: float
    retransmission_timeout: float


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _optional(sock: socket.socket, option: int, value: bytes) -> bool:
    """Set an option that an association can do without; False if it could not be set."""
    try:
        sock.setsockopt(SOL_SCTP, option, value)
    except OSError:
        return False
    return True


@functools.cache
def _warn_once(what: str) -> None:
    log.warning("%s", what)


_forced = {socket.SO_SNDBUF: SO_SNDBUFFORCE, socket.SO_RCVBUF: SO_RCVBUFFORCE}


def set_buffer(sock: socket.socket, option: int, size: int) -> None:
    """Set SO_SNDBUF or SO_RCVBUF, beyond the system's limit if the process has the privilege."""
    if option in _forced:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _forced[option], size)
            return
        except PermissionError:
            _forced.clear()  # once not root, never root again
    sock.setsockopt(socket.SOL_SOCKET, option, size)


def _buffer(sock: socket.socket, option: int, size: int, limit: str) -> int:
    """Set a socket buffer to `size`; returns the size that it got."""
    set_buffer(sock, option, size)
    got = sock.getsockopt(socket.SOL_SOCKET, option) // 2  # Linux doubles the size, for its own structures
    if got < size:
        _warn_once(f"a socket buffer has {got} bytes instead of {size}: sysctl -w net.core.{limit}={size} allows more")
    return got


def family_of(address: Address) -> socket.AddressFamily:
    """AF_INET6 if one of the hosts is an IPv6 address, else AF_INET; CarrierError if one is not an IP address."""
    versions = set()
    for host in address.hosts:
        try:
            versions.add(ipaddress.ip_address(host.partition("%")[0]).version)
        except ValueError:
            raise CarrierError(f"{address}: {host!r} is not an IP address") from None
    return socket.AF_INET6 if 6 in versions else socket.AF_INET


def open_socket(address: Address, options: CarrierOptions, *, listening: bool) -> tuple[socket.socket, int]:
    """A non-blocking one-to-many socket for `address`, not yet bound, and the size of its send buffer; CarrierError if
    there is none."""
    family = family_of(address)
    try:
        sock = socket.socket(family, socket.SOCK_SEQPACKET, SOL_SCTP)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT):
            raise CarrierError(
                f"this kernel has no SCTP ({error.strerror}): fcgi-sctp doctor says what to do"
            ) from error
        raise CarrierError(f"{address}: no socket: {error.strerror}") from error
    try:
        return sock, _prepare(sock, address, options, listening)
    except BaseException:
        sock.close()
        raise


def _prepare(sock: socket.socket, address: Address, options: CarrierOptions, listening: bool) -> int:
    sock.setblocking(False)
    # A new process may listen while associations of the last one live. Two listeners still exclude each other.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    send_buffer = _buffer(sock, socket.SO_SNDBUF, options.send_buffer, "wmem_max")
    _buffer(sock, socket.SO_RCVBUF, options.receive_buffer, "rmem_max")

    outgoing, incoming = min(options.outgoing_streams, MAX_STREAMS), min(options.incoming_streams, MAX_STREAMS)
    # INITs without end: connect_timeout ends connecting
    sock.setsockopt(
        SOL_SCTP,
        INIT_MSG,
        struct.pack("=4H", outgoing, incoming, 64, min(65535, milliseconds(options.rto_max))),
    )
    sock.setsockopt(SOL_SCTP, NO_DELAY, 1)
    rto = (milliseconds(options.rto_initial), milliseconds(options.rto_max), milliseconds(options.rto_min))
    sock.setsockopt(SOL_SCTP, RTO_INFO, struct.pack("=i3I", 0, *rto))
    sock.setsockopt(SOL_SCTP, ASSOC_INFO, struct.pack("=i2H3I", 0, ENDLESS, 0, 0, 0, 0))
    heartbeat_enable = 0x1
    sock.setsockopt(
        SOL_SCTP,
        PEER_ADDR_PARAMS,
        # association, address (none: all), heartbeat, retransmissions, MTU, SACK delay, flags, flow label, DSCP
        struct.pack(
            "=i128sIHIIIIBx",
            *(0, b"", milliseconds(options.heartbeat_interval), options.path_max_retransmissions),
            *(0, 0, heartbeat_enable, 0, 0),
        ),
    )
    # A delay of the peer's RTO.Min, likely the same as ours, or longer makes the peer send again what arrived; Linux's
    # default is 200 ms. So at most half of RTO.Min; every second packet is acknowledged at once anyway.
    sack_delay = min(200, max(1, milliseconds(options.rto_min) // 2))
    sock.setsockopt(SOL_SCTP, DELAYED_SACK, struct.pack("=i2I", 0, sack_delay, 2))
    sock.setsockopt(SOL_SCTP, RECV_RCV_INFO, 1)
    for event in EVENTS:
        sock.setsockopt(SOL_SCTP, EVENT, struct.pack("=iHBx", 0, event, 1))

    _optional(sock, STREAM_SCHEDULER, struct.pack("=iI", 0, SCHEDULERS[options.scheduler]))
    _optional(sock, PR_SUPPORTED, struct.pack("=iI", 0, 1))
    change_association = 0x4  # adding streams (RFC 6525 section 5), not resetting any
    if not (
        _optional(sock, RECONFIG_SUPPORTED, struct.pack("=iI", 0, 1))
        and _optional(sock, ENABLE_STREAM_RESET, struct.pack("=iI", 0, change_association))
    ):
        _warn_once("this kernel cannot add streams to an association (RFC 6525)")
    # Linux (6.1) numbers the fragments of a message 0, 0, 1, 2... where RFC 8260 section 2.1 has 0, 1, 2, 3..., so only
    # Linux understands its I-DATA. Other stacks come over UDP, and to a listener whenever the kernel has a UDP port.
    others = options.udp_encapsulation or (listening and bool(sysctl("net.sctp.udp_port")))
    if options.interleaving and not others:
        sock.setsockopt(SOL_SCTP, FRAGMENT_INTERLEAVE, 2)
        if not _optional(sock, INTERLEAVING, struct.pack("=iI", 0, 1)):
            _warn_once("messages are not interleaved (RFC 8260): sysctl -w net.sctp.intl_enable=1 enables it")
    if options.udp_encapsulation:
        if not sysctl("net.sctp.udp_port"):
            raise CarrierError(
                f"{address}: the kernel's SCTP has no UDP port (RFC 6951): "
                f"sysctl -w net.sctp.udp_port={address.udp_port} sets it"
            )
        _optional(
            sock,
            UDP_ENCAPSULATION_PORT,
            struct.pack("@i4x128s", 0, b"") + struct.pack(">H6x", address.udp_port),
        )
    return send_buffer


def status(sock: socket.socket) -> Status:
    """The association's state; OSError if the association has ended."""
    raw = sock.getsockopt(SOL_SCTP, STATUS, 176)
    _, state, window, unacknowledged, _, incoming, outgoing, unfragmented = struct.unpack_from("=iiI4HI", raw)
    congestion_window, round_trip, timeout = struct.unpack_from("=3I", raw, 24 + 136)
    return Status(
        state == 4,
        window,
        unacknowledged,
        incoming,
        outgoing,
        unfragmented,
        congestion_window,
        round_trip * JIFFY,
        timeout / 1000,
    )


def _sockaddrs(address: Address) -> bytes:
    """The hosts of `address` with their zones, packed for bindx and connectx (RFC 6458 section 9.1)."""
    packed = b""
    for host in address.hosts:
        name = socket_address(host, address.port)
        if len(name) == 2:
            packed += (
                struct.pack("=H", socket.AF_INET) + struct.pack(">H", name[1]) + socket.inet_aton(name[0]) + bytes(8)
            )
        else:
            plain = socket.inet_pton(socket.AF_INET6, name[0].partition("%")[0])
            packed += struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", name[1], 0) + plain
            packed += struct.pack("=I", name[3])
    return packed


def bind(sock: socket.socket, address: Address) -> None:
    """Bind to all hosts of `address`; OSError if that fails."""
    sock.setsockopt(SOL_SCTP, BINDX_ADD, _sockaddrs(address))


def connect(sock: socket.socket, address: Address) -> None:
    """Start an association with the peer that has all hosts of `address`: raises BlockingIOError if that has begun,
    OSError if it failed."""
    sock.setsockopt(SOL_SCTP, CONNECTX, _sockaddrs(address))


def queued_cost(sock: socket.socket) -> int:
    """Memory of all that is not sent or not acknowledged, in the unit of the (doubled) send buffer.

    This is SO_MEMINFO's `wmem_queued`: SCTP has no SIOCOUTQ, and SCTP_STATUS does not count what was not sent yet.
    """
    return int(struct.unpack_from("=6I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 24))[5])


def assoc_statistics(sock: socket.socket) -> tuple[int, int, int]:
    """Packets sent, packets received, and chunks retransmitted."""
    sent, received, again = struct.unpack_from("=3Q", sock.getsockopt(SOL_SCTP, ASSOC_STATS, 256), 136 + 3 * 8)
    return sent, received, again


def interleaving(sock: socket.socket) -> bool:
    """Whether both ends agreed on I-DATA."""
    return bool(struct.unpack("=iI", sock.getsockopt(SOL_SCTP, INTERLEAVING, 8))[1])


def set_stream_priority(sock: socket.socket, stream: int, priority: int) -> None:
    _optional(sock, STREAM_SCHEDULER_VALUE, struct.pack("=i2H", 0, stream, max(0, min(priority, 65535))))


def add_outgoing_streams(sock: socket.socket, count: int) -> bool:
    """Ask for `count` more streams; False if that cannot be asked: the peer does not know RFC 6525, another request is
    open, or no stream numbers are left."""
    return 1 <= count <= MAX_STREAMS and _optional(sock, ADD_STREAMS, struct.pack("=i2H", 0, 0, count))


def paths(sock: socket.socket) -> tuple[tuple[str, str], ...]:
    """The peer's addresses with their states."""
    wrapped = pysctp.sctpsocket_tcp(sock.family, sock)
    found = []
    for address in wrapped.getpaddrs():
        try:
            state = PATH_STATES.get(wrapped.get_paddrinfo(0, address).state, "inactive")
        except OSError:  # a link-local address, whose zone pysctp does not know
            state = "unknown"
        found.append((plain_host(address[0]), state))
    return tuple(found)


def plain_host(host: str) -> str:
    """`host` without the prefix that an IPv6 socket puts before IPv4 addresses: ::ffff:192.0.2.7."""
    return host.removeprefix("::ffff:") if "." in host else host
