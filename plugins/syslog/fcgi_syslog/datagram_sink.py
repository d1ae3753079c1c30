"""The common part of sinks that send each line in a separate datagram.

A datagram that is too long for the socket is shortened: its fields are left out and its text is cut, and the line says
so.
"""

from __future__ import annotations

import errno
import logging
import socket
from abc import abstractmethod
from collections import deque
from typing import Any

from fcgi_core.plugin import FeedEntry

from .backlog import Part
from .lines import Lines, cost_of
from .sinks import RETRY_AFTER, Sink

__all__ = ["DatagramSink", "shorten"]

SHORT_NAME = 64
"""Characters of the virtual host and of the request in a shortened line."""
SHORT_TEXTS = (8 << 10, 2 << 10, 480)
"""Bytes of text of a shortened line, in this order: rsyslog's limit, then the sizes that a receiver should and must
accept (RFC 5426 section 3.2)."""


def shorten(entry: FeedEntry) -> FeedEntry:
    """Return the entry without its fields; a field `cut` says how many are gone."""
    left_out = len(entry.fields or ())
    fields = {"cut": f"{left_out} fields"} if left_out else None
    return entry._replace(server_name=entry.server_name[:SHORT_NAME], request=entry.request[:SHORT_NAME], fields=fields)


class DatagramSink(Sink):
    """The lines in hand are entries; `format` makes a datagram of each."""

    first_limit: int | None = None
    """Bytes of text that any line has at most; None for no limit."""

    def __init__(self, name: str, log: logging.Logger) -> None:
        super().__init__(name, log)
        self._socket: socket.socket | None = None
        self._hand: deque[FeedEntry] = deque()

    @abstractmethod
    def format(self, entry: FeedEntry, limit: int | None) -> bytes:
        """Return the datagram of an entry, its text cut to `limit` bytes."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send a datagram; opens the socket if it is closed. OSError with EMSGSIZE if the datagram is too long."""

    def connect(self, family: int, address: Any) -> socket.socket:
        """Open the socket that `send` uses, with an address of its family."""
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.settimeout(RETRY_AFTER)
        self._socket.connect(address)
        return self._socket

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
