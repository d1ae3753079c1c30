"""Joins a protocol connection to one association of a carrier and to a clock, and moves messages both ways.

It asks a loop only for `time`, `call_soon` and `call_at`, so it runs on asyncio and under a test's virtual clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ..common.loop import Handle, Loop
from ..errors import RemoteProtocolError
from ..protocol.connection import Connection
from ..protocol.events import ConnectionFailed, Event
from ..sctp.carrier import URGENT_ROOM, Association, Message
from .load_watch import LoadWatch

__all__ = ["Driver"]

C = TypeVar("C", bound=Connection)

BATCH = 12
"""Calls of `wake` in one turn of the loop after which messages go before its end: six or twelve short requests. Fewer
share too few packets and system calls; with more, one process works while the others wait for it."""


def _ignore(about: object) -> None:
    """Replaces a call-back that is not to be called any more."""


class Driver(Generic[C]):
    """Implements the carrier's `AssociationHandler` for one connection.

    `on_events(events)` is called with each batch, never empty; `on_down(reason)` once, at the end.
    """

    def __init__(
        self,
        connection: C,
        loop: Loop,
        *,
        on_events: Callable[[Sequence[Event]], None],
        on_down: Callable[[str], None],
    ) -> None:
        self.connection = connection
        self.association: Association | None = None
        self.watch: LoadWatch | None = None
        """It is called when content waits for SCTP; see `watch_load`."""
        self._loop = loop
        self._on_events = on_events
        self._on_down = on_down
        self._unsent: list[Message] = []
        self._unsent_urgent: list[Message] = []
        self._woken = 0
        """Calls of wake() in this turn of the loop."""
        self._ending = False
        self._resuming = False
        self._timer: Handle | None = None
        self._failure = ""

    # ---- the carrier's side

    def association_up(self, association: Association) -> None:
        """See `AssociationHandler.association_up`."""
        self.association = association
        if self._failure:  # it was aborted before it was up
            association.abort(self._failure)
            return
        try:
            self.connection.open(association.outgoing_streams, self._loop.time(), association.message_size)
        except RemoteProtocolError as error:
            self._failure = str(error)
            association.abort(self._failure)
            return
        self._set_timer()
        self.flush()

    def messages_received(self, messages: Sequence[Message]) -> None:
        """See `AssociationHandler.messages_received`."""
        self._deliver(self.connection.receive(messages, self._loop.time()))
        self.flush()
        if self._timer is None:
            self._set_timer()

    def writable(self) -> None:
        """See `AssociationHandler.writable`."""
        self.flush()

    def streams_changed(self) -> None:
        """See `AssociationHandler.streams_changed`."""
        if self.association is not None:
            self.connection.pool.grow(self.association.outgoing_streams)

    def association_down(self, reason: str) -> None:
        """See `AssociationHandler.association_down`."""
        self.association = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.watch is not None:
            self.watch.stop()
            self.watch = None
        on_down = self._on_down
        # the call-backs refer to the owner of this driver: without a cycle both are free as soon as nothing uses them
        self._on_events = self._on_down = _ignore
        try:
            on_down(self._failure or reason)
        finally:
            self._unsent.clear()
            self._unsent_urgent.clear()
            self.connection.close()

    # ---- the user's side

    def wake(self) -> None:
        """Send what was queued at the end of this turn of the loop, with what is queued until then; in a long turn in
        parts, so that the peer has work meanwhile."""
        self._woken += 1
        if self._woken == 1:
            self._loop.call_soon(self._flush_later)
        elif self._woken % BATCH == 0:
            self.flush()

    def watch_load(self, report: Callable[[int, int, float], None]) -> LoadWatch:
        """Report content that waits for the congestion window from now on; see `LoadWatch`."""
        self.watch = LoadWatch(self, self._loop, report)
        return self.watch

    def shutdown(self) -> None:
        """End the association gracefully, after what waits has been handed over."""
        self._ending = True
        self.flush()

    def abort(self, reason: str) -> None:
        """End the association now, or as soon as it is up, telling the peer why."""
        self._failure = reason
        self.connection.fail(reason)
        self.flush()
        if self.association is not None:
            self.association.abort(reason)

    def flush(self) -> None:
        """Hand over what SCTP has room for, and a little more of urgent messages and of short content that begins: its
        stream goes before those of long content that fill SCTP's queue."""
        association = self.association
        if association is None:
            return
        # Urgent messages do not wait until a good part of a window of bulk is acknowledged: SCTP sends them next. They
        # go in batches without bulk, so that bulk for which the carrier had no room never stands before them.
        if (self._unsent_urgent or self.connection.waiting(urgent=True)) and not self._hand_over(association, True):
            return
        if self._hand_over(association, False):
            if self._ending:
                self._ending = False
                association.shutdown()
        else:
            if not self._unsent:
                self._hand_over(association, True, True)
            if self.watch is not None:
                self.watch.blocked()
        connection = self.connection
        if connection.blocked and not self._resuming and connection.may_resume():
            self._resuming = True
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        if self.association is not None:
            self._deliver(self.connection.resume())
            self.flush()

    def _hand_over(self, association: Association, urgent: bool, begins: bool = False) -> bool:
        """Hand messages over while there is room; whether nothing is left. `begins`: short content that begins, in half
        of the room that urgent messages have."""
        unsent = self._unsent_urgent if urgent and not begins else self._unsent
        connection = self.connection
        pool = connection.pool
        kept = URGENT_ROOM // 2 if begins else 0
        while (room := association.room(urgent) - kept) > 0:
            # what an earlier take() gave and the carrier had no room for goes first
            batch = list(unsent) if unsent else connection.take(room, urgent, begins)
            if not batch:
                return True
            if pool.priorities:
                for stream, priority in pool.priorities:
                    association.set_priority(stream, priority)
                pool.priorities.clear()
            if pool.wanted:
                wanted, pool.wanted = pool.wanted, 0
                if not association.add_streams(wanted):
                    pool.grow(association.outgoing_streams)
            try:
                taken = association.send(batch, urgent)
            except ValueError as error:  # larger than the send buffer, for example
                unsent.clear()
                self.abort(f"a message cannot be sent: {error}")
                return False
            unsent.clear()
            unsent.extend(batch[taken:])
            if taken < len(batch):
                break
        return False

    def _flush_later(self) -> None:
        self._woken = 0
        self.flush()

    def _deliver(self, events: list[Event]) -> None:
        if not events:
            return
        self._on_events(events)
        last = events[-1]
        if isinstance(last, ConnectionFailed):
            self._failure = str(last.error)
            self.flush()
            if self.association is not None:
                self.association.abort(self._failure)

    def _set_timer(self) -> None:
        due = self.connection.timer()
        if due is not None and self.association is not None:
            self._timer = self._loop.call_at(due, self._timer_due)

    def _timer_due(self) -> None:
        self._timer = None
        self._deliver(self.connection.handle_timer(self._loop.time()))
        self.flush()
        self._set_timer()
