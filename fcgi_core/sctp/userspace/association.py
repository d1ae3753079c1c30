"""An association of the userspace carrier: what the library received becomes messages and events, and back."""

from __future__ import annotations

import asyncio
import socket
from array import array
from collections.abc import Sequence
from struct import iter_unpack
from typing import TYPE_CHECKING, Any

from ..carrier import MAX_PARTIAL, URGENT_ROOM, AssociationHandler, AssociationStatistics, Message
from ..silence import Watch
from .stack import ARENA, RECORDS, Endpoint, ffi, lib

if TYPE_CHECKING:
    from .carrier import UserspaceCarrier

__all__ = ["UserspaceAssociation"]

MESSAGE_OVERHEAD = 128
"""Bytes that a queued message costs beside its payload, as usrsctp_carrier.c counts."""
LONG = 4096
"""Bytes of a message from which on it is given to the library by itself; shorter ones are put together first."""
WATCH_INTERVAL = 0.4
"""Seconds between looks whether somebody still has the peer's UDP port: an empty datagram each."""
WATCH_REFUSALS = 2
"""Looks in a row that must be refused before the peer is taken for gone."""
REASON = 400
"""Bytes of an abort's reason that go to the peer; more would not fit one packet with safety."""

# struct carrier_record and enum carrier_kind of usrsctp_carrier.h
_RECORD = "=IIIIII"
_RECORD_SIZE = 24
_UNORDERED, _PART, _PART_UNORDERED, _PART_LOST, _UP, _STREAMS, _DOWN, _LOST, _PATH, _RESTART = range(1, 11)
_PATH_STATES = {0x0001: "active", 0x0002: "inactive", 0x0200: "unconfirmed"}
_CAUSES = {  # RFC 9260 section 3.3.10
    1: "invalid stream",
    2: "missing parameter",
    3: "stale cookie",
    4: "out of resource",
    5: "unresolvable address",
    7: "invalid parameter",
    8: "unknown parameter",
    9: "no user data",
    11: "restart with new addresses",
}


class UserspaceAssociation:
    """See :class:`fcgi_core.sctp.carrier.Association`."""

    def __init__(self, carrier: UserspaceCarrier, endpoint: Endpoint, handle: int, peer: str) -> None:
        self._carrier = carrier
        self._stack = carrier.stack
        self._endpoint = endpoint
        self._handle = handle  # -1: down
        self._peer = peer
        self._handler: AssociationHandler | None = None  # None until it is accepted
        self._up = False
        self._closing = False
        self._interleaving = False
        self._streams = (0, 0)
        self._room: int | None = None  # what is known of it since the last packet or tick
        self._partial: dict[tuple[int, int, int], bytearray] = {}
        self._partial_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._name: tuple[Any, ...] = ()
        self._accepted = False
        self._probe: socket.socket | None = None
        self._quiet_at: int | None = None
        """How many packets had come when the peer fell silent."""
        self._silence: Watch | None = None
        self._useful = ffi.new("uint32_t *")
        endpoint.users += 1
        self._stack.associations[handle] = self
        self._stack.run_timer()

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def outgoing_streams(self) -> int:
        return self._streams[0]

    @property
    def incoming_streams(self) -> int:
        return self._streams[1]

    # -- opening

    def begin_connect(self, handler: AssociationHandler, name: tuple[Any, ...], timeout: float) -> None:
        """`name` is the peer's UDP address, as sockets have it."""
        self._handler = handler
        self._name = name
        self._deadline = self._stack.loop.call_later(timeout, self._give_up, timeout)
        self._stack.connecting.add(self)
        self._open_probe()
        self._stack.soon()

    def begin_accept(self, handler: AssociationHandler, name: tuple[Any, ...]) -> None:
        self._handler = handler
        self._name = name
        self._accepted = True

    def _open_probe(self) -> None:
        """Ask the peer's host whether a process has the UDP port, by an empty datagram from a connected socket: if none
        has, this one learns it from ICMP. (The carrier's own socket is not connected, and an error waiting on it would
        upset uvloop.)"""
        try:
            family = socket.AF_INET6 if len(self._name) == 4 else socket.AF_INET
            self._probe = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._probe.connect(self._name)
            self._probe.send(b"")
        except OSError:
            pass  # packets of the association, or that none come, will tell

    def _close_probe(self) -> None:
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def refuse(self) -> None:
        """The listener's user wants none of it, and will not hear of it."""
        if self._handle >= 0:
            lib.carrier_abort(self._handle, b"not wanted", 10)
            self._release()

    def look_for_refusal(self) -> None:
        """While connecting: one refusal is enough."""
        if self._refused():
            self._end(f"{self._peer} refused the association: nothing listens on that UDP port.")

    def _refused(self) -> bool:
        if self._probe is not None:
            try:
                self._probe.recv(1)
            except ConnectionRefusedError:
                return True
            except OSError:
                pass  # nothing has come
        return False

    def _watch(self, refusals: int = 0) -> None:
        """While up: ask the peer's host whether a process still has the UDP port. A process that was killed says
        nothing, and SCTP's own retransmissions take many seconds to tell. Twice in a row, so that one forged ICMP
        message ends nothing.

        The side that connected asks all the time, the other one only while nothing comes: a firewall before the peer
        may refuse what does not come from the port that the peer speaks to.
        """
        self._deadline = None
        refusals = refusals + 1 if self._refused() else 0
        if refusals >= WATCH_REFUSALS:
            self._end(f"{self._peer} is gone: nothing listens on that UDP port any more.")
            return
        if self._accepted and self._packets_received() != self._quiet_at:
            self._close_probe()
            return
        try:
            if self._probe is not None:
                self._probe.send(b"")
        except OSError:
            pass  # a refusal may be reported here too; the next look counts it, or heartbeats tell in time
        self._deadline = self._stack.loop.call_later(WATCH_INTERVAL, self._watch, refusals)

    def _quiet(self) -> None:
        """Nothing has come for a while, though heartbeats should be answered."""
        if self._probe is None:
            self._quiet_at = self._packets_received()
            self._open_probe()
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = self._stack.loop.call_later(WATCH_INTERVAL, self._watch)

    def _packets_received(self) -> int | None:
        return self.statistics().packets_received

    def _silent(self) -> None:
        lib.carrier_abort(self._handle, b"silence", 7)
        self._end(f"{self._peer} does not answer any more: not a packet in {self._carrier.options.dead_after:g} s.")

    def _give_up(self, timeout: float) -> None:
        self._end(f"{self._peer} did not answer within {timeout:g} s.")

    def _connecting_is_over(self) -> None:
        self._stack.connecting.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_watching(self) -> None:
        self._connecting_is_over()
        if self._silence is not None:
            self._silence.stop()
        self._close_probe()

    # -- sending

    def room(self, urgent: bool = False) -> int:
        if self._handle < 0 or not self._up or self._closing:
            return 0
        if self._room is None:
            self._room = lib.carrier_room(self._handle, URGENT_ROOM, self._useful)
        if self._room < self._useful[0]:
            self._stack.waiting.add(self)
        return max(self._room + URGENT_ROOM if urgent else self._room, 0)

    def send(self, messages: Sequence[Message], urgent: bool = False) -> int:
        room = self.room(urgent)
        streams = self._streams[0]
        largest = self._carrier.options.send_buffer
        groups: list[tuple[array[int], list[bytes]]] = []
        long = True
        wanted = 0
        for message in messages:
            length = len(message.data)
            if not 0 < length <= largest:
                raise ValueError(f"a message has 1 to {largest} bytes, this one {length}")
            if room <= 0:
                break
            if not 0 <= message.stream < streams:
                raise ValueError(f"there is no stream {message.stream}: the association has {streams}")
            lifetime = message.lifetime
            limit = 0 if lifetime is None else max(1, min(int(lifetime * 1000), 0xFFFFFFFF))
            if long or length >= LONG:
                groups.append((array("I"), []))
            long = length >= LONG
            heads, payloads = groups[-1]
            heads.extend((length, message.stream, message.ppid, message.unordered, limit))
            payloads.append(message.data)
            room -= length + MESSAGE_OVERHEAD
            wanted += 1
        if not wanted:
            return 0
        taken = 0
        for heads, payloads in groups:
            data = payloads[0] if len(payloads) == 1 else b"".join(payloads)
            count: int = lib.carrier_send(
                self._handle, data, len(data), ffi.from_buffer("struct carrier_outgoing[]", heads), len(payloads)
            )
            taken += max(count, 0)  # below 0 it is going down; association_down follows
            if count < len(payloads):
                break
        if taken < wanted:
            self._room = -URGENT_ROOM  # the library is full, until a packet or a tick
        else:
            self._room = room - URGENT_ROOM if urgent else room
        if taken < len(messages):
            self._stack.waiting.add(self)
        self._stack.sent()
        return taken

    def look_for_room(self) -> None:
        """Tell the handler if there is room worth telling."""
        if self._handle < 0 or not self._up or self._closing or self._handler is None:
            return
        self._room = lib.carrier_room(self._handle, URGENT_ROOM, self._useful)
        if self._room >= self._useful[0]:
            self._stack.waiting.discard(self)
            with self._stack.guarded(self):
                self._handler.writable()

    # -- receiving

    def receive(self) -> None:
        """Take one batch from the library and hand it on."""
        self._room = None
        stack = self._stack
        count = lib.carrier_receive(self._handle, stack.arena, ARENA, stack.records, RECORDS)
        if count > 0:
            messages: list[Message] = []
            append = messages.append
            data = stack.data
            with stack.guarded(self):
                # the records are copied: a handler may cause another batch to be read over them
                records = bytes(stack.record_bytes[: count * _RECORD_SIZE])
                events = []
                for record in iter_unpack(_RECORD, records):
                    offset, length, kind, stream, ppid, key = record
                    if kind <= _UNORDERED and not self._partial:
                        append(Message(stream, data[offset : offset + length], ppid, kind == 1))
                    elif kind <= _PART_LOST:
                        whole = self._assemble(kind, stream, key, data[offset : offset + length])
                        if whole is not None:
                            append(Message(stream, whole, ppid, bool(kind & 1)))
                    else:
                        events.append((len(messages), kind, stream, ppid, key, data[offset : offset + length]))
                self._hand_on(messages, events)
        if self in stack.waiting:
            self.look_for_room()

    def _hand_on(self, messages: list[Message], events: list[tuple[int, int, int, int, int, bytes]]) -> None:
        """Messages and events in the order in which they came."""
        handler = self._handler
        if handler is None:
            return
        done = 0
        for at, kind, outgoing, incoming, key, data in events:
            if at > done and self._handle >= 0:
                handler.messages_received(messages[done:at])
            done = at
            if self._handle < 0:
                return
            self._event(handler, kind, outgoing, incoming, key, data)
        if done < len(messages) and self._handle >= 0:
            handler.messages_received(messages[done:] if done else messages)

    def _assemble(self, kind: int, stream: int, key: int, data: bytes) -> bytes | None:
        """Add a piece of a message; the whole of it if that was the last piece."""
        name = (stream, kind & 1, key)
        if kind == _PART_LOST:
            for unordered in (0, 1):
                self._partial_bytes -= len(self._partial.pop((stream, unordered, key), b""))
            return None
        begun = self._partial.get(name)
        if kind <= _UNORDERED:
            if begun is None:
                return data
            del self._partial[name]
            self._partial_bytes -= len(begun)
            return bytes(begun + data)
        if begun is None:
            begun = self._partial[name] = bytearray()
        begun += data
        self._partial_bytes += len(data)
        if self._partial_bytes > MAX_PARTIAL:
            self.abort(f"more than {MAX_PARTIAL} bytes of unfinished messages")
        return None

    def _event(
        self, handler: AssociationHandler, kind: int, outgoing: int, incoming: int, key: int, data: bytes
    ) -> None:
        if kind == _UP:
            self._connecting_is_over()
            self._up = True
            if self._probe is not None:
                self._watch()
            self._silence = Watch(
                self._stack.loop,
                self._carrier.options.dead_after,
                self._packets_received,
                self._silent,
                self._quiet,
            )
            self._interleaving = bool(key)
            self._streams = (outgoing, incoming)
            handler.association_up(self)
        elif kind == _STREAMS:
            status = ffi.new("struct carrier_status *")
            if lib.carrier_get_status(self._handle, status) == 0:
                self._streams = (status.outgoing_streams, status.incoming_streams)
            handler.streams_changed()
        elif kind == _DOWN:
            self._end("" if self._up else f"{self._peer} closed the association before it was up.")
        elif kind == _LOST:
            self._end(_loss(self._peer, self._up, incoming, data))
        elif kind == _RESTART:
            self._end(f"{self._peer} has started anew.")
        # _PATH: there is one path; statistics() tells its state

    # -- control

    def set_priority(self, stream: int, priority: int) -> None:
        if self._handle >= 0:
            lib.carrier_set_priority(self._handle, stream, priority)

    def add_streams(self, count: int) -> bool:
        if self._handle < 0 or not self._up or not 0 < count <= 65535 - self._streams[0]:
            return False
        asked: bool = lib.carrier_add_streams(self._handle, count) == 0
        self._stack.soon()
        return asked

    def shutdown(self) -> None:
        if self._handle < 0 or self._closing:
            return
        self._closing = True
        if not self._up or lib.carrier_shutdown(self._handle) < 0:
            self._release()
            self._stack.loop.call_soon(self._tell_down, "")
        self._stack.soon()

    def abort(self, reason: str = "") -> None:
        if self._handle < 0:
            return
        text = reason.encode()[:REASON]
        lib.carrier_abort(self._handle, text, len(text))
        self._release()
        self._stack.loop.call_soon(self._tell_down, f"Aborted by this side: {reason or 'no reason given'}.")
        self._stack.soon()

    def statistics(self) -> AssociationStatistics:
        status = ffi.new("struct carrier_status *")
        if self._handle < 0 or lib.carrier_get_status(self._handle, status) < 0:
            return AssociationStatistics()
        return AssociationStatistics(
            round_trip=status.srtt_ms / 1000,
            retransmission_timeout=status.rto_ms / 1000,
            congestion_window=status.cwnd,
            peer_receive_window=status.peer_window,
            unacknowledged=status.unacknowledged,
            queued=status.queued,
            packets_sent=status.packets_sent,
            packets_received=status.packets_received,
            interleaving=self._interleaving,
            paths=((self._peer, _PATH_STATES.get(status.path_state, "inactive")),),
        )

    # -- ending

    def _end(self, reason: str) -> None:
        """Down by the network's doing; never from inside a call of the user's."""
        if self._handle >= 0:
            self._release()
            self._tell_down(reason)
            self._stack.soon()

    def _tell_down(self, reason: str) -> None:
        handler, self._handler = self._handler, None
        if handler is not None and not self._carrier.closed:
            with self._stack.guarded(self):
                handler.association_down(reason)

    def _release(self) -> None:
        self._stop_watching()
        handle, self._handle = self._handle, -1
        self._stack.waiting.discard(self)
        del self._stack.associations[handle]
        self._carrier.associations.discard(self)
        self._partial.clear()
        lib.carrier_release(handle)
        self._endpoint.release()


def _loss(peer: str, up: bool, code: int, chunk: bytes) -> str:
    """Why an association was lost, as a sentence: from the socket's error and the ABORT chunk, if there is one."""
    cause = ""
    if len(chunk) >= 8:  # chunk header, then the first cause: code, length, information
        number, length = int.from_bytes(chunk[4:6]), int.from_bytes(chunk[6:8])
        text = chunk[8 : 4 + length].rstrip(b"\0").decode("utf-8", "replace") if number in (12, 13) else ""
        # the peer's text goes to logs and terminals: no control characters
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        cause = text or _CAUSES.get(number, "")
    why = f": {cause}" if cause else ""
    if code == 111 or (code == 104 and not up):  # ECONNREFUSED, ECONNRESET
        return f"{peer} refused the association{why}."
    if code == 104:
        return f"{peer} aborted the association{why}."
    if code == 110 or not up:  # ETIMEDOUT
        return f"{peer} did not answer."
    return f"{peer} does not answer any more{why}."
