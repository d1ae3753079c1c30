"""How much SCTP may hold, as an experiment: other rules put into the carriers in the place of their own."""

from __future__ import annotations

import re

__all__ = ["use_queue"]


def target(rule: str, cwnd: int, limit: int) -> int:
    """Bytes, in flight and waiting, by a rule such as ``2 cwnd, 64 KiB`` (the second: at least), ``cwnd + 4 KiB``."""
    if rule == "buffer":
        return limit
    match = re.fullmatch(r"(?:([\d.]+) )?cwnd(?: \+ (\d+) KiB)?(?:, (\d+) KiB)?", rule)
    if match is None:
        raise ValueError(f"no rule for the queue: {rule!r}")
    factor, more, least = match.groups()
    wanted = int(float(factor or 1) * cwnd) + int(more or 0) * 1024
    return min(limit, max(wanted, int(least or 0) * 1024))


def use_queue(carrier: str, rule: str) -> None:
    """From now on associations of the carrier made in this process follow the rule."""
    if carrier == "userspace":
        _userspace(rule)
    else:
        _kernel(rule)


def _userspace(rule: str) -> None:
    from fcgi_core.sctp.carrier import URGENT_ROOM
    from fcgi_core.sctp.userspace.association import UserspaceAssociation

    def room_now(self) -> tuple[int, int]:
        known = self.statistics()
        wanted = target(rule, known.congestion_window or 0, self._carrier.options.send_buffer)
        return wanted - known.queued, max(1, wanted // 8)

    def room(self, urgent: bool = False) -> int:
        if self._handle < 0 or not self._up or self._closing:
            return 0
        self._room, useful = room_now(self)
        if self._room < useful:
            self._stack.waiting.add(self)
        return max(self._room + URGENT_ROOM if urgent else self._room, 0)

    def look_for_room(self) -> None:
        if self._handle < 0 or not self._up or self._closing or self._handler is None:
            return
        self._room, useful = room_now(self)
        if self._room >= useful:
            self._stack.waiting.discard(self)
            with self._stack.guarded(self):
                self._handler.writable()

    UserspaceAssociation.room = room  # type: ignore[method-assign]
    UserspaceAssociation.look_for_room = look_for_room  # type: ignore[method-assign]


def _kernel(rule: str) -> None:
    from fcgi_core.sctp.kernel import sockets as kernel_socket
    from fcgi_core.sctp.kernel.association import KernelAssociation

    def follow_path(self) -> None:
        if self._sock is not None:
            self._queue = target(rule, kernel_socket.status(self._sock).congestion_window, self._send_limit)
            self._set_buffer(self._queue)

    KernelAssociation._follow_path = follow_path  # type: ignore[method-assign]
