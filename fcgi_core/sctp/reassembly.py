"""Messages that arrive in parts: SCTP delivers long messages so, and with I-DATA parts of several alternate."""

from __future__ import annotations

__all__ = ["MAX_PARTIAL", "Reassembly"]

MAX_PARTIAL = 4 << 20
"""Bytes of unfinished messages on one association: 256 times the protocol's largest message, whose sender interleaves a
few. A carrier aborts the association beyond it."""


class Reassembly:
    """The unfinished messages of one association.

    A message is known by its stream, whether it is unordered, and its number in the stream, where the stack tells it.
    """

    def __init__(self) -> None:
        self.begun: dict[tuple[int, bool, int], bytearray] = {}
        self._size = 0

    def add(self, stream: int, unordered: bool, number: int, data: bytes) -> bool:
        """Keep a part that is not the last; False if the parts kept are now more than MAX_PARTIAL bytes."""
        self.begun.setdefault((stream, unordered, number), bytearray()).extend(data)
        self._size += len(data)
        return self._size <= MAX_PARTIAL

    def finish(self, stream: int, unordered: bool, number: int, data: bytes) -> bytes:
        """The whole message that ends with `data`."""
        begun = self.begun.pop((stream, unordered, number), None)
        if begun is None:
            return data
        self._size -= len(begun)
        return bytes(begun + data)

    def drop(self, stream: int, number: int) -> None:
        """Forget a message whose rest will not come: its lifetime is over (RFC 3758)."""
        for unordered in (False, True):
            self._size -= len(self.begun.pop((stream, unordered, number), b""))
