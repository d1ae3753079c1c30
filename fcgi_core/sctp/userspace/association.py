"""An association of the userspace carrier: messages and events from the library, and messages to it."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from errno import ECONNREFUSED, ECONNRESET, ETIMEDOUT
from struct import iter_unpack
from typing import Any, Protocol

from .. import end_reasons
from ..carrier import MESSAGE_SIZE, URGENT_ROOM, AssociationHandler, CarrierOptions, Message, message_size
from ..reassembly import MAX_PARTIAL, Reassembly
from ..silence import Watch
from ..statistics import AssociationStatistics
from .port_probe import PortProbe, PortWatch
from .stack import ARENA, RECORDS, Endpoint, Stack, ffi, lib

__all__ = ["UserspaceAssociation"]

MESSAGE_OVERHEAD = 128
"""Bytes that a queued message costs in addition to its payload, as usrsctp_carrier.c counts."""
LONG = 4096
"""Bytes; the library gets longer messages one by one, and shorter ones joined."""
ANSWERS_WITHIN = 0.4
"""Seconds from a heartbeat to a look at the peer's UDP port, if nothing has come."""
REASON = 400
"""Bytes of an abort's reason that go to the peer; more might not fit one packet."""

# struct carrier_record and enum carrier_kind of usrsctp_carrier.h
_RECORD = "=IIIIII"
_RECORD_SIZE = 24
_UNORDERED, _PART, _PART_UNORDERED, _PART_LOST, _UP, _STREAMS, _DOWN, _LOST, _PATH, _RESTART = range(1, 11)
_PATH_STATES = {0x0001: "active", 0x0002: "inactive", 0x0200: "unconfirmed"}


class Owner(Protocol):
    """The carrier, as its associations see it."""

    options: CarrierOptions
    stack: Stack
    associations: set[UserspaceAssociation]
    closed: bool


class UserspaceAssociation:
    """See :class:`fcgi_core.sctp.carrier.Association`."""

    def __init__(self, carrier: Owner, endpoint: Endpoint, handle: int, peer: str) -> None:
        self._carrier = carrier
        self._stack = carrier.stack
        self._endpoint = endpoint
        self._handle = handle  # -1: down
        self.peer = peer
        self.outgoing_streams = 0
        self.incoming_streams = 0
        self.message_size = MESSAGE_SIZE
        self._handler: AssociationHandler | None = None  # None until it is accepted
        self._up = False
        self._closing = False
        self._interleaving = False
        self._room: int | None = None  # None: not known since the last packet or tick
        self._reassembly = Reassembly()
        self._timer: asyncio.TimerHandle | None = None  # until it must be up, then until a heartbeat must be answered
        self._name: tuple[Any, ...] = ()
        self._accepted = False
        self._probe: PortProbe | None = None  # while it connects
        self._port: PortWatch | None = None
        self._quiet_at: int | None = None  # how many packets had come when the peer fell silent
        self._silence: Watch | None = None
        self._useful = ffi.new("uint32_t *")
        endpoint.users += 1
        carrier.associations.add(self)
        self._stack.associations[handle] = self
        self._stack.run_timer()

    # -- opening

    def begin_connect(self, handler: AssociationHandler, name: tuple[Any, ...], timeout: float) -> None:
        """`name` is the peer's UDP address, as sockets have it."""
        self._handler = handler
        self._name = name
        self._timer = self._stack.loop.call_later(timeout, self._end, end_reasons.no_answer(self.peer, timeout))
        self._stack.connecting.add(self)
        self._probe = PortProbe(name)
        self._stack.soon()

    def begin_accept(self, handler: AssociationHandler, name: tuple[Any, ...]) -> None:
        self._handler = handler
        self._name = name
        self._accepted = True

    def refuse(self) -> None:
        """Abort an association for which the listener's user gave no handler."""
        if self._handle >= 0:
            lib.carrier_abort(self._handle, b"not wanted", 10)
            self._release()

    # -- looking whether the peer is still there

    def look_for_refusal(self) -> None:
        """Give up connecting if no process has the peer's UDP port; one refusal is enough."""
        if self._probe is not None and self._probe.refused():
            self._end(end_reasons.refused(self.peer, "nothing listens on that UDP port"))

    def _watch(self) -> None:
        """While up, watch the peer's UDP port: SCTP's own retransmissions take many seconds to notice a process that
        was killed.

        The side that connected does so all the time, the other one only while nothing comes: a firewall in front of the
        peer may refuse datagrams that do not come from the port that the peer speaks to.
        """
        if self._port is None:
            self._port = self._stack.ports.watch(self._name, self)

    def _quiet(self) -> None:
        """Send a heartbeat: nothing has come since the last look. The library sends none by itself, which would be far
        more at rest: one that either side sends is a sign of life to both."""
        lib.carrier_ask(self._handle)
        self._stack.soon()  # with those of all associations that look now
        if self._port is None and self._timer is None:
            self._quiet_at = self._packets_received()
            self._timer = self._stack.loop.call_later(ANSWERS_WITHIN, self._unanswered)

    def _unanswered(self) -> None:
        self._timer = None
        if self._packets_received() == self._quiet_at:
            self._watch()

    def port_looked_at(self, gone: bool) -> None:
        if gone:
            self._end(f"{self.peer} is gone: nothing listens on that UDP port any more")
        elif self._accepted and self._packets_received() != self._quiet_at:
            self._watch_no_more()

    def _watch_no_more(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.discard(self)

    def _packets_received(self) -> int:
        count: int = lib.carrier_packets_received(self._handle)
        return count

    def _silent(self) -> None:
        lib.carrier_abort(self._handle, b"silence", 7)
        self._end(end_reasons.silent(self.peer, self._carrier.options.dead_after))

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
        streams = self.outgoing_streams
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
            taken += max(count, 0)  # below 0 the association is ending; association_down follows
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
        """Call the handler if there is room worth a call."""
        if self._handle < 0 or not self._up or self._closing or self._handler is None:
            return
        self._room = lib.carrier_room(self._handle, URGENT_ROOM, self._useful)
        if self._room >= self._useful[0]:
            self._stack.waiting.discard(self)
            with self._stack.guarded(self):
                self._handler.writable()

    # -- receiving

    def receive(self) -> None:
        """Read one batch from the library and hand it to the handler."""
        self._room = None
        stack = self._stack
        count = lib.carrier_receive(self._handle, stack.arena, ARENA, stack.records, RECORDS)
        if count > 0:
            messages: list[Message] = []
            append = messages.append
            data = stack.data
            parts = self._reassembly
            with stack.guarded(self):
                # a copy of the records: a handler may cause another batch to be read over them
                records = bytes(stack.record_bytes[: count * _RECORD_SIZE])
                events = []
                for record in iter_unpack(_RECORD, records):
                    offset, length, kind, stream, ppid, key = record
                    if kind <= _UNORDERED and not parts.begun:
                        append(Message(stream, data[offset : offset + length], ppid, kind == 1))
                    elif kind <= _UNORDERED:
                        whole = parts.finish(stream, kind == 1, key, data[offset : offset + length])
                        append(Message(stream, whole, ppid, kind == 1))
                    elif kind == _PART_LOST:
                        parts.drop(stream, key)
                    elif kind <= _PART_UNORDERED:
                        if not parts.add(stream, kind == _PART_UNORDERED, key, data[offset : offset + length]):
                            self.abort(f"more than {MAX_PARTIAL} bytes of unfinished messages")
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

    def _event(
        self, handler: AssociationHandler, kind: int, outgoing: int, incoming: int, key: int, data: bytes
    ) -> None:
        if kind == _UP:
            self._connecting_over()
            self._up = True
            if not self._accepted:
                self._watch()
            dead_after = self._carrier.options.dead_after
            self._silence = Watch(self._stack.loop, dead_after, self._packets_received, self._silent, self._quiet)
            self._interleaving = bool(key)
            self.outgoing_streams, self.incoming_streams = outgoing, incoming
            self.message_size = message_size(self._interleaving, lib.carrier_unfragmented(self._handle))
            handler.association_up(self)
        elif kind == _STREAMS:
            status = ffi.new("struct carrier_status *")
            if lib.carrier_get_status(self._handle, status) == 0:
                self.outgoing_streams, self.incoming_streams = status.outgoing_streams, status.incoming_streams
            handler.streams_changed()
        elif kind == _DOWN:
            self._end("" if self._up else f"{self.peer} closed the association before it was up")
        elif kind == _LOST:
            self._end(_loss(self.peer, self._up, incoming, data))
        elif kind == _RESTART:
            self._end(f"{self.peer} restarted")
        # _PATH: there is one path; statistics() tells its state

    # -- control

    def set_priority(self, stream: int, priority: int) -> None:
        if self._handle >= 0:
            lib.carrier_set_priority(self._handle, stream, priority)

    def add_streams(self, count: int) -> bool:
        if self._handle < 0 or not self._up or not 0 < count <= 65535 - self.outgoing_streams:
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
        self._stack.loop.call_soon(self._tell_down, end_reasons.aborted_here(reason))
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
            paths=((self.peer, _PATH_STATES.get(status.path_state, "inactive")),),
        )

    # -- ending

    def _end(self, reason: str) -> None:
        """End, and tell the handler at once: only from the loop, never from inside a call of the user's."""
        if self._handle >= 0:
            self._release()
            self._tell_down(reason)
            self._stack.soon()

    def _tell_down(self, reason: str) -> None:
        handler, self._handler = self._handler, None
        if handler is not None and not self._carrier.closed:
            with self._stack.guarded(self):
                handler.association_down(reason)

    def _connecting_over(self) -> None:
        """End what lasts until it is up."""
        self._stack.connecting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def _release(self) -> None:
        self._connecting_over()
        self._watch_no_more()
        if self._silence is not None:
            self._silence.stop()
        handle, self._handle = self._handle, -1
        self._stack.waiting.discard(self)
        del self._stack.associations[handle]
        self._carrier.associations.discard(self)
        lib.carrier_release(handle)
        self._endpoint.release()


def _loss(peer: str, up: bool, code: int, chunk: bytes) -> str:
    """Why an association was lost, from the socket's error and the ABORT chunk, if there is one."""
    cause = end_reasons.abort_cause(chunk[4:])
    if code == ECONNREFUSED or (code == ECONNRESET and not up):
        return end_reasons.refused(peer, cause)
    if code == ECONNRESET:
        return end_reasons.aborted(peer, cause)
    if code == ETIMEDOUT or not up:
        return f"{peer} did not answer"
    return f"{peer} does not answer any more" + (f": {cause}" if cause else "")
