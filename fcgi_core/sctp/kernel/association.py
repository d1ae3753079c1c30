"""One association of the kernel carrier: a non-blocking socket, read in batches, with a short send queue.

**Short queue in the kernel.** The socket's send buffer *is* the limit. It follows the path: one and a half congestion
windows, at least 16 KiB more than one, at most `send_buffer`. EPOLLOUT then says when there is room again. Urgent
messages do not wait for that: the buffer is raised while they are sent. While waiting, the buffer is a quarter smaller,
so that one acknowledged packet does not wake us for one message. The buffer counts the kernel's memory, not payload;
`_cost` converts, by the sizes of the messages sent lately. room() costs one getsockopt(SO_MEMINFO); a queue that gets
full costs five more calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from .. import end_reasons
from ..carrier import (
    MESSAGE_SIZE,
    URGENT_ROOM,
    Address,
    AssociationHandler,
    CarrierOptions,
    Message,
    Scheduler,
    message_size,
)
from ..probe import SOL_SCTP
from ..reassembly import MAX_PARTIAL, Reassembly
from ..silence import Watch
from ..statistics import AssociationStatistics
from . import sockets as linux
from .sockets import AssociationChange

__all__ = ["KernelAssociation", "READ_SIZE", "read_change"]

log = logging.getLogger("fcgi_sctp.kernel")

READ_SIZE = 64 << 10
"""Bytes asked for in one recvmsg: a message of LARGE_MESSAGE; a longer one comes in parts."""
BATCH_MESSAGES = 64
BATCH_BYTES = 1 << 20
"""Limits of one wake-up, after which other file descriptors get their turn (asyncio reads 256 KiB of a TCP stream)."""
UNORDERED = 1024
"""Bytes of a message that surely fits a packet. Without I-DATA longer ones are sent in order: libusrsctp, whose peers
do without, aborts the association where a FORWARD-TSN meets fragments of an unordered message (its issue 597)."""
QUEUE_AHEAD = 16 << 10
"""Payload that the kernel may hold beyond the congestion window at least: a message of the protocol's default size."""
MESSAGE_COST = 1024
"""Bytes that the kernel charges for a message of one byte (measured on Linux 6.1 for x86-64)."""

_snd_info = struct.Struct("=2H2Ii")
_change = struct.Struct("=2HI4Hi")


def read_change(notification: bytes) -> tuple[int, int] | None:
    """The state and the association identifier of an association change; None if it is another notification."""
    if _kind(notification) != linux.ASSOCIATION_CHANGE:
        return None
    *_, state, _, _, _, identifier = _change.unpack_from(notification)
    return state, identifier


def _kind(notification: bytes) -> int:
    return int.from_bytes(notification[:2], sys.byteorder)


def _sockaddr(raw: bytes) -> str:
    """The host in a sockaddr_in or sockaddr_in6."""
    if int.from_bytes(raw[:2], sys.byteorder) == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[4:8])
    return linux.plain_host(socket.inet_ntop(socket.AF_INET6, raw[8:24]))


class Owner(Protocol):
    """The carrier, as its associations see it."""

    loop: asyncio.AbstractEventLoop
    options: CarrierOptions
    associations: set[KernelAssociation]

    def call_soon(self, function: Callable[[str], None], argument: str) -> None: ...

    def peel(self, sock: socket.socket, identifier: int) -> socket.socket: ...


class KernelAssociation:
    """Implements :class:`fcgi_core.sctp.carrier.Association`. While it connects its socket is a one-to-many socket with
    no other association, then a socket for it alone."""

    def __init__(self, carrier: Owner, sock: socket.socket, peer: str, send_limit: int) -> None:
        self.peer = peer
        self.outgoing_streams = 0
        self.incoming_streams = 0
        self.message_size = MESSAGE_SIZE
        self._carrier = carrier
        self._loop = carrier.loop
        self._options = carrier.options
        self._handler: AssociationHandler
        self._listed: set[KernelAssociation] | None = None
        self._interleaving = False
        self._sock: socket.socket | None = sock
        self._up = False
        self._timer: asyncio.TimerHandle | None = None
        self._silence: Watch | None = None
        self._reassembly = Reassembly()
        self._send_limit = send_limit
        self._average = 1024.0  # payload bytes of a message, lately
        self._queue = 2 * QUEUE_AHEAD  # payload bytes that the kernel may hold
        self._buffer = 0  # the value of SO_SNDBUF
        self._full = 0  # the value that would hold all that was queued when we began to wait
        self._waiting = False
        self._ending = False
        carrier.associations.add(self)

    # -- opening --------------------------------------------------------------------------------------------------

    def start(self, address: Address, handler: AssociationHandler) -> None:
        """Connect the socket to `address`."""
        self._handler = handler
        sock = self._sock
        assert sock is not None
        try:
            linux.connect(sock, address)
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(f"no association with {address}: {error.strerror}")
            return
        self._loop.add_reader(sock.fileno(), self._connecting)
        limit = self._options.connect_timeout
        self._timer = self._loop.call_later(limit, self._end, end_reasons.no_answer(str(address), limit))

    def _connecting(self) -> None:
        """Read what became of connecting; the association may have begun and ended already."""
        sock = self._sock
        assert sock is not None
        while True:
            try:
                data, _, flags, _ = sock.recvmsg(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._end(f"no association with {self.peer}: {error.strerror}")
                return
            change = read_change(data) if flags & linux.NOTIFICATION else None
            if change is None:
                continue
            state, identifier = change
            if state == AssociationChange.UP:
                try:
                    self._sock = self._carrier.peel(sock, identifier)
                    break
                except OSError:
                    continue  # it has ended; the next notification says why
            elif state == AssociationChange.NOT_STARTED:
                self._end(end_reasons.refused(self.peer, "nothing listens there, or our address is not allowed"))
            else:
                self._end(self._lost(data[_change.size :]))
            return
        self._loop.remove_reader(sock.fileno())
        sock.close()
        if self._timer is not None:
            self._timer.cancel()
        self.established(self._handler)

    def begin_accept(self, handler: AssociationHandler, listed: set[KernelAssociation]) -> None:
        """Begin as one of the accepted associations of a listener, `listed`, which it leaves when it ends."""
        self._listed = listed
        listed.add(self)
        self.established(handler)

    def established(self, handler: AssociationHandler) -> None:
        """Begin, now that the socket is for this association alone, and call `handler`."""
        self._handler = handler
        sock = self._sock
        assert sock is not None
        try:
            self._refresh_streams()
            self._follow_path()
            self._interleaving = linux.interleaving(sock)
            self.message_size = message_size(self._interleaving, linux.status(sock).unfragmented)
        except OSError as error:
            self._end(f"the association with {self.peer} ended while it began: {error.strerror}")
            return
        self._up = True
        self._silence = Watch(self._loop, self._options.dead_after, self._packets_received, self._silent)
        self._loop.add_reader(sock.fileno(), self._readable)
        self._call(handler.association_up, self)

    def _packets_received(self) -> int | None:
        try:
            return None if self._sock is None else linux.assoc_statistics(self._sock)[1]
        except OSError:
            return None  # it has ended; a notification follows

    def _silent(self) -> None:
        self._abort("silence")
        self._end(end_reasons.silent(self.peer, self._options.dead_after))

    # -- receiving ------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Read a batch, and deliver the messages before a notification or an error before acting on that."""
        batch: list[Message] = []
        size = 0
        sock = self._sock
        assert sock is not None
        while len(batch) < BATCH_MESSAGES and size < BATCH_BYTES:
            try:
                data, ancillary, flags, _ = sock.recvmsg(READ_SIZE, 64)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._deliver(batch)
                self._end(f"the association with {self.peer} failed: {error.strerror}")
                return
            if flags & linux.NOTIFICATION:
                self._deliver(batch)
                batch = []
                self._notified(data)
            elif ancillary:
                size += len(data)
                message = self._received(data, ancillary[0][2], bool(flags & socket.MSG_EOR))
                if message is not None:
                    batch.append(message)
            else:  # the end, as no message is empty (RFC 9260 section 3.3.1)
                self._deliver(batch)
                self._end("")
            if self._sock is None:
                return
        self._deliver(batch)

    def _deliver(self, batch: list[Message]) -> None:
        if batch and self._sock is not None:
            self._call(self._handler.messages_received, batch)

    def _call(self, hook: Callable[..., None], *about: object) -> None:
        """Call a hook of the handler, and abort the association if it raises."""
        try:
            hook(*about)
        except Exception as error:
            end_reasons.handler_failed(self._loop, self, error)

    def _received(self, data: bytes, info: bytes, whole: bool) -> Message | None:
        """The message that `data` is or ends; None if more parts follow."""
        stream, _, flags = struct.unpack_from("=3H", info)
        ppid = int.from_bytes(info[8:12], "big")
        unordered = bool(flags & linux.UNORDERED)
        if whole:
            if self._reassembly.begun:
                data = self._reassembly.finish(stream, unordered, 0, data)
            return Message(stream, data, ppid, unordered)
        if not self._reassembly.add(stream, unordered, 0, data):
            self.abort(f"more than {MAX_PARTIAL} bytes of unfinished messages")
        return None

    def _notified(self, data: bytes) -> None:
        kind = _kind(data)
        if kind == linux.ASSOCIATION_CHANGE:
            self._association_changed(data)
        elif kind == linux.STREAM_CHANGE:
            self._refresh_streams()
            self._call(self._handler.streams_changed)
        elif kind == linux.SHUTDOWN_EVENT:
            self._ending = True  # the peer accepts nothing new; what it sent before still arrives
        elif kind == linux.PARTIAL_DELIVERY and len(data) >= 24:
            self._reassembly.drop(struct.unpack_from("=I", data, 16)[0], 0)
        elif kind == linux.ADDRESS_CHANGE and len(data) >= 140:
            state = struct.unpack_from("=i", data, 136)[0]
            if state in (0, 1):
                log.info("%s: path to %s is %s", self.peer, _sockaddr(data[8:136]), ("up", "down")[state])

    def _association_changed(self, data: bytes) -> None:
        *_, state, _, _, _, _ = _change.unpack_from(data)
        if state == AssociationChange.SHUT_DOWN:
            self._end("")
        elif state == AssociationChange.LOST:
            self._end(self._lost(data[_change.size :]))
        elif state == AssociationChange.RESTART:
            self._abort("restarted")
            self._end(f"{self.peer} restarted")

    def _lost(self, info: bytes) -> str:
        sock = self._sock
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if sock is not None else 0
        if info:
            # Linux leaves out the chunk's header, with which RFC 6458 section 6.1.1 begins
            return end_reasons.aborted(self.peer, end_reasons.abort_cause(info))
        return f"the association with {self.peer} was lost: {os.strerror(error) if error else 'no answer'}"

    def _refresh_streams(self) -> None:
        sock = self._sock
        if sock is not None:
            now = linux.status(sock)
            self.outgoing_streams, self.incoming_streams = now.outgoing_streams, now.incoming_streams

    # -- sending --------------------------------------------------------------------------------------------------

    def _cost(self) -> float:
        """Kernel memory for a byte of payload, by the messages sent lately: about twice the payload (a packet of 1,500
        bytes takes 2,300) and about 1 KiB a message."""
        return 2 + MESSAGE_COST / self._average

    def _set_buffer(self, payload: float) -> None:
        """Let the kernel hold `payload` bytes."""
        sock = self._sock
        wanted = int(min(payload * self._cost() / 2, self._send_limit))  # the kernel doubles it
        if sock is not None and abs(wanted - self._buffer) > self._buffer >> 4:
            linux.set_buffer(sock, socket.SO_SNDBUF, wanted)
            self._buffer = wanted

    def _follow_path(self) -> None:
        sock = self._sock
        if sock is not None:
            window = linux.status(sock).congestion_window
            self._queue = window + max(QUEUE_AHEAD, window // 2)
            self._set_buffer(self._queue)

    def _wait(self) -> None:
        sock = self._sock
        if sock is not None and not self._waiting:
            self._waiting = True
            self._full = max(self._buffer, linux.queued_cost(sock) // 2)
            self._set_buffer(self._queue * 0.75)
            self._loop.add_writer(sock.fileno(), self._writable)

    def _writable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        self._loop.remove_writer(sock.fileno())
        self._waiting = False
        try:
            self._follow_path()
        except OSError:
            return  # it has ended; a notification follows
        if not self._ending:
            self._call(self._handler.writable)

    def room(self, urgent: bool = False) -> int:
        sock = self._sock
        if sock is None or not self._up or self._ending or (self._waiting and not urgent):
            return 0
        if self._waiting:
            return max(0, int((2 * self._urgent_buffer() - linux.queued_cost(sock)) / self._cost()))
        if urgent:
            return URGENT_ROOM
        free = 2 * self._buffer - linux.queued_cost(sock)
        if free < self._buffer >> 3:
            self._wait()
            return 0
        return max(1, int(free / self._cost()))

    def _urgent_buffer(self) -> int:
        """The send buffer while urgent messages are sent: beyond what others had filled when they had to wait."""
        return min(self._full + URGENT_ROOM // 2, self._send_limit)

    def send(self, messages: Sequence[Message], urgent: bool = False) -> int:
        sock = self._sock
        if sock is None or not self._up or self._ending or (self._waiting and not urgent):
            return 0
        taken = 0 if self._waiting else self._send_all(sock, messages)
        if not urgent or not self._waiting or taken == len(messages):
            return taken
        linux.set_buffer(sock, socket.SO_SNDBUF, self._urgent_buffer())
        try:
            return taken + self._send_all(sock, messages[taken:])
        finally:
            if self._sock is not None:
                linux.set_buffer(sock, socket.SO_SNDBUF, self._buffer)

    def _send_all(self, sock: socket.socket, messages: Sequence[Message]) -> int:
        taken = 0
        for message in messages:
            try:
                self._send(sock, message)
            except BlockingIOError:
                self._wait()
                break
            except ValueError:
                if taken:
                    break  # the next call begins with this message and raises
                raise
            except OSError:
                self._ending = True  # it has ended; a notification that says why follows
                break
            taken += 1
        return taken

    def _send(self, sock: socket.socket, message: Message) -> None:
        stream, data, lifetime = message.stream, message.data, message.lifetime
        size = len(data)
        if not 0 <= stream < self.outgoing_streams:
            raise ValueError(f"there is no stream {stream}: the association has {self.outgoing_streams}")
        if not 0 < size <= self._send_limit:
            raise ValueError(f"a message has 1 to {self._send_limit} bytes, this one {size}")
        if size > 2 * self._buffer:
            self._set_buffer(2 * size / self._cost())
        self._average += (size - self._average) / 32
        unordered = message.unordered and (self._interleaving or size <= UNORDERED)
        info = _snd_info.pack(stream, linux.UNORDERED if unordered else 0, socket.htonl(message.ppid), 0, 0)
        ancillary = [(SOL_SCTP, linux.SND_INFO, info)]
        if lifetime is not None:
            limit = struct.pack("=H2xI", linux.PR_TTL, linux.milliseconds(lifetime))
            ancillary.append((SOL_SCTP, linux.PR_INFO, limit))
        sock.sendmsg((data,), ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def set_priority(self, stream: int, priority: int) -> None:
        if self._sock is not None and self._up and self._options.scheduler is Scheduler.PRIORITY:
            linux.set_stream_priority(self._sock, stream, priority)

    def add_streams(self, count: int) -> bool:
        if self._sock is None or not self._up or self._ending:
            return False
        return linux.add_outgoing_streams(self._sock, count)

    # -- ending ---------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        sock = self._sock
        if sock is None or self._ending:
            return
        if not self._up:
            self._end("")
            return
        self._ending = True
        try:
            sock.sendmsg((), [(SOL_SCTP, linux.SND_INFO, _snd_info.pack(0, linux.END_OF_FILE, 0, 0, 0))])
        except OSError:
            pass  # it has ended already; a notification follows

    def abort(self, reason: str = "") -> None:
        self._abort(reason)
        self._end(end_reasons.aborted_here(reason))

    def _abort(self, reason: str) -> None:
        sock = self._sock
        if sock is not None and self._up:
            info = _snd_info.pack(0, linux.ABORT, 0, 0, 0)
            try:
                sock.sendmsg((reason.encode()[:512],), [(SOL_SCTP, linux.SND_INFO, info)], socket.MSG_DONTWAIT)
            except OSError:
                pass  # it has ended already

    def _end(self, reason: str) -> None:
        """Close, and call the handler on a later turn of the loop."""
        if self.discard():
            handler = self._handler
            del self._handler  # it may refer to this association: a circle
            self._carrier.call_soon(handler.association_down, reason)

    def refuse(self, reason: str) -> None:
        """Abort an association that no handler was given for."""
        self._up = True
        self.discard(reason)

    def discard(self, reason: str | None = None) -> bool:
        """Close without calling the handler, and with an ABORT if there is a reason; False if it was closed before."""
        sock = self._sock
        if sock is None:
            return False
        if reason is not None:
            self._abort(reason)
        self._sock = None
        if self._timer is not None:
            self._timer.cancel()
        if self._silence is not None:
            self._silence.stop()
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_writer(sock.fileno())
        sock.close()
        self._carrier.associations.discard(self)
        if self._listed is not None:
            self._listed.discard(self)
        return True

    def statistics(self) -> AssociationStatistics:
        sock = self._sock
        if sock is None or not self._up:
            return AssociationStatistics()
        try:
            now = linux.status(sock)
            sent, received, again = linux.assoc_statistics(sock)
            # 0 is less than a tick of the kernel's clock, or none was measured: the first message was lost
            measured = now.round_trip > 0 or now.retransmission_timeout < self._options.rto_initial
            return AssociationStatistics(
                round_trip=now.round_trip if measured else None,
                retransmission_timeout=now.retransmission_timeout,
                congestion_window=now.congestion_window,
                peer_receive_window=now.peer_window,
                unacknowledged=now.unacknowledged,
                queued=int(linux.queued_cost(sock) / self._cost()),
                retransmissions=again,
                packets_sent=sent,
                packets_received=received,
                interleaving=linux.interleaving(sock),
                paths=linux.paths(sock),
            )
        except OSError:
            return AssociationStatistics()
