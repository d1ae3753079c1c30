"""STDERR that comes before the response's head.

nginx reads the head into one buffer, and STDERR before it into the same: what does not fit ends in a 502. Only that
STDERR is seen by fastcgi_catch_stderr. So as much of it goes first as leaves room for the head, the rest after it.
"""

from __future__ import annotations

from ..protocol.records import HEADER_SIZE

__all__ = ["MAX_HEAD_BUFFER", "RECORD_COST", "EarlyStderr"]

MAX_HELD_STDERR = 32 * 1024
"""Bytes of STDERR held until the response's head comes; nginx logs 2 KiB of it. The plugins have it all."""
RECORD_COST = 128
"""Bytes of memory that a piece of input or STDERR takes in addition to its content."""
MAX_HEAD_BUFFER = 4096 - 256
"""Bytes that the response's head and the STDERR before it may have together: nginx reads them into one page
(fastcgi_buffer_size), and stalls if the head ends just where that does."""


class EarlyStderr:
    """Holds the STDERR of one request until the response's head comes."""

    __slots__ = ("_size", "texts")

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self._size = 0
        """Bytes of memory; texts that were refused count, so that no later one goes in front of them."""

    def add(self, text: bytes) -> bool:
        """Hold a text; False if there is no room for it."""
        self._size += len(text) + RECORD_COST
        if self._size > MAX_HELD_STDERR:
            return False
        self.texts.append(text)
        return True

    def split(self, head: int) -> tuple[list[bytes], list[bytes]]:
        """The texts, each for a record, that leave room for a head of `head` bytes, and those for after the head."""
        room = MAX_HEAD_BUFFER - HEADER_SIZE - head
        for position, text in enumerate(self.texts):
            room -= HEADER_SIZE
            if room < len(text):
                before, after = self.texts[:position], self.texts[position:]
                if room > 0:
                    before.append(text[:room])
                    after[0] = text[room:]
                return before, after
            room -= len(text)
        return self.texts, []
