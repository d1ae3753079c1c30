"""What sinks do alike that send each line in a datagram of its own.

A datagram that is too long for the socket will never go, so it is made shorter: at first its text is cut, then what was
added to it is left out, too. The line says so.
"""

from __future__ import annotations

import errno
import logging
import socket
from abc import abstractmethod
from collections import deque

from fcgi_core.plugin import FeedEntry

from .backlog import Part
from .lines import Lines, cost_of
from .sinks import Sink

__all__ = ["DatagramSink", "shorten"]

SHORT_NAME = 64
"""Characters of virtual host and request that a shortened line keeps."""
SHORT_TEXTS = (8 << 10, 2 << 10, 480)
"""Bytes of text of a line that is sent shorter: rsyslog's own limit, then what receivers should take and what they must
take by RFC 5426 section 3.2."""


def shorten(entry: FeedEntry) -> FeedEntry:
    """The entry without its fields, and what it says instead."""
    left_out = len(entry.fields or ())
    fields = {"cut": f"{left_out} fields"} if left_out else None
    return entry._replace(server_name=entry.server_name[:SHORT_NAME], request=entry.request[:SHORT_NAME], fields=fields)


class DatagramSink(Sink):
    """Lines in hand are entries; each goes as `format` makes it."""

    first_limit: int | None = None
    """Bytes of text that a line has at most, unless it must be shorter."""

    def __init__(self, name: str, log: logging.Logger, threshold: int) -> None:
        super().__init__(name, log, threshold)
        self._socket: socket.socket | None = None
        self._hand: deque[FeedEntry] = deque()

    @abstractmethod
    def format(self, entry: FeedEntry, limit: int | None) -> bytes:
        """The datagram of an entry, its text cut to `limit` bytes."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send a datagram; opens the socket if need be. OSError with EMSGSIZE if it is too long."""

    def prepare(self, part: Part) -> None:
        self._hand.extend(part if isinstance(part, Lines) else (part,))

    def push(self) -> None:
        while self._hand:
            entry = self._hand[0]
            try:
                self._send(entry)
            except OSError:
                raise
            except Exception as error:
                self.give_up(1, len(entry.message), error)
            self._hand.popleft()

    def _send(self, entry: FeedEntry) -> None:
        refused = self._refused_for_length(entry, self.first_limit)
        if refused is None:
            return
        short = shorten(entry)
        for limit in SHORT_TEXTS:
            refused = self._refused_for_length(short, limit)
            if refused is None:
                self.cut += 1
                return
        self.give_up(1, len(entry.message), refused)

    def _refused_for_length(self, entry: FeedEntry, limit: int | None) -> OSError | None:
        try:
            self.send(self.format(entry, limit))
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            return error
        return None

    def left(self) -> int:
        return sum(map(cost_of, self._hand)) if self._hand else 0

    def lines_left(self) -> int:
        return len(self._hand)

    def abandon(self) -> int:
        count = len(self._hand)
        self._hand.clear()
        return count

    def release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
