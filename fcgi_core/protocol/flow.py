"""Credit: how much of one request's body may be on its way, so that a slow reader stops only its own request.

SCTP has one receive window for a whole association, so receivers always drain it, and each request has a window: STDIN
and DATA in one direction, STDOUT in the other. A receiver announces the absolute offset up to which it accepts content,
as QUIC does (RFC 9000 section 4.1), so a CREDIT that arrives late or twice does no harm. Headers do not count.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DEFAULT_WINDOW", "MAX_AHEAD", "SendWindow", "ReceiveWindow"]

DEFAULT_WINDOW = 256 * 1024
"""Initial window of each request and direction, bytes. HTTP/2 starts with 64 KiB (RFC 9113 section 6.9.2), which
costs round trips on a LAN already; browsers raise theirs to megabytes. A reader that stopped costs as much memory."""

MAX_AHEAD: Final = 1 << 20
"""Bytes of one request's body that wait to be handed to SCTP, whatever the peer's window and CREDIT allow: for a peer
that announces a window of a terabyte, a whole answer would be held. SCTP's buffer has as much."""


class SendWindow:
    """The sender's view of a window."""

    __slots__ = ("limit", "sent")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sent = 0

    @property
    def available(self) -> int:
        """Bytes that may be sent now."""
        return self.limit - self.sent

    def grant(self, limit: int) -> bool:
        """Note an announced offset; True if it allows more than before."""
        if limit <= self.limit:
            return False
        self.limit = limit
        return True


class ReceiveWindow:
    """The receiver's view of a window."""

    __slots__ = ("consumed", "limit", "received", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.limit = size
        self.received = 0
        self.consumed = 0

    def receive(self, count: int) -> bool:
        """Count bytes that arrived; False if they go beyond the limit."""
        self.received += count
        return self.received <= self.limit

    def consume(self, count: int) -> int | None:
        """Count bytes that were passed on; the new offset to announce, None while half the window is still open."""
        self.consumed += count
        limit = self.consumed + self.size
        if limit - self.limit < self.size // 2:
            return None
        self.limit = limit
        return limit
