"""Linux's SCTP sockets: numbers and structures of <linux/sctp.h>, and a socket set up as :class:`CarrierOptions` say.

pysctp gives what needs more than a socket option (peeloff, the peer's addresses and their state).
Everything else is an option it does not know, or one that costs less through the standard library, which is all that
:mod:`.carrier` uses once an association is up. Structures are in host order and packed by hand; where a
structure begins with an association identifier, 0 is "this socket's": its future ones, or its only one.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import re
import socket
import struct
from pathlib import Path
from typing import NamedTuple

import sctp as pysctp

from fcgi_core.sctp.addresses import socket_address
from fcgi_core.sctp.carrier import Address, CarrierError, CarrierOptions, Scheduler
from fcgi_core.sctp.silence import ENDLESS

__all__ = [
    "ABORT",
    "ADDRESS_CHANGE",
    "ASSOCIATION_CHANGE",
    "AssociationChange",
    "END_OF_FILE",
    "NOTIFICATION",
    "PARTIAL_DELIVERY",
    "PR_INFO",
    "PR_TTL",
    "RCV_INFO",
    "SHUTDOWN_EVENT",
    "SND_INFO",
    "SOL_SCTP",
    "STREAM_CHANGE",
    "Status",
    "UNORDERED",
    "abort_text",
    "add_outgoing_streams",
    "assoc_statistics",
    "bind",
    "connect",
    "interleaving",
    "open_socket",
    "paths",
    "queued_cost",
    "set_buffer",
    "set_stream_priority",
    "status",
    "sysctl",
]

log = logging.getLogger("fcgi_sctp.kernel")

SOL_SCTP = 132

# socket options
RTO_INFO, ASSOC_INFO, INIT_MSG, NO_DELAY = 0, 1, 2, 3
PEER_ADDR_PARAMS, STATUS, DELAYED_SACK, FRAGMENT_INTERLEAVE, RECV_RCV_INFO = 9, 14, 16, 18, 32
BINDX_ADD, CONNECTX = 100, 110
ASSOC_STATS, PR_SUPPORTED, RECONFIG_SUPPORTED, ENABLE_STREAM_RESET, ADD_STREAMS = 112, 113, 117, 118, 121
STREAM_SCHEDULER, STREAM_SCHEDULER_VALUE, INTERLEAVING, EVENT, UDP_ENCAPSULATION_PORT = (
    123,
    124,
    125,
    127,
    132,
)
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_MEMINFO = 32, 33, 55

# ancillary data, and flags in it
SND_INFO, RCV_INFO, PR_INFO = 2, 3, 5
UNORDERED, ABORT, PR_TTL, END_OF_FILE = 0x1, 0x4, 0x10, 0x200

# notifications
NOTIFICATION = 0x8000
ASSOCIATION_CHANGE, ADDRESS_CHANGE, SHUTDOWN_EVENT = 0x8001, 0x8002, 0x8005
PARTIAL_DELIVERY, STREAM_CHANGE = 0x8006, 0x800C
# Not SEND_FAILED: it hands back every message that a lost association did not deliver, a copy of all that was queued,
# to a core that keeps its own account. Not SENDER_DRY: it comes when nothing is left, too late to keep a path busy.
EVENTS = (ASSOCIATION_CHANGE, ADDRESS_CHANGE, SHUTDOWN_EVENT, PARTIAL_DELIVERY, STREAM_CHANGE)

SCHEDULERS = {Scheduler.FIRST_COME: 0, Scheduler.PRIORITY: 1, Scheduler.ROUND_ROBIN: 2}
PATH_STATES = {0: "inactive", 1: "inactive", 2: "active", 3: "unconfirmed"}  # 1: potentially failed, RFC 7829

MAX_STREAMS = 65535


class AssociationChange:
    """States in an association change notification."""

    UP, LOST, RESTART, SHUT_DOWN, NOT_STARTED = range(5)


class Status(NamedTuple):
    """What SCTP_STATUS tells: times in seconds."""

    established: bool
    peer_window: int
    unacknowledged: int
    incoming_streams: int
    outgoing_streams: int
    congestion_window: int
    round_trip: float
    retransmission_timeout: float


def sysctl(name: str) -> int | None:
    """The number in sysctl `name` (of this network namespace); None if there is none."""
    try:
        return int(Path("/proc/sys", *name.split(".")).read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _optional(sock: socket.socket, option: int, value: bytes) -> bool:
    """Set what the association can do without; whether it could be set."""
    try:
        sock.setsockopt(SOL_SCTP, option, value)
    except OSError:
        return False
    return True


_told: set[str] = set()


def _tell_once(what: str) -> None:
    if what not in _told:
        _told.add(what)
        log.warning("%s", what)


_forced = {socket.SO_SNDBUF: SO_SNDBUFFORCE, socket.SO_RCVBUF: SO_RCVBUFFORCE}


def set_buffer(sock: socket.socket, option: int, size: int) -> None:
    """Set SO_SNDBUF or SO_RCVBUF, beyond the system's limit where we may."""
    if option in _forced:
        try:
            sock.setsockopt(socket.SOL_SOCKET, _forced[option], size)
            return
        except PermissionError:
            _forced.clear()  # once not root, never root again
    sock.setsockopt(socket.SOL_SOCKET, option, size)


def _buffer(sock: socket.socket, option: int, size: int, limit: str) -> int:
    """Set a socket buffer to hold `size`; the size that it got."""
    set_buffer(sock, option, size)
    got = sock.getsockopt(socket.SOL_SOCKET, option) // 2  # Linux doubles what is asked, for its own structures
    if got < size:
        _tell_once(f"a socket buffer is {got} bytes instead of {size}: raise it with sysctl -w net.core.{limit}={size}")
    return got


def family_of(address: Address) -> socket.AddressFamily:
    """AF_INET, or AF_INET6 if any of the hosts wants it; CarrierError if one is no IP address."""
    versions = set()
    for host in address.hosts:
        try:
            versions.add(ipaddress.ip_address(host.partition("%")[0]).version)
        except ValueError:
            raise CarrierError(f"{address}: {host!r} is no IP address") from None
    return socket.AF_INET6 if 6 in versions else socket.AF_INET


def open_socket(address: Address, options: CarrierOptions, *, listening: bool) -> tuple[socket.socket, int]:
    """A non-blocking one-to-many socket for `address`, not yet bound, and the send buffer it got. CarrierError."""
    family = family_of(address)
    try:
        sock = socket.socket(family, socket.SOCK_SEQPACKET, SOL_SCTP)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT):
            raise CarrierError(
                f"this kernel gives no SCTP socket ({error.strerror}); fcgi-sctp doctor says what to do"
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

    outgoing, incoming = (
        min(options.outgoing_streams, MAX_STREAMS),
        min(options.incoming_streams, MAX_STREAMS),
    )
    # as many INITs as fit into connect's time limit, which is what ends the trying
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
    # An acknowledgement must not be delayed for as long as the peer's RTO.Min, which is likely ours: Linux's 200 ms
    # would have it send again what arrived. At most half, and the second packet is acknowledged at once anyway.
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
        _tell_once("this kernel cannot add streams to an association (RFC 6525)")
    # Linux numbers the fragments of a message 0, 0, 1, 2... (RFC 8260 section 2.1: 0, 1, 2, 3...; seen in 6.1), so its
    # I-DATA is understood by itself alone. Others come over UDP, and to a listener whenever the kernel has a UDP port.
    others = options.udp_encapsulation or (listening and bool(sysctl("net.sctp.udp_port")))
    if options.interleaving and not others:
        sock.setsockopt(SOL_SCTP, FRAGMENT_INTERLEAVE, 2)
        if not _optional(sock, INTERLEAVING, struct.pack("=iI", 0, 1)):
            _tell_once("no interleaving of messages (RFC 8260): enable it with sysctl -w net.sctp.intl_enable=1")
    if options.udp_encapsulation:
        if not sysctl("net.sctp.udp_port"):
            raise CarrierError(
                f"{address}: the kernel's SCTP has no UDP port (RFC 6951): "
                f"sysctl -w net.sctp.udp_port={address.udp_port}"
            )
        _optional(
            sock,
            UDP_ENCAPSULATION_PORT,
            struct.pack("@i4x128s", 0, b"") + struct.pack(">H6x", address.udp_port),
        )
    return send_buffer


def status(sock: socket.socket) -> Status:
    """The association's state; OSError if it is gone."""
    raw = sock.getsockopt(SOL_SCTP, STATUS, 176)
    _, state, window, unacknowledged, _, incoming, outgoing, _ = struct.unpack_from("=iiI4HI", raw)
    congestion_window, round_trip, timeout = struct.unpack_from("=3I", raw, 24 + 136)
    return Status(
        state == 4,
        window,
        unacknowledged,
        incoming,
        outgoing,
        congestion_window,
        round_trip / 1000,
        timeout / 1000,
    )


def _sockaddrs(address: Address) -> bytes:
    """Its hosts one after the other, as bindx and connectx have them (RFC 6458 section 9.1), each with its zone."""
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
    """Bind to all hosts of `address`. OSError."""
    sock.setsockopt(SOL_SCTP, BINDX_ADD, _sockaddrs(address))


def connect(sock: socket.socket, address: Address) -> None:
    """Start an association with the peer that has all hosts of `address`. OSError; BlockingIOError: it has begun."""
    sock.setsockopt(SOL_SCTP, CONNECTX, _sockaddrs(address))


def queued_cost(sock: socket.socket) -> int:
    """Memory of all that is sent and not acknowledged or not sent, in the unit of the (doubled) send buffer.

    This is SO_MEMINFO's `wmem_queued`: SCTP has no SIOCOUTQ, and SCTP_STATUS counts only what was already sent.
    """
    return int(struct.unpack_from("=6I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 24))[5])


def assoc_statistics(sock: socket.socket) -> tuple[int, int, int]:
    """Packets sent, packets received, chunks sent again."""
    sent, received, again = struct.unpack_from("=3Q", sock.getsockopt(SOL_SCTP, ASSOC_STATS, 256), 136 + 3 * 8)
    return sent, received, again


def interleaving(sock: socket.socket) -> bool:
    """Whether both ends agreed on I-DATA."""
    return bool(struct.unpack("=iI", sock.getsockopt(SOL_SCTP, INTERLEAVING, 8))[1])


def set_stream_priority(sock: socket.socket, stream: int, priority: int) -> None:
    _optional(sock, STREAM_SCHEDULER_VALUE, struct.pack("=i2H", 0, stream, max(0, min(priority, 65535))))


def add_outgoing_streams(sock: socket.socket, count: int) -> bool:
    """Whether the request could be made: the peer knows RFC 6525, no other request is open, ids are left."""
    return 1 <= count <= MAX_STREAMS and _optional(sock, ADD_STREAMS, struct.pack("=i2H", 0, 0, count))


def paths(sock: socket.socket) -> tuple[tuple[str, str], ...]:
    """The peer's addresses and their states."""
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
    """IPv4 addresses as such, where an IPv6 socket tells them as ::ffff:192.0.2.7."""
    return host.removeprefix("::ffff:") if "." in host else host


def abort_text(info: bytes) -> str:
    """What the peer's ABORT said, made harmless to show; '' if nothing. `info` is its error causes: Linux does not
    begin with the chunk's header, as RFC 6458 section 6.1.1 would have it."""
    at = 0
    while at + 4 <= len(info):
        cause, length = struct.unpack_from(">HH", info, at)
        if cause == 12:  # user-initiated abort, section 3.3.10.12
            text = info[at + 4 : at + max(4, length)].decode("utf-8", "replace")
            return re.sub(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\uffff]", "?", text)[:200]
        if cause == 13:
            return "protocol violation"
        at += max(4, length + 3 & ~3)
    return ""
